package transcode

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/mpegaudio"
)

// ffmpeg returns what ffmpeg prints. Without it the test is skipped, unless every peer is
// required.
func ffmpeg(t *testing.T, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("ffmpeg"); err != nil && os.Getenv("HEADGATE_TEST_PEERS") != "required" {
		t.Skip("needs the Debian package ffmpeg")
	}
	out, err := exec.CommandContext(t.Context(), "ffmpeg", append([]string{"-nostdin", "-v", "error", "-y"}, args...)...).Output()
	if err != nil {
		t.Fatalf("ffmpeg: %v", err)
	}
	return out
}

// coded makes frames of a second or so of a source of ffmpeg's, and returns the file too.
func coded(t *testing.T, source string, seconds float64, args ...string) (file string, frames [][]byte) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "sound."+args[0])
	all := append([]string{"-f", "lavfi", "-i", source, "-t", fmt.Sprint(seconds)}, args[1:]...)
	ffmpeg(t, append(all, "-write_xing", "0", "-id3v2_version", "0", "-f", args[0], file)...)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for len(b) > 0 {
		h, err := mpegaudio.Parse(b)
		if err != nil || h.Bytes > len(b) {
			t.Fatalf("frame %d: %+v, %v", len(frames), h, err)
		}
		frames, b = append(frames, b[:h.Bytes]), b[h.Bytes:]
	}
	return file, frames
}

// TestLayer3AgainstFFmpeg: MP3 is decoded as ffmpeg decodes it, at every sample rate, in
// stereo, joint stereo and mono, at constant and variable rates.
func TestLayer3AgainstFFmpeg(t *testing.T) {
	f := func(hz, channels int, args ...string) {
		t.Run(fmt.Sprint(hz, channels, args), func(t *testing.T) {
			source := fmt.Sprintf("aevalsrc='0.4*sin(2*PI*t*(200+900*t))+0.05*random(0)|0.3*sin(2*PI*1234*t)*gt(mod(t,0.2),0.1)':s=%d", hz)
			file, frames := coded(t, source, 2, append([]string{"mp3", "-ac", fmt.Sprint(channels), "-c:a", "libmp3lame"}, args...)...)
			raw := ffmpeg(t, "-c:a", "mp3float", "-i", file, "-ac", "2", "-f", "f32le", "-c:a", "pcm_f32le", "-")
			var l layer3
			var got []float32
			for i, frame := range frames {
				h, err := mpegaudio.Parse(frame)
				if err != nil {
					t.Fatal(err)
				}
				sound, err := l.decode(h, frame)
				if err != nil {
					t.Fatalf("frame %d: %v", i, err)
				}
				got = append(got, sound...)
			}
			if len(got) != len(raw)/4 {
				t.Fatalf("%d samples, ffmpeg has %d", len(got), len(raw)/4)
			}
			scale := 1.0
			if channels == 1 {
				scale = math.Sqrt2 // what ffmpeg makes of one channel for two ears is less loud
			}
			worst := 0.0
			for i, v := range got {
				worst = max(worst, math.Abs(float64(v)-scale*float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])))))
			}
			if worst > 2.0/32768 {
				t.Errorf("%v of the last of 16 bits apart", worst*32768)
			}
		})
	}
	for _, hz := range []int{32000, 44100, 48000} {
		f(hz, 2, "-b:a", "128k")
		f(hz, 2, "-b:a", "320k")
		f(hz, 2, "-b:a", "96k", "-joint_stereo", "0")
		f(hz, 1, "-b:a", "64k")
		f(hz, 2, "-q:a", "4")
	}
}

// TestMPEGAudioToAAC: a tone on either side keeps its pitch, its level and its place for
// half a minute, a lost frame costs its own time, and what is no frame costs itself.
func TestMPEGAudioToAAC(t *testing.T) {
	const left, right = 700, 1500
	f := func(codec media.Codec, hz, channels int, args ...string) {
		t.Run(fmt.Sprint(codec, hz, channels), func(t *testing.T) {
			t.Parallel()
			const seconds = 30
			source := fmt.Sprintf("aevalsrc='0.5*sin(2*PI*%d*t)|0.5*sin(2*PI*%d*t)':s=%d", left, right, hz)
			if channels == 1 {
				source = fmt.Sprintf("aevalsrc='0.5*sin(2*PI*%d*t)':s=%d", left, hz)
			}
			_, frames := coded(t, source, seconds, append([]string{string(codec)}, args...)...)
			tr, err := open(t.Context(), media.Track{ID: 2, Codec: codec}, sdk.TransformSettings{})
			if err != nil {
				t.Fatal(err)
			}
			c := &collector{t: t}
			lost := len(frames) / 2
			for n, frame := range frames {
				at := time.Duration(n) * time.Duration(mpegaudio.Samples) * time.Second / time.Duration(hz)
				u := &media.AccessUnit{Track: 2, Seq: uint32(n), PTS: at, DTS: at, Payload: frame}
				switch n {
				case lost:
				case lost + 50:
					u.Payload = []byte("no frame at all")
					if err := tr.Transform(u, c.emit); err == nil {
						t.Error("no frame was taken for one")
					}
				default:
					c.feed(tr, u)
				}
			}
			s := decode(t, c.units)
			if got := float64(len(s.left)) / sampleRateHz; math.Abs(got-float64(len(frames)*mpegaudio.Samples)/float64(hz)) > 0.1 {
				t.Errorf("%.3f s of sound", got)
			}
			// Around what is missing nothing is louder than the tone.
			loud := 0.0
			for _, n := range []int{0, lost, lost + 50} {
				at := n * mpegaudio.Samples * sampleRateHz / hz
				for _, v := range s.left[max(at-2000, 0) : at+8000] {
					loud = max(loud, math.Abs(v))
				}
			}
			if loud > 0.62 {
				t.Errorf("where frames are missing the sound is as loud as %.3f", loud)
			}
			from, to := int((seconds-1.5)*sampleRateHz), int((seconds-0.5)*sampleRateHz)
			for _, second := range []int{sampleRateHz, from} {
				to := second + to - from
				if l := level(s.left[second:to], left); math.Abs(l-0.5) > 0.03 {
					t.Errorf("left: the tone has an amplitude of %.3f", l)
				}
				other := float64(right)
				if channels == 1 {
					other = left
				}
				if r := level(s.right[second:to], other); math.Abs(r-0.5) > 0.03 {
					t.Errorf("right: the tone has an amplitude of %.3f", r)
				}
			}
		})
	}
	f(media.MP2, 48000, 2, "-c:a", "mp2", "-b:a", "256k")
	f(media.MP2, 44100, 2, "-c:a", "mp2", "-b:a", "256k")
	f(media.MP2, 32000, 1, "-c:a", "mp2", "-b:a", "128k")
	f(media.MP2, 22050, 2, "-c:a", "mp2", "-b:a", "128k")
	f(media.MP3, 48000, 2, "-c:a", "libmp3lame", "-b:a", "192k")
	f(media.MP3, 44100, 2, "-c:a", "libmp3lame", "-b:a", "192k")
	f(media.MP3, 44100, 1, "-c:a", "libmp3lame", "-b:a", "96k")
	f(media.MP3, 32000, 2, "-c:a", "libmp3lame", "-b:a", "96k")
}

