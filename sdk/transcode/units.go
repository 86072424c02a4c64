package transcode

import (
	"math"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// clock turns samples since an anchor into time and back. Times are computed from
// the count and rounded once; rounded durations are never added up.
type clock struct{ anchor time.Duration }

// at returns the time of sample n. 48 kHz: a sample is 62500/3 ns.
func (c clock) at(n int64) time.Duration { return c.anchor + samplesToTime(n) }

// sample returns the sample nearest to t.
func (c clock) sample(t time.Duration) int64 { return timeToSamples(t - c.anchor) }

func samplesToTime(n int64) time.Duration { return time.Duration(roundDiv(n*62500, 3)) }
func timeToSamples(d time.Duration) int64 { return roundDiv(int64(d)*3, 62500) }

// roundDiv returns a/b to the nearest; b > 0.
func roundDiv(a, b int64) int64 {
	if a < 0 {
		return -((-a + b/2) / b)
	}
	return (a + b/2) / b
}

// unitWriter gathers samples into frames, has them encoded, and stamps the units.
type unitWriter struct {
	guard  *guard
	config []byte
	delay  int // samples
	lag    int // the delay in frames, rounded up

	clock clock
	pos   int64       // samples taken since the anchor
	frame [][]float32 // planar; pos%frameSamples of them are filled

	last [channels]float32 // the last sample taken
	hold [channels]float32 // the sample from which a crossfade goes on
	fade int               // samples left of the crossfade

	// inFlight describes the frames whose unit is still to come, oldest first.
	inFlight []frameInfo
	returned int // units that the encoder returned

	jump    bool // the next frame is not the continuation of the one before
	written bool
	lastPTS time.Duration
	seq     uint32
	late    int // units left out because time would not have risen

	// Set while a unit is being transformed:
	cause *media.AccessUnit
	emit  func(*media.AccessUnit)
}

type frameInfo struct {
	pts      time.Duration
	captured time.Time
	jump     bool
}

// fadeSamples is 10 ms: long enough for a join not to click.
const fadeSamples = sampleRateHz / 100

// newUnitWriter writes units of one or two channels; mono is the mean of both.
func newUnitWriter(enc AACEncoder, outChannels int) (*unitWriter, error) {
	g, err := newGuard(enc, outChannels)
	if err != nil {
		return nil, err
	}
	delay := enc.Delay()
	return &unitWriter{
		guard: g, config: enc.Config(), delay: delay, lag: (delay + frameSamples - 1) / frameSamples,
		frame: planes(outChannels),
	}, nil
}

// restart begins a new count of samples at anchor. What fills no frame yet is
// filled up with silence.
func (w *unitWriter) restart(anchor time.Duration) error {
	if rest := int(w.pos % frameSamples); rest > 0 {
		if err := w.silence(frameSamples - rest); err != nil {
			return err
		}
	}
	w.jump = w.pos > 0
	w.clock, w.pos = clock{anchor}, 0
	return nil
}

// join makes what comes next fade in from the last sample.
func (w *unitWriter) join() { w.hold, w.fade = w.last, fadeSamples }

// silence takes n samples of silence, into which the sound before fades.
func (w *unitWriter) silence(n int) error {
	w.join()
	var zeros [2 * 480 * channels]float32
	for n > 0 {
		part := min(n, len(zeros)/channels)
		if err := w.take(zeros[:channels*part]); err != nil {
			return err
		}
		n -= part
	}
	w.join()
	return nil
}

// take appends interleaved samples; they come in whole pairs.
func (w *unitWriter) take(pcm []float32) error {
	for len(pcm) > 0 {
		fill := int(w.pos % frameSamples)
		n := min(len(pcm)/channels, frameSamples-fill)
		if len(w.frame) == 1 {
			for i := range n {
				w.frame[0][fill+i] = (clean(pcm[channels*i]) + clean(pcm[channels*i+1])) / 2
			}
		} else {
			for ch, plane := range w.frame {
				for i := range n {
					plane[fill+i] = clean(pcm[channels*i+ch])
				}
			}
		}
		w.crossfade(fill, n)
		for ch, plane := range w.frame {
			w.last[ch] = plane[fill+n-1]
		}
		pcm = pcm[channels*n:]
		w.pos += int64(n)
		if w.pos%frameSamples == 0 {
			if err := w.encode(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *unitWriter) crossfade(from, n int) {
	count := min(n, w.fade)
	for ch, plane := range w.frame {
		for i := range count {
			old := float32(w.fade-i) / fadeSamples
			plane[from+i] = plane[from+i]*(1-old) + w.hold[ch]*old
		}
	}
	w.fade -= count
}

// clean makes a sample one that the encoder can take: decoders overshoot, and one
// NaN would spoil an encoder for good.
func clean(v float32) float32 {
	if math.IsNaN(float64(v)) {
		return 0
	}
	return min(max(v, -1), 1)
}

// encode has the full frame encoded and emits the unit that this yields.
func (w *unitWriter) encode() error {
	info := frameInfo{pts: w.clock.at(w.pos - frameSamples), jump: w.jump}
	if !w.cause.Captured.IsZero() {
		info.captured = w.cause.Captured.Add(info.pts - w.cause.PTS)
	}
	w.jump = false
	w.inFlight = append(w.inFlight, info)
	payload, err := w.guard.encode(w.frame)
	if err != nil {
		return err
	}
	if w.returned++; w.returned <= w.lag {
		return nil // priming: it holds sound from before the first sample
	}
	info = w.inFlight[0]
	w.inFlight = w.inFlight[:copy(w.inFlight, w.inFlight[1:])]
	late := samplesToTime(int64(w.lag*frameSamples - w.delay))
	w.write(info, late, payload)
	return nil
}

func (w *unitWriter) write(info frameInfo, late time.Duration, payload []byte) {
	pts := info.pts + late
	if w.written && pts <= w.lastPTS {
		w.late++
		w.jump = true
		return
	}
	unit := &media.AccessUnit{
		Seq: w.seq, PTS: pts, DTS: pts, Duration: samplesToTime(frameSamples),
		RandomAccess: true, Discontinuity: info.jump,
		Received: w.cause.Received, Payload: payload,
	}
	if !info.captured.IsZero() {
		unit.Captured = info.captured.Add(late)
	}
	w.written, w.lastPTS = true, pts
	w.seq++
	w.emit(unit)
}
