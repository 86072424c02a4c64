package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	goaac "github.com/tphakala/go-aac"

	"github.com/headgate/gateway/sdk/transcode/aaclc"
	"github.com/headgate/gateway/test/audiobench/nmr"
)

const (
	sampleRate = 48000
	unit       = 1024
)

// A result is what an encoder made of an item.
type result struct {
	item     *item
	micros   float64 // CPU, user and system, per frame of 1024 samples
	kbps     float64 // real, without framing
	peakKbps float64 // over the worst second
	file     string  // what the page plays
	nmr.Result
}

// A coder makes access units; without samples it returns what is still to come,
// and nothing in the end.
type coder func(dst []byte, planar [][]float32) ([]byte, error)

func newCoder(name string, channels, kbps int) (coder, error) {
	if name == "ours" || name == "ours-fast" {
		e, err := aaclc.New(aaclc.Config{SampleRate: sampleRate, Channels: channels, Bitrate: kbps * 1000})
		if err != nil {
			return nil, err
		}
		e.SetFast(name == "ours-fast")
		return func(dst []byte, planar [][]float32) ([]byte, error) {
			if planar == nil {
				return e.Flush(dst), nil
			}
			return e.Encode(dst, planar)
		}, nil
	}
	kind, ok := map[string]goaac.Coder{"library-nmr": goaac.CoderNMR, "library-fast": goaac.CoderFast}[name]
	if !ok {
		return nil, fmt.Errorf("no encoder %q: want ours, ours-fast, library-nmr, library-fast or ffmpeg", name)
	}
	e, err := goaac.NewEncoder(goaac.EncoderConfig{SampleRate: sampleRate, Channels: channels, Bitrate: kbps * 1000, Coder: kind})
	if err != nil {
		return nil, err
	}
	return func(dst []byte, planar [][]float32) ([]byte, error) {
		if planar == nil && e.Drained() {
			return dst, nil
		}
		return e.EncodeFrame(dst, planar)
	}, nil
}

// encode returns the units that a coder of this process makes, as one ADTS
// stream, and fills in CPU.
func (r *result) encode(name string, channels, kbps int) ([]byte, error) {
	c, err := newCoder(name, channels, kbps)
	if err != nil {
		return nil, err
	}
	pcm := r.item.pcm
	planar := make([][]float32, channels)
	for ch := range planar {
		planar[ch] = make([]float32, unit)
	}
	stream := make([]byte, 0, len(pcm))
	au := make([]byte, 0, 4096)
	put := func(planar [][]float32) (err error) {
		if au, err = c(au[:0], planar); err != nil || len(au) == 0 {
			return err
		}
		if stream, err = goaac.AppendADTSHeader(stream, sampleRate, channels, len(au)); err != nil {
			return err
		}
		stream = append(stream, au...)
		return nil
	}
	start, frames := cpuSeconds(), 0
	for i := 0; i < len(pcm); i += 2 * unit {
		for ch := range planar {
			for k := range planar[ch] {
				planar[ch][k] = 0
				if p := i + 2*k + ch; p < len(pcm) {
					planar[ch][k] = float32(pcm[p]) / 32768
				}
			}
		}
		if err := put(planar); err != nil {
			return nil, err
		}
		frames++
	}
	r.micros = (cpuSeconds() - start) * 1e6 / float64(frames)
	for range 4 {
		if err := put(nil); err != nil {
			return nil, err
		}
	}
	return stream, nil
}

// encodeFFmpeg does the same with the ffmpeg command.
func (r *result) encodeFFmpeg(channels, kbps int) ([]byte, error) {
	pcm := r.item.pcm
	in := make([]byte, 0, 2*len(pcm))
	for i, v := range pcm {
		if channels == 2 || i%2 == 0 {
			in = append(in, byte(v), byte(uint16(v)>>8))
		}
	}
	once := func(in []byte) ([]byte, float64, error) {
		cmd := exec.Command("ffmpeg", "-v", "error", "-f", "s16le", "-ar", strconv.Itoa(sampleRate), "-ac", strconv.Itoa(channels), "-i", "-",
			"-c:a", "aac", "-b:a", fmt.Sprint(kbps, "k"), "-threads", "1", "-f", "adts", "-")
		cmd.Stdin = bytes.NewReader(in)
		out, err := cmd.Output()
		if err != nil {
			return nil, 0, fmt.Errorf("ffmpeg: %w", err)
		}
		return out, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), nil
	}
	_, startup, err := once(in[:4*unit])
	if err != nil {
		return nil, err
	}
	out, seconds, err := once(in)
	r.micros = (seconds - startup) * 1e6 / (float64(len(pcm)) / 2 / unit)
	return out, err
}

// compare encodes the item, decodes it by ffmpeg and measures the difference.
func (b *bench) compare(it *item, name string, kbps int) (*result, error) {
	r := &result{item: it}
	var stream []byte
	var err error
	if name == "ffmpeg" {
		stream, err = r.encodeFFmpeg(b.channels, kbps)
	} else {
		stream, err = r.encode(name, b.channels, kbps)
	}
	if err != nil {
		return nil, fmt.Errorf("%s, %s at %d kb/s: %w", it.name, name, kbps, err)
	}
	if err := r.rates(stream); err != nil {
		return nil, fmt.Errorf("%s, %s at %d kb/s: %w", it.name, name, kbps, err)
	}
	dir := filepath.Join(b.out, "sound")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r.file = filepath.Join(dir, fmt.Sprintf("%s.%s.%d.aac", it.name, name, kbps))
	if err := os.WriteFile(r.file, stream, 0o644); err != nil {
		return nil, err
	}
	test, err := nmr.Decode(r.file, b.channels)
	if err != nil {
		return nil, err
	}
	r.Result, _, err = nmr.Compare(it.pcm, test)
	return r, err
}

// rates reads the units' sizes from the ADTS headers.
func (r *result) rates(stream []byte) error {
	const second = sampleRate / unit
	var sizes []int
	total, worst, window := 0, 0, 0
	for len(stream) >= 7 {
		n := int(stream[3]&3)<<11 | int(stream[4])<<3 | int(stream[5])>>5
		if n < 7 || n > len(stream) {
			return fmt.Errorf("frame of %d bytes where %d are left", n, len(stream))
		}
		stream = stream[n:]
		bits := 8 * (n - 7)
		sizes = append(sizes, bits)
		total += bits
		window += bits
		if len(sizes) > second {
			window -= sizes[len(sizes)-1-second]
		}
		worst = max(worst, window)
	}
	r.kbps = float64(total) / (float64(len(sizes)) * unit / sampleRate) / 1000
	r.peakKbps = float64(worst) / (second * float64(unit) / sampleRate) / 1000
	return nil
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
