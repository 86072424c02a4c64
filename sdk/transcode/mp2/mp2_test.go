package mp2

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/headgate/gateway/sdk/media/mpegaudio"
)

// frames splits a file.
func frames(t *testing.T, b []byte) (list [][]byte) {
	t.Helper()
	for len(b) > 0 {
		h, err := mpegaudio.Parse(b)
		if err != nil || h.Bytes > len(b) {
			t.Fatalf("frame %d: %+v, %v", len(list), h, err)
		}
		list = append(list, b[:h.Bytes])
		b = b[h.Bytes:]
	}
	return list
}

// run returns what a program prints. Without the program the test is skipped, unless
// every peer is required.
func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil && os.Getenv("HEADGATE_TEST_PEERS") != "required" {
		t.Skipf("needs the Debian package %s", name)
	}
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out
}

// Sources: sweeps, noise and bursts, and tones that get all the bits that there are.
const (
	mixed = "aevalsrc='0.4*sin(2*PI*t*(200+900*t))+0.05*random(0)|0.3*sin(2*PI*1234*t)*gt(mod(t,0.2),0.1)'"
	tones = "aevalsrc='0.9*sin(2*PI*1500*t)|0.9*sin(2*PI*700*t)'"
)

// TestAgainstFFmpeg: what ffmpeg and twolame code is decoded as ffmpeg decodes it, at
// every sample rate and in every mode, with few bits and many.
func TestAgainstFFmpeg(t *testing.T) {
	try := func(what, encoder string, hz, channels, kbps int, mode string) {
		name := fmt.Sprintf("%s %d Hz %d channels %dk %s %.14s", encoder, hz, channels, kbps, mode, what)
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			wav, coded := filepath.Join(dir, "a.wav"), filepath.Join(dir, "a.mp2")
			source := fmt.Sprintf("%s:s=%d:d=1", what, hz)
			run(t, "ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-ac", fmt.Sprint(channels), wav)
			if encoder == "ffmpeg" {
				run(t, "ffmpeg", "-v", "error", "-i", wav, "-c:a", "mp2", "-b:a", fmt.Sprintf("%dk", kbps), coded)
			} else {
				run(t, "twolame", "--quiet", "-b", fmt.Sprint(kbps), "-m", mode, "-p", wav, coded)
			}
			raw := run(t, "ffmpeg", "-v", "error", "-c:a", "mp2float", "-f", "mp3", "-i", coded, "-f", "f32le", "-c:a", "pcm_f32le", "-")
			var d Decoder
			var got []float32
			file, err := os.ReadFile(coded)
			if err != nil {
				t.Fatal(err)
			}
			list := frames(t, file)
			for i, frame := range list {
				out, err := d.Decode(frame)
				if err != nil || len(out) != channels {
					t.Fatalf("frame %d: %d channels, %v", i, len(out), err)
				}
				for n := range Samples {
					for ch := range out {
						got = append(got, out[ch][n])
					}
				}
			}
			want := make([]float32, len(raw)/4)
			for i := range want {
				want[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
			}
			one := channels * Samples
			if len(want) == len(got)-one { // its demuxer passes over the first frame of some files
				got, want = got[2*one:], want[one:]
			}
			if len(got) != len(want) || len(got) == 0 {
				t.Fatalf("%d frames: %d samples, ffmpeg has %d", len(list), len(got), len(want))
			}
			var worst float64
			for i := range got {
				worst = max(worst, math.Abs(float64(got[i]-want[i])))
			}
			if worst > 0.25/32768 { // a quarter of the last of 16 bits
				t.Errorf("%v apart", worst)
			}
		})
	}
	f := func(encoder string, hz, channels, kbps int, mode string) {
		try(mixed, encoder, hz, channels, kbps, mode)
		try(tones, encoder, hz, channels, kbps, mode)
	}
	for _, hz := range []int{32000, 44100, 48000} {
		f("ffmpeg", hz, 1, 32, "")
		f("twolame", hz, 1, 48, "m")
		f("ffmpeg", hz, 1, 64, "")
		f("ffmpeg", hz, 1, 192, "")
		f("ffmpeg", hz, 2, 64, "")
		f("ffmpeg", hz, 2, 128, "")
		f("ffmpeg", hz, 2, 384, "")
		f("twolame", hz, 2, 128, "j")
		f("twolame", hz, 2, 224, "s")
		f("twolame", hz, 2, 192, "d")
	}
	for _, hz := range []int{16000, 22050, 24000} {
		f("ffmpeg", hz, 1, 32, "")
		f("ffmpeg", hz, 2, 160, "")
		f("twolame", hz, 2, 64, "j")
	}
}

// FuzzDecode: whatever the bytes, an error or a frame of sound, and the next good frame is
// decoded.
func FuzzDecode(f *testing.F) {
	good, err := os.ReadFile("testdata/stereo.mp2")
	if err != nil {
		f.Fatal(err)
	}
	h, err := mpegaudio.Parse(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[:h.Bytes])
	f.Add([]byte{0xff, 0xfc, 0x44, 0x40})
	f.Fuzz(func(t *testing.T, frame []byte) {
		var d Decoder
		if out, err := d.Decode(frame); err == nil {
			for ch := range out {
				for _, v := range out[ch] {
					if math.IsNaN(float64(v)) || math.Abs(float64(v)) > 64 {
						t.Fatalf("a sample of %v", v)
					}
				}
			}
		}
		if _, err := d.Decode(good); err != nil {
			t.Fatal(err)
		}
	})
}
