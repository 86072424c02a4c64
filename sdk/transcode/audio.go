package transcode

import (
	"errors"
	"fmt"
	"time"

	"github.com/thesyncim/gopus"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/opus"
)

// How what comes out follows the timestamps of what comes in. The error is the
// time of a packet less the end of the sound so far: positive where sound is
// missing, negative where there is too much.
//
//   - A packet that begins later than the one before ended leaves a gap. If units
//     are known to be missing, their sound is concealed: by the decoder's guess,
//     for the last lost frame by what the next packet repeats of it, and after
//     100 ms by silence. If the sender just paused (DTX) the decoder makes comfort
//     noise for up to a second.
//   - While nothing comes at all, the same is done as time goes by, a moment behind
//     it: at once in a pause that the sender announced, else after half a second,
//     when he is muted rather than late.
//   - A gap of more than 2 s, or a step back of more than 1 s, is another stretch
//     of sound: time starts again there, and nothing is filled.
//   - Otherwise the error is a clock that runs a little faster or slower than
//     ours. From 10 ms on, one sample in 480 is added or left out until the error
//     is gone, one in 120 from 20 ms on; nobody hears it.
//   - Packets that overlap by more than 80 ms lose their beginning.
const (
	lossFrom      = 5 * sampleRateHz / 2 / 1000 // smallest Opus frame; for gaps where units are known to be missing
	gapFrom       = 10 * sampleRateHz / 1000    // for others
	concealAtMost = 100 * sampleRateHz / 1000
	comfortAtMost = sampleRateHz
	anotherAfter  = 2 * sampleRateHz
	anotherBefore = sampleRateHz

	driftFrom      = 10 * sampleRateHz / 1000
	driftFast      = 20 * sampleRateHz / 1000
	driftUntil     = sampleRateHz / 1000
	slowStep       = 480
	fastStep       = 120
	overlapTooMuch = 80 * sampleRateHz / 1000

	// dtxBytes is the most that a packet of Opus has which says that there is nothing to hear.
	dtxBytes = 3

	// What is filled while nothing comes stays so far behind the clock: packets that
	// were on the way join on without an overlap.
	idleBehind = 100 * time.Millisecond
	mutedAfter = 500 * time.Millisecond

	maxPacketSamples = 120 * sampleRateHz / 1000
	maxPacketBytes   = 1 << 16
	concealStep      = 20 * sampleRateHz / 1000
)

// decoder is what of [gopus.Decoder] is used. Without data it guesses.
type decoder interface {
	Decode(data []byte, pcm []float32) (samples int, err error)
	DecodeWithFEC(next []byte, pcm []float32, fec bool) (samples int, err error)
	SetGain(q8 int) error
	Reset()
}

// codedSound says what packets of one codec are.
type codedSound struct {
	dec decoder
	// length is how long a packet plays, repeats how much of what was before it a
	// decoder can make of it.
	length, repeats func(packet []byte) (time.Duration, error)
	// quietBytes is the most that a packet has which says no more than "nothing to hear".
	quietBytes int
}

func opusPackets() (codedSound, error) {
	cfg := gopus.DefaultDecoderConfig(sampleRateHz, channels)
	cfg.MaxPacketSamples, cfg.MaxPacketBytes = maxPacketSamples, maxPacketBytes
	dec, err := gopus.NewDecoder(cfg)
	if err != nil {
		return codedSound{}, fmt.Errorf("making an opus decoder: %w", err)
	}
	return codedSound{dec: dec, length: opus.PacketDuration, repeats: opus.FrameDuration, quietBytes: dtxBytes}, nil
}

// follower decodes packets and hands their sound to the writer so that its time
// is theirs.
type follower struct {
	codedSound
	panics panics
	out    *unitWriter
	pcm    []float32 // interleaved; room for the longest packet
	bent   []float32 // pcm with samples added or left out

	running bool
	end     time.Duration // where the last packet ended, by its own timestamps
	seq     uint32        // of the last packet
	dtx     bool          // the last packet said that there is nothing to hear
	came    time.Duration // where the last packet that came ended; end goes on while none does
	filled  int           // samples made up since then
	lost    bool          // a packet could not be decoded or timed

	drifting  bool
	sinceStep int
	skipping  bool

	stats stats
}

