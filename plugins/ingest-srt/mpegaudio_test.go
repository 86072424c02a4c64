package ingestsrt

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/mpegts"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/aac"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/mpegaudio"
	"github.com/headgate/gateway/test/intake"
	"github.com/headgate/gateway/test/peers"
)

// soundOf is the elementary stream of sound in a file, as ffmpeg takes it out.
func soundOf(t *testing.T, file string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "sound")
	peers.FFmpeg(t, "-i", file, "-map", "0:a", "-c", "copy", "-f", "data", out)
	return readFile(t, out)
}

// payloads are those of units, one behind the other.
func payloads(units []*media.AccessUnit) (b []byte) {
	for _, u := range units {
		b = append(b, u.Payload...)
	}
	return b
}

// checkTimes: the frames are each at its time, to a tick, counted from the first one.
func checkTimes(t *testing.T, units []*media.AccessUnit, rateHz int) {
	t.Helper()
	const tick = time.Second/mpegts.TimestampHz + 1
	for i, u := range units {
		want := time.Duration(i*mpegaudio.Samples) * time.Second / time.Duration(rateHz)
		if off := u.PTS - units[0].PTS - want; off.Abs() > tick || u.PTS != u.DTS || u.Duration != mpegaudio.Samples*time.Second/time.Duration(rateHz) {
			t.Fatalf("unit %d at %v for %v, %v from where it belongs", i, u.PTS, u.Duration, off)
		}
	}
}

// TestFFmpegMPEGAudio: what ffmpeg makes of both layers, at rates of MPEG-1 and MPEG-2,
// and without a word about the codec: every frame as it was, and at its time.
func TestFFmpegMPEGAudio(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	f := func(name string, codec media.Codec, rateHz, channels int, args ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, a, file := assemble(t, 0, slices.Concat([]string{"-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25", "-f", "lavfi", "-i", "anoisesrc=amplitude=0.3:sample_rate=" + strconv.Itoa(rateHz),
				"-t", "8", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-g", "25", "-ac", strconv.Itoa(channels)}, args)...)
			tracks := r.Tracks()
			if len(tracks) != 2 || tracks[1].Codec != codec || tracks[1].SampleRateHz != rateHz || tracks[1].Channels != channels || !tracks[1].Complete() {
				t.Fatalf("tracks %+v", tracks)
			}
			if len(r.Sets) != 1 {
				t.Errorf("first tracks %+v, of %d times: targets would begin without the sound", r.Sets[0], len(r.Sets))
			}
			units := r.Units[tracks[1].ID]
			if !bytes.Equal(payloads(units), soundOf(t, file)) {
				t.Error("the frames are not those of the file")
			}
			intake.CheckPackets(t, units, file, "audio")
			checkTimes(t, units, rateHz)
			if a.lost+a.damaged+a.jumps != 0 || len(a.leftOut) != 0 {
				t.Errorf("lost %d, damaged %d, jumps %d, left out %v", a.lost, a.damaged, a.jumps, a.leftOut)
			}
		})
	}
	f("no codec named", media.MP2, 44100, 2)
	f("layer II, MPEG-2", media.MP2, 22050, 1, "-c:a", "mp2", "-b:a", "96k")
	f("layer III", media.MP3, 44100, 2, "-c:a", "libmp3lame")
	f("layer III, any bitrate", media.MP3, 48000, 2, "-c:a", "libmp3lame", "-q:a", "4")
}

// A soundStream is an assembler of a program with one stream, of MPEG audio.
type soundStream struct {
	*assembler
	r   *intake.Recorder
	log strings.Builder
	of  mpegts.Stream
}

func newSoundStream() *soundStream {
	s := &soundStream{r: &intake.Recorder{}, of: mpegts.Stream{PID: 256, Type: 3, Codec: media.MP2, Name: "mpeg audio"}}
	s.assembler = newAssembler(s.r, 0, slog.New(slog.NewTextHandler(&s.log, nil)))
	s.setStreams([]mpegts.Stream{s.of})
	return s
}

func (s *soundStream) send(b []byte, pts int64) {
	s.take(mpegts.PES{Stream: s.of, HasTime: true, PTS: pts, DTS: pts, Data: b})
}

// realFrames are some that ffmpeg makes, of one bitrate.
func realFrames(t *testing.T, codec string) (list [][]byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "in.ts")
	peers.FFmpeg(t, "-f", "lavfi", "-i", "anoisesrc=amplitude=0.5:sample_rate=44100", "-t", "6", "-c:a", codec, "-b:a", "160k", "-f", "mpegts", file)
	for b := soundOf(t, file); len(b) > 0; {
		h, err := mpegaudio.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		list, b = append(list, b[:h.Bytes]), b[h.Bytes:]
	}
	return list
}

