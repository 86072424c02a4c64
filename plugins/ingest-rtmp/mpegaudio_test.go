package ingestrtmp

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/mpegaudio"
	"github.com/headgate/gateway/test/intake"
	"github.com/headgate/gateway/test/peers"
)

// TestFFmpegMPEGAudio: what ffmpeg makes where nobody names a codec of sound, and
// with a bitrate that changes: every frame as it was, and at its time, to the millisecond of RTMP.
func TestFFmpegMPEGAudio(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	f := func(name string, rateHz, channels int, args ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file, sound := filepath.Join(dir, "in.flv"), filepath.Join(dir, "sound")
			peers.FFmpeg(t, slices.Concat([]string{"-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25", "-f", "lavfi", "-i", "anoisesrc=amplitude=0.3:sample_rate=" + strconv.Itoa(rateHz),
				"-t", "8", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-g", "25", "-ac", strconv.Itoa(channels)}, args, []string{file})...)
			peers.FFmpeg(t, "-i", file, "-map", "0:a", "-c", "copy", "-f", "data", sound)
			want, err := os.ReadFile(sound)
			if err != nil {
				t.Fatal(err)
			}
			r, a := assembleAll(tags(t, file, 0))
			tracks := r.Tracks()
			if len(tracks) != 2 || tracks[1].Codec != media.MP3 || tracks[1].SampleRateHz != rateHz || tracks[1].Channels != channels {
				t.Fatalf("tracks %+v", tracks)
			}
			units := r.Units[tracks[1].ID]
			intake.CheckPackets(t, units, file, "audio")
			var got []byte
			for i, u := range units {
				got = append(got, u.Payload...)
				want := time.Duration(i*mpegaudio.Samples) * time.Second / time.Duration(rateHz)
				if off := u.PTS - units[0].PTS - want; off.Abs() > time.Millisecond || u.PTS != u.DTS || u.Duration != mpegaudio.Samples*time.Second/time.Duration(rateHz) {
					t.Fatalf("unit %d at %v for %v, %v from where it belongs", i, u.PTS, u.Duration, off)
				}
			}
			if !bytes.Equal(got, want) {
				t.Error("the frames are not those of the file")
			}
			if n := a.figures.damaged.Load() + a.figures.early.Load() + a.figures.leftOut.Load() + a.figures.jumps.Load(); n != 0 {
				t.Errorf("%d faults", n)
			}
		})
	}
	f("no codec named", 44100, 2)
	f("any bitrate", 44100, 1, "-c:a", "libmp3lame", "-q:a", "4")
}

// Headers of frames.
const (
	layer3At44   = 0xfffb9000 // stereo
	layer3At48   = 0xfffb9400
	layer3Mono48 = 0xfffb94c0
	layer2At48   = 0xfffd8400
)

// sound is a message of MP3 in the form of before Enhanced RTMP: the bits of its first
// byte say 44.1 kHz and stereo.
func sound(ms uint32, frames ...[]byte) rtmp.Message {
	return rtmp.Message{Type: rtmp.TypeAudio, TimestampMS: ms, Body: append([]byte{0x2f}, slices.Concat(frames...)...)}
}

// TestFramesOfAMessage: several frames in one message are units of their own, each at
// its time.
func TestFramesOfAMessage(t *testing.T) {
	a, b, c := intake.MPEGFrame(layer3At44, 1), intake.MPEGFrame(layer3At44, 2), intake.MPEGFrame(layer3At44, 3)
	r, _ := assembleAll([]rtmp.Message{sound(500, a, b, c), sound(578, b)})
	units := r.Units[r.Tracks()[0].ID]
	const frame = 1152 * time.Second / 44_100
	for i, want := range []struct {
		payload []byte
		at      time.Duration
	}{{a, 0}, {b, frame}, {c, 2 * frame}, {b, 78 * time.Millisecond}} {
		if len(units) != 4 || !bytes.Equal(units[i].Payload, want.payload) || units[i].PTS != want.at || units[i].Duration != frame || !units[i].RandomAccess || units[i].Discontinuity {
			t.Fatalf("%d units; number %d at %v, want %v", len(units), i, units[i].PTS, want.at)
		}
	}
}

// TestChangeOfSound: the headers say what the sound is, not the bits of FLV. Another
// rate, another number of channels and another layer are a change of tracks.
func TestChangeOfSound(t *testing.T) {
	_, track, picture := testCard(t)
	r, a := assembleAll([]rtmp.Message{
		message(rtmp.H264HeaderTag(track.DecoderConfig), 0),
		message(rtmp.H264Tag(picture, true, 0), 0),
		sound(0, intake.MPEGFrame(layer3At44, 1)), sound(26, intake.MPEGFrame(layer3At44, 2)),
		sound(52, intake.MPEGFrame(layer3At48, 1)),
		sound(76, intake.MPEGFrame(layer3Mono48, 1)),
		sound(100, intake.MPEGFrame(layer2At48, 1)),
		sound(120, []byte("rubbish")), // no reason for another track
		sound(124, intake.MPEGFrame(layer2At48, 2)),
	})
	want := "tracks, unit of 1, tracks, unit of 2, unit of 2, tracks, unit of 2, tracks, unit of 2, tracks, unit of 3, unit of 3"
	if got := strings.Join(r.Events, ", "); got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	for i, want := range []media.Track{
		{Codec: media.MP3, SampleRateHz: 44_100, Channels: 2}, {Codec: media.MP3, SampleRateHz: 48_000, Channels: 2},
		{Codec: media.MP3, SampleRateHz: 48_000, Channels: 1}, {Codec: media.MP2, SampleRateHz: 48_000, Channels: 2},
	} {
		if got := r.Sets[i+1][1]; got.Codec != want.Codec || got.SampleRateHz != want.SampleRateHz || got.Channels != want.Channels {
			t.Errorf("change %d: %+v, want %+v", i, got, want)
		}
	}
	if units := r.Units[3]; !units[1].Discontinuity || a.figures.damaged.Load() != 1 {
		t.Errorf("damaged %d", a.figures.damaged.Load())
	}
}

// TestDamagedSound: what is cut short is counted, and what is no frame; the frame after it
// says so, and those before it in the message are taken. As long as nothing could be used
// there is no track, and what is no frame is left out.
func TestDamagedSound(t *testing.T) {
	_, track, picture := testCard(t)
	whole := intake.MPEGFrame(layer3At44, 1)
	r, a := assembleAll([]rtmp.Message{
		message(rtmp.H264HeaderTag(track.DecoderConfig), 0),
		sound(0, []byte{0xff, 0xfb}), sound(0, []byte("ID3 and more")), sound(0, whole[:len(whole)-1]),
		message(rtmp.AudioHeaderTag(media.MP3, 0, []byte{1}), 0), // says nothing
		message(rtmp.H264Tag(picture, true, 0), 0),
		sound(0, whole, whole[:100]),
		sound(52, whole), sound(78, whole),
	})
	if got, want := strings.Join(r.Events, ", "), "tracks, unit of 1, tracks, unit of 2, unit of 2, unit of 2"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	units := r.Units[2]
	if n := a.figures.damaged.Load(); n != 2 || a.figures.leftOut.Load() != 2 || len(a.warned) != 1 || len(r.Sets[0]) != 1 || !units[0].Discontinuity || !units[1].Discontinuity || units[2].Discontinuity {
		t.Errorf("%d damaged, first tracks %+v", n, r.Sets[0])
	}
}

// TestEnhancedMP3: the FourCC is told to publishers, and so are tracks by it.
func TestEnhancedMP3(t *testing.T) {
	if list := announced().AudioFourCCs; !slices.Contains(list, ".mp3") || slices.Contains(list, "") {
		t.Errorf("announced are %q", list)
	}
	a, b := intake.MPEGFrame(layer3At44, 1), intake.MPEGFrame(layer3Mono48, 2)
	r, _ := assembleAll([]rtmp.Message{
		message(rtmp.AudioTag(media.MP3, 0, a), 0), message(rtmp.AudioTag(media.MP3, 1, b), 0),
		{Type: rtmp.TypeAudio, TimestampMS: 26, Body: append([]byte("\x97\x02\x01\xE2\x40\x01.mp3"), a...)}, // and 123,456 ns
		message(rtmp.AudioTag(media.MP3, 1, b), 24),
	})
	tracks := r.Tracks()
	if len(tracks) != 2 || tracks[0].SampleRateHz != 44_100 || tracks[1].Channels != 1 || len(r.Units[1]) != 2 || len(r.Units[2]) != 2 || !bytes.Equal(r.Units[2][1].Payload, b) || r.Units[1][1].PTS != 26_123_456 {
		t.Errorf("tracks %+v, %v", tracks, r.Events)
	}
}