// stats count samples.
type stats struct {
	concealed, comfort, silent, added, removed, skipped int
	restarts, errors                                    int // these count what their names say
}

func newFollower(out *unitWriter, kind codedSound) *follower {
	return &follower{
		codedSound: kind, out: out,
		pcm:  make([]float32, channels*maxPacketSamples),
		bent: make([]float32, 0, channels*(maxPacketSamples+maxPacketSamples/fastStep)),
	}
}

// setGain sets the output gain, in 1/256 dB.
func (f *follower) setGain(q8 int) error { return f.dec.SetGain(q8) }

// take decodes one packet.
func (f *follower) take(unit *media.AccessUnit) error {
	length, err := f.length(unit.Payload)
	if err != nil {
		f.lost = true // the next packet finds a gap
		f.stats.errors++
		return err
	}
	const same, next = 0, 1 // an ingest that does not count leaves 0
	counted := unit.Seq - f.seq
	flagged := f.lost || f.running && (unit.Discontinuity || counted != same && counted != next)
	if err := f.align(unit, length, flagged); err != nil {
		return err
	}
	f.running, f.lost = true, false
	f.seq, f.end = unit.Seq, unit.PTS+length
	f.came, f.filled = f.end, 0
	f.dtx = len(unit.Payload) <= f.quietBytes

	n, decodeErr := f.decode(unit.Payload, f.pcm)
	if decodeErr != nil {
		f.lost = true
		f.stats.errors++
		decodeErr = fmt.Errorf("decoding: %w", decodeErr)
		n = int(timeToSamples(length))
		if err := f.guess(n); err != nil {
			return errors.Join(decodeErr, err)
		}
		return decodeErr
	}
	return f.follow(f.pcm[:channels*n], unit.PTS)
}

// align brings the writer to the beginning of unit: it fills a gap before it, or
// starts time again.
func (f *follower) align(unit *media.AccessUnit, length time.Duration, flagged bool) error {
	if !f.running {
		return f.out.restart(unit.PTS)
	}
	missing := f.out.clock.sample(unit.PTS) - f.out.pos
	step := timeToSamples(unit.PTS - f.end)
	if step > anotherAfter || missing > anotherAfter || step < -anotherBefore || missing < -anotherBefore {
		f.stats.restarts++
		f.dec.Reset()
		f.drifting, f.skipping = false, false
		return f.out.restart(unit.PTS)
	}
	from := int64(gapFrom)
	if flagged {
		from = lossFrom
	}
	if step < from || missing < from {
		return nil
	}
	f.drifting, f.skipping = false, false
	switch {
	case !flagged && f.dtx:
		return f.comfort(int(missing))
	case f.filled > concealAtMost:
		return f.silence(int(missing)) // what the decoder would guess is long over
	}
	return f.conceal(int(missing), int(timeToSamples(length)), unit.Payload)
}

// conceal fills a gap of n samples that packets were lost in. next is the packet
// after it, whose frames may repeat the one before coarsely.
func (f *follower) conceal(n, length int, next []byte) error {
	n -= n % lossFrom // the decoder guesses in steps of the smallest frame; the rest is drift
	repeated := 0
	if frame, err := f.repeats(next); err == nil {
		if repeated = int(timeToSamples(frame)); repeated > min(n, length) {
			repeated = 0
		}
	}
	guessed := min(n-repeated, concealAtMost)
	silent := n - repeated - guessed
	f.stats.concealed += guessed + repeated
	if err := f.guess(guessed); err != nil {
		return err
	}
	if err := f.silence(silent); err != nil {
		return err
	}
	if repeated == 0 {
		return nil
	}
	pcm := f.pcm[:channels*repeated]
	got, err := f.contain(func() (int, error) { return f.dec.DecodeWithFEC(next, pcm, true) })
	if err != nil || got != repeated {
		return f.guess(repeated)
	}
	return f.out.take(pcm)
}