// cut returns the packets of so many bytes that frames of 44.1 kHz are cut into, with
// the time that the first frame to begin in each has; none where none begins.
func cut(frames [][]byte, size int) (list []mpegts.PES) {
	b := slices.Concat(frames...)
	starts := make([]int, 0, len(frames))
	for at, i := 0, 0; i < len(frames); i++ {
		starts = append(starts, at)
		at += len(frames[i])
	}
	next := 0
	for at := 0; at < len(b); at += size {
		end := min(at+size, len(b))
		p := mpegts.PES{Data: bytes.Clone(b[at:end])}
		for next < len(starts) && starts[next] < at {
			next++
		}
		if next < len(starts) && starts[next] < end {
			p.HasTime, p.PTS = true, 90_000+(int64(next)*1152*mpegts.TimestampHz+22_050)/44_100
			p.DTS = p.PTS
		}
		list = append(list, p)
	}
	return list
}

// TestCutFrames: packets that end anywhere, be it within a header.
func TestCutFrames(t *testing.T) {
	peers.Need(t, "ffmpeg")
	for _, codec := range []string{"mp2", "libmp3lame"} {
		frames := realFrames(t, codec)
		for _, size := range []int{7, 100, 184, 521, 522, 523, 1000, 4001} {
			s := newSoundStream()
			for _, p := range cut(frames, size) {
				p.Stream = s.of
				s.take(p)
			}
			units := s.r.Units[s.r.Tracks()[0].ID]
			if len(units) != len(frames) || !bytes.Equal(payloads(units), slices.Concat(frames...)) {
				t.Fatalf("%s in packets of %d: %d units of %d frames", codec, size, len(units), len(frames))
			}
			checkTimes(t, units, 44_100)
			if s.damaged+s.jumps != 0 {
				t.Errorf("%s in packets of %d: damaged %d, jumps %d", codec, size, s.damaged, s.jumps)
			}
		}
	}
}

// TestJoinWithinAFrame: the first packet, and the one after a loss, may begin anywhere.
// What is before the first whole frame is no damage, and the times are right.
func TestJoinWithinAFrame(t *testing.T) {
	peers.Need(t, "ffmpeg")
	frames := realFrames(t, "libmp3lame")
	packets := cut(frames, 1000)
	s := newSoundStream()
	var lost int
	for i, p := range packets {
		if i < 3 || i == 60 {
			continue
		}
		if p.Stream, p.Lost = s.of, i == 61; p.Lost {
			lost = len(s.r.Units[s.r.Tracks()[0].ID])
		}
		s.take(p)
	}
	units := s.r.Units[s.r.Tracks()[0].ID]
	first := slices.IndexFunc(frames, func(f []byte) bool { return bytes.Equal(f, units[0].Payload) })
	if first < 5 || first > 6 || s.damaged != 0 || s.lost != 1 {
		t.Errorf("it begins with frame %d; damaged %d, lost %d", first, s.damaged, s.lost)
	}
	for i, u := range units {
		n := slices.IndexFunc(frames, func(f []byte) bool { return bytes.Equal(f, u.Payload) })
		if n < 0 || u.Discontinuity != (i == lost) {
			t.Fatalf("unit %d is frame %d, discontinuity %v", i, n, u.Discontinuity)
		}
		want := time.Duration((n-first)*1152) * time.Second / 44_100
		if off := u.PTS - units[0].PTS - want; off.Abs() > 2*time.Second/mpegts.TimestampHz {
			t.Fatalf("frame %d is %v from where it belongs", n, off)
		}
	}
	if gone := len(frames) - first - len(units); gone < 2 || gone > 4 {
		t.Errorf("a packet of 1000 bytes cost %d frames", gone)
	}
}