// TestMPEGAudioChanges: another rate and other channels are heard at once, and the track
// goes on.
func TestMPEGAudioChanges(t *testing.T) {
	in := media.Track{ID: 2, Codec: media.MP2, SampleRateHz: 48000, Channels: 2}
	tr, err := open(t.Context(), in, sdk.TransformSettings{})
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{t: t}
	at, seq := time.Duration(0), uint32(0)
	for _, change := range []struct{ hz, channels int }{{48000, 2}, {44100, 1}, {32000, 2}, {24000, 1}} {
		in.SampleRateHz, in.Channels = change.hz, change.channels
		if err := tr.SetTrack(in); err != nil {
			t.Fatal(err)
		}
		_, frames := coded(t, fmt.Sprintf("sine=700:r=%d,volume=4", change.hz), 2, "mp2", "-ac", fmt.Sprint(change.channels), "-c:a", "mp2", "-b:a", "128k")
		for _, frame := range frames {
			c.feed(tr, &media.AccessUnit{Track: 2, Seq: seq, PTS: at, DTS: at, Payload: frame})
			at += time.Duration(mpegaudio.Samples) * time.Second / time.Duration(change.hz)
			seq++
		}
	}
	s := decode(t, c.units)
	for second := range 8 {
		from := second*sampleRateHz + sampleRateHz/4
		want := 0.5
		if second/2%2 == 0 {
			want /= math.Sqrt2 // what ffmpeg makes of one channel for two ears
		}
		if l := level(s.left[from:from+sampleRateHz/2], 700); math.Abs(l-want) > 0.03 {
			t.Errorf("in second %d the tone has an amplitude of %.3f, want %.3f", second, l, want)
		}
	}
}

// FuzzMPEGAudio: whatever the frames, an error or as much sound as they say, and the next
// good one is heard.
func FuzzMPEGAudio(f *testing.F) {
	good, err := os.ReadFile("testdata/stereo.mp3")
	if err != nil {
		f.Fatal(err)
	}
	h, err := mpegaudio.Parse(good)
	if err != nil {
		f.Fatal(err)
	}
	good = good[:h.Bytes]
	f.Add(good)
	f.Add([]byte{0xff, 0xfa, 0x25, 0x30, 0x30})
	f.Fuzz(func(t *testing.T, frame []byte) {
		c, err := mpegPackets(media.Track{Codec: media.MP3})
		if err != nil {
			t.Fatal(err)
		}
		fl := &follower{codedSound: c}
		pcm := make([]float32, channels*maxPacketSamples)
		for i, b := range [][]byte{frame, good} {
			d, err := c.length(b)
			if err != nil {
				continue
			}
			n, err := fl.decode(b, pcm)
			if err != nil && i == 1 {
				t.Fatalf("the good frame: %v", err)
			}
			if err == nil && math.Abs(float64(n)-float64(timeToSamples(d))) > 1 {
				t.Fatalf("%d samples of %v", n, d)
			}
		}
	})
}

// BenchmarkMPEGAudio decodes a second of sound of 44.1 kHz and resamples it.
func BenchmarkMPEGAudio(b *testing.B) {
	for codec, header := range map[media.Codec][4]byte{media.MP2: {0xff, 0xfd, 0xa0, 0}, media.MP3: {0xff, 0xfb, 0xb0, 0}} {
		b.Run(string(codec), func(b *testing.B) {
			h, err := mpegaudio.Parse(header[:])
			if err != nil {
				b.Fatal(err)
			}
			frame := make([]byte, h.Bytes)
			copy(frame, header[:])
			for i := 36; i < len(frame); i++ {
				frame[i] = byte(i * 7)
			}
			m := &mpegSound{codec: codec}
			pcm := make([]float32, channels*maxPacketSamples)
			b.ReportAllocs()
			for b.Loop() {
				for range 38 {
					if _, err := m.Decode(frame, pcm); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