// decode decodes a packet, or without one has the decoder guess.
func (f *follower) decode(packet []byte, pcm []float32) (samples int, err error) {
	return f.contain(func() (int, error) { return f.dec.Decode(packet, pcm) })
}

// contain calls the decoder, which starts anew after a panic.
func (f *follower) contain(call func() (int, error)) (samples int, err error) {
	before := f.panics.count
	err = f.panics.contain("decoder", func() (err error) {
		samples, err = call()
		return err
	})
	if f.panics.count > before {
		f.dec.Reset()
	}
	return samples, err
}

// comfort fills a pause of n samples that the sender made.
func (f *follower) comfort(n int) error {
	n -= n % lossFrom
	noise := min(n, max(comfortAtMost-f.filled, 0))
	f.stats.comfort += noise
	if err := f.guess(noise); err != nil {
		return err
	}
	return f.silence(n - noise)
}

func (f *follower) silence(n int) error {
	if n <= 0 {
		return nil
	}
	f.stats.silent += n
	return f.out.silence(n)
}

// idle fills up while no packet comes; the last one came quiet ago.
func (f *follower) idle(quiet time.Duration) error {
	if !f.running || !f.dtx && quiet < mutedAfter {
		return nil
	}
	n := int(f.out.clock.sample(f.came+quiet-idleBehind) - f.out.pos)
	if n -= n % concealStep; n <= 0 {
		return nil
	}
	var err error
	if f.dtx {
		err = f.comfort(n)
	} else {
		guessed := min(n, max(concealAtMost-f.filled, 0))
		f.stats.concealed += guessed
		if err = f.guess(guessed); err == nil {
			err = f.silence(n - guessed)
		}
	}
	f.filled += n
	f.end = max(f.end, f.out.clock.at(f.out.pos))
	return err
}

// guess has the decoder make up n samples, silence where it cannot.
func (f *follower) guess(n int) error {
	for n > 0 {
		part := min(n, concealStep)
		pcm := f.pcm[:channels*part]
		if got, err := f.decode(nil, pcm); err != nil || got != part {
			clear(pcm)
			f.out.join()
		}
		if err := f.out.take(pcm); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

// follow hands over the sound of a packet, a little longer or shorter where the
// writer is off its time.
func (f *follower) follow(pcm []float32, pts time.Duration) error {
	missing := int(f.out.clock.sample(pts) - f.out.pos)
	if f.skipping = f.skipping && missing < 0 || missing < -overlapTooMuch; f.skipping {
		skip := min(-missing, len(pcm)/channels)
		f.stats.skipped += skip
		if pcm = pcm[channels*skip:]; len(pcm) == 0 {
			return nil
		}
		f.skipping = false
		f.out.join()
		return f.out.take(pcm)
	}
	off := max(missing, -missing)
	f.drifting = off >= driftFrom || f.drifting && off >= driftUntil
	if !f.drifting {
		f.sinceStep = 0
		return f.out.take(pcm)
	}
	every := slowStep
	if off >= driftFast {
		every = fastStep
	}
	n := len(pcm) / channels
	f.sinceStep += n
	change := min(f.sinceStep/every, off)
	f.sinceStep %= every
	if missing > 0 {
		f.stats.added += change
	} else {
		f.stats.removed += change
		change = -change
	}
	if change == 0 || n+change < 2 {
		return f.out.take(pcm)
	}
	f.bent = stretch(f.bent[:0], pcm, n+change)
	return f.out.take(f.bent)
}

// stretch appends to dst the interleaved samples of pcm as count samples, the
// first and the last of which stay what they are. count is at least 2, and pcm
// holds at least two samples.
func stretch(dst, pcm []float32, count int) []float32 {
	last := len(pcm)/channels - 1
	for i := range count {
		// The position is i*last/(count-1), in whole numbers and a rest.
		whole, rest := i*last/(count-1), i*last%(count-1)
		w := float32(rest) / float32(count-1)
		for ch := range channels {
			v := pcm[channels*whole+ch]
			if rest > 0 {
				v += (pcm[channels*(whole+1)+ch] - v) * w
			}
			dst = append(dst, v)
		}
	}
	return dst
}