// TestDamagedHeader: a frame whose header is none costs that frame, is counted, and the
// next one says so. What looks like a header within it is none.
func TestDamagedHeader(t *testing.T) {
	peers.Need(t, "ffmpeg")
	frames := realFrames(t, "mp2")
	spoilt := slices.Clone(frames)
	for i := range spoilt {
		spoilt[i] = bytes.Clone(frames[i])
	}
	const bad = 20
	copy(spoilt[bad], []byte{0, 0, 0, 0})
	copy(spoilt[bad][100:], []byte{0xff, 0xfb, 0x90, 0xc0}) // one of layer III
	copy(spoilt[bad][200:], frames[bad][:4])
	for _, size := range []int{700, 1100, 1500, 2000, 2500, 3000, 3333, 5000} {
		s := newSoundStream()
		for _, p := range cut(spoilt, size) {
			p.Stream = s.of
			s.take(p)
		}
		units := s.r.Units[s.r.Tracks()[0].ID]
		if len(units) != len(frames)-1 || s.damaged < 1 || s.damaged > 2 || s.jumps != 0 || len(s.r.Sets) != 1 {
			t.Fatalf("%d bytes: %d units of %d frames, damaged %d, %d times tracks", size, len(units), len(frames), s.damaged, len(s.r.Sets))
		}
		for i, u := range units {
			n := i
			if i >= bad {
				n++
			}
			want := time.Duration(n*1152) * time.Second / 44_100
			if off := u.PTS - units[0].PTS - want; !bytes.Equal(u.Payload, frames[n]) || u.Discontinuity != (i == bad) || off.Abs() > time.Millisecond {
				t.Fatalf("%d bytes: unit %d is not frame %d: discontinuity %v, %v from where it belongs", size, i, n, u.Discontinuity, off)
			}
		}
	}
}

// TestTimesWithinAPacket: they are rounded, and after a frame at the end of a packet that
// proves to be none the time is that of the next packet.
func TestTimesWithinAPacket(t *testing.T) {
	s := newSoundStream()
	s.send(made(layer2At44, 49), 90_000)
	if units := s.r.Units[1]; len(units) != 49 || units[48].PTS != toTime(112_849) { // 112,848.98
		t.Errorf("%d units, the last at %v, want %v", len(units), units[len(units)-1].PTS, toTime(112_849))
	}
	s = newSoundStream()
	s.send(slices.Concat(made(layer2At48, 2), made(layer3At48, 1)), 90_000)
	s.send(made(layer2At48, 2), 90_000+3*ticksAt48)
	if units := s.r.Units[1]; len(units) != 4 || units[2].PTS != toTime(3*ticksAt48) || !units[2].Discontinuity || s.damaged != 1 {
		t.Errorf("%d units, the third at %v, want %v; damaged %d", len(units), units[2].PTS, toTime(3*ticksAt48), s.damaged)
	}
}

// made are n frames with that header and any bytes behind it.
func made(header uint32, n int) (b []byte) {
	for i := range n {
		b = append(b, intake.MPEGFrame(header, uint64(i))...)
	}
	return b
}

// Headers of frames, and how long these last in 90 kHz.
const (
	layer2At44   = 0xfffd8000 // stereo
	layer2At48   = 0xfffd8400
	layer2Mono48 = 0xfffd84c0
	layer3At48   = 0xfffb9400

	ticksAt44 = 1152 * mpegts.TimestampHz / 44_100
	ticksAt48 = 1152 * mpegts.TimestampHz / 48_000
)

// TestChangeOfSound: another rate, another number of channels, another layer are a change
// of tracks before the first frame of them.
func TestChangeOfSound(t *testing.T) {
	s := newSoundStream()
	pts := int64(90_000)
	s.send(made(layer2At44, 3), pts)
	pts += 3 * ticksAt44
	for _, header := range []uint32{layer2At48, layer2Mono48, layer3At48} {
		s.send(made(header, 3), pts)
		pts += 3 * ticksAt48
	}
	want := "tracks, unit of 1, unit of 1, unit of 1, tracks, unit of 1, unit of 1, unit of 1, tracks, unit of 1, unit of 1, unit of 1, tracks, unit of 2, unit of 2, unit of 2"
	if got := strings.Join(s.r.Events, ", "); got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	for i, want := range []media.Track{
		{ID: 1, Codec: media.MP2, SampleRateHz: 44_100, Channels: 2},
		{ID: 1, Codec: media.MP2, SampleRateHz: 48_000, Channels: 2},
		{ID: 1, Codec: media.MP2, SampleRateHz: 48_000, Channels: 1},
		{ID: 2, Codec: media.MP3, SampleRateHz: 48_000, Channels: 2},
	} {
		if got := s.r.Sets[i][0]; got.ID != want.ID || got.Codec != want.Codec || got.SampleRateHz != want.SampleRateHz || got.Channels != want.Channels {
			t.Errorf("change %d: %+v, want %+v", i, got, want)
		}
	}
	// Within one packet, too, with the times of each rate.
	s = newSoundStream()
	s.send(slices.Concat(made(layer2At44, 3), made(layer2At48, 2)), 90_000)
	units := s.r.Units[1]
	if len(units) != 5 || units[4].PTS != toTime(3*ticksAt44+ticksAt48) || s.damaged != 0 {
		t.Errorf("%d units, damaged %d, at last %v", len(units), s.damaged, units[len(units)-1].PTS)
	}
}

// TestHeldBack: what comes before the first frame is handed over with it, behind the
// tracks that are known by then, in its order and with changes where they were; and without
// the sound where none comes for a second.
func TestHeldBack(t *testing.T) {
	c, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	nalus, err := h264.SplitLengthPrefixed(nil, c.Video[0].Payload)
	if err != nil {
		t.Fatal(err)
	}
	s := newSoundStream()
	video := mpegts.Stream{PID: 257, Type: 0x1b, Codec: media.H264}
	picture := func(pts int64, sps []byte) {
		var b []byte
		for _, n := range slices.Concat([][]byte{sps, c.PPS}, nalus) {
			b = append(append(b, 0, 0, 0, 1), n...)
		}
		s.take(mpegts.PES{Stream: video, HasTime: true, PTS: pts, DTS: pts, Data: b})
	}
	s.setStreams([]mpegts.Stream{s.of, video})
	picture(90_000, c.SPS)
	picture(93_000, c.SPS)
	picture(96_000, otherSPS)
	s.send(made(layer3At48, 1), 90_000) // may be none
	if len(s.r.Events) != 0 {
		t.Fatalf("before the sound is known: %v", s.r.Events)
	}
	s.send(made(layer3At48, 1), 90_000+ticksAt48)
	if got, want := strings.Join(s.r.Events, ", "), "tracks, unit of 2, unit of 2, tracks, unit of 2, unit of 3, unit of 3"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	for i, width := range []int{clip.Width, 1920} {
		if set := s.r.Sets[i]; len(set) != 2 || set[0].Codec != media.MP3 || set[0].SampleRateHz != 48_000 || set[1].Width != width {
			t.Errorf("tracks %+v", set)
		}
	}

	s = newSoundStream()
	s.setStreams([]mpegts.Stream{s.of, video})
	for i := range int64(32) {
		picture(90_000+i*3000, c.SPS)
	}
	if n := len(s.r.Units[2]); n != 32 || len(s.r.Sets) != 1 || len(s.r.Tracks()) != 1 {
		t.Fatalf("after a second without sound %d pictures came, with %+v", n, s.r.Sets)
	}
	s.send(made(layer2At48, 2), 90_000)
	if len(s.r.Tracks()) != 2 || len(s.r.Units[1]) != 2 {
		t.Errorf("tracks %+v, %v", s.r.Tracks(), s.r.Events)
	}

	// Units without bytes, at a time that stands still.
	s = newSoundStream()
	other := mpegts.Stream{PID: 258, Type: 0x0f, Codec: media.AAC}
	empty, err := aac.AppendADTSHeader(nil, aac.Config{ObjectType: aac.LC, SampleRateHz: 48_000, Channels: 2}, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.setStreams([]mpegts.Stream{s.of, other})
	for range maxHeld + 1 {
		s.take(mpegts.PES{Stream: other, HasTime: true, PTS: 90_000, DTS: 90_000, Data: empty})
	}
	if len(s.held) > 0 || len(s.r.Events) == 0 {
		t.Errorf("%d are held back", len(s.held))
	}
}

// otherSPS is a set of another size under the id of the card's.
var otherSPS = []byte{0x67, 0x42, 0xc0, 0x28, 0xd9, 0x00, 0x78, 0x02, 0x27, 0xe5, 0x84, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x03, 0x00, 0xf0, 0x3c, 0x60, 0xc9, 0x20}

// TestOtherMPEGAudio: what is of layer I, or of layer III at the rates of MPEG-2 and less,
// is left out, said once and counted; sound that comes later after all is a track.
func TestOtherMPEGAudio(t *testing.T) {
	layer1 := slices.Repeat(append([]byte{0xff, 0xff, 0x80, 0x00}, make([]byte, 292)...), 10)
	s := newSoundStream()
	for i := range int64(10) {
		s.send(layer1, 90_000+i*10_000)
	}
	said := s.log.String()
	if len(s.r.Tracks()) != 0 || s.leftOut["mpeg audio"] != 1 || s.damaged != 0 || strings.Count(said, "left out") != 1 || !strings.Contains(said, "layer I;") {
		t.Errorf("tracks %+v, left out %v, damaged %d; said %s", s.r.Tracks(), s.leftOut, s.damaged, said)
	}
	s.setStreams([]mpegts.Stream{s.of}) // the map comes again
	if len(s.r.Tracks()) != 0 || s.leftOut["mpeg audio"] != 1 {
		t.Errorf("tracks %+v, left out %v", s.r.Tracks(), s.leftOut)
	}
	s.send(made(layer3At48, 2), 200_000)
	if len(s.r.Tracks()) != 1 || s.leftOut["mpeg audio"] != 0 || len(s.r.Units[s.r.Tracks()[0].ID]) != 2 {
		t.Errorf("tracks %+v, left out %v, %v", s.r.Tracks(), s.leftOut, s.r.Events)
	}

	peers.Need(t, "ffmpeg")
	for _, rate := range []string{"11025", "24000"} {
		r, a, _ := assemble(t, 0, "-f", "lavfi", "-i", "sine=sample_rate="+rate, "-t", "6", "-c:a", "libmp3lame", "-b:a", "32k")
		if why := a.useless(); len(r.Tracks()) != 0 || a.leftOut["mpeg audio"] != 1 || !strings.Contains(why, "layer II or III") {
			t.Errorf("%s Hz: tracks %+v, left out %v; %s", rate, r.Tracks(), a.leftOut, why)
		}
	}
}

// FuzzFrames: however the bytes are cut into packets, the same frames are found, which
// are whole.
func FuzzFrames(f *testing.F) {
	good := slices.Concat(made(layer2At44, 3), made(layer3At48, 3))
	f.Add(good, 100)
	f.Add(append([]byte("\xff\xfd rubbish"), good...), 7)
	f.Add(slices.Concat(good[:1500], good[1600:], good), 1000)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		if size < 1 || len(b) > 1<<16 {
			return
		}
		var whole, pieces frames
		want, _ := whole.take(mpegts.PES{HasTime: true, Data: b})
		var got []frame
		for rest := b; len(rest) > 0; {
			n := min(size, len(rest))
			list, _ := pieces.take(mpegts.PES{HasTime: true, Data: rest[:n]})
			got, rest = append(got, list...), rest[n:]
		}
		if len(got) != len(want) {
			t.Fatalf("%d frames in packets of %d bytes, and %d in one", len(got), size, len(want))
		}
		for i, g := range got {
			if h, err := mpegaudio.Parse(g.payload); err != nil || h.Bytes != len(g.payload) || !bytes.Equal(g.payload, want[i].payload) || g.gap != want[i].gap {
				t.Fatalf("frame %d: %d bytes, %+v, %v", i, len(g.payload), h, err)
			}
		}
	})
}
