package ingestrtmp

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/h265"
	"github.com/headgate/gateway/test/intake"
	"github.com/headgate/gateway/test/peers"
)

// tags returns the messages of an FLV file, whose timestamps are later by shift.
func tags(t testing.TB, file string, shift uint32) (list []rtmp.Message) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const header, before, of = 9, 4, 11
	for b = b[header:]; len(b) > before; {
		b = b[before:]
		size := int(b[1])<<16 | int(b[2])<<8 | int(b[3])
		stamp := uint32(b[7])<<24 | uint32(b[4])<<16 | uint32(b[5])<<8 | uint32(b[6])
		list = append(list, rtmp.Message{Type: rtmp.MessageType(b[0]), TimestampMS: stamp + shift, Body: b[of : of+size]})
		b = b[of+size:]
	}
	return list
}

func assembleAll(list []rtmp.Message) (*intake.Recorder, *assembler) {
	r := &intake.Recorder{}
	a := newAssembler(r, slog.New(slog.DiscardHandler))
	for _, m := range list {
		a.take(m, time.Now())
	}
	return r, a
}

// TestFFmpegStreams: B-frames in closed and open groups, wherever the timestamps begin
// and over their wrap: as many units as ffprobe counts, in its order and at its times,
// and of each the sound and every slice and SEI as they were.
func TestFFmpegStreams(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	f := func(name string, shift uint32, args ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "in.flv")
			peers.FFmpeg(t, slices.Concat([]string{"-f", "lavfi", "-i", "testsrc2=size=322x182:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", "4", "-pix_fmt", "yuv420p", "-c:a", "aac", "-ac", "2"},
				args, []string{file})...)
			messages := tags(t, file, shift)
			r, a := assembleAll(messages)
			tracks := r.Tracks()
			if len(r.Sets) != 1 || len(tracks) != 2 || tracks[0].Codec != media.H264 || tracks[0].Width != 322 || tracks[0].Height != 182 || tracks[0].FrameRate != 25 ||
				tracks[1].Codec != media.AAC || tracks[1].SampleRateHz != 48000 || tracks[1].Channels != 2 {
				t.Fatalf("%d times tracks, at last %+v", len(r.Sets), tracks)
			}
			intake.CheckPackets(t, r.Units[tracks[0].ID], file, "video")
			intake.CheckPackets(t, r.Units[tracks[1].ID], file, "audio")
			checkBytes(t, messages, r)
			if n := a.figures.damaged.Load() + a.figures.early.Load() + a.figures.leftOut.Load() + a.figures.jumps.Load(); n != 0 {
				t.Errorf("%d faults", n)
			}
		})
	}
	x264 := func(params string) []string {
		return []string{"-c:v", "libx264", "-bf", "3", "-g", "25", "-x264-params", params}
	}
	f("closed", 0, x264("open-gop=0:aud=1:repeat-headers=1")...)
	f("open", 0, x264("open-gop=1")...)
	f("from 5 h", 5*3600*1000, x264("open-gop=0")...)
	f("wrap", ^uint32(0)-1999, x264("open-gop=0")...)
}

// checkBytes holds units to the messages that they came in.
func checkBytes(t *testing.T, messages []rtmp.Message, r *intake.Recorder) {
	t.Helper()
	next := map[media.TrackID]int{}
	for _, m := range messages {
		if len(m.Body) < 5 || m.Body[1] != 1 || m.Type != rtmp.TypeAudio && m.Type != rtmp.TypeVideo {
			continue
		}
		id, payload := r.Tracks()[1].ID, m.Body[2:]
		if m.Type == rtmp.TypeVideo {
			id, payload = r.Tracks()[0].ID, nil
			for b := m.Body[5:]; len(b) > 4; {
				n := 4 + binary.BigEndian.Uint32(b)
				if t := b[4] & 0x1f; t >= 1 && t <= 6 { // slices and SEI
					payload = append(payload, b[:n]...)
				}
				b = b[n:]
			}
		}
		units := r.Units[id]
		if i := next[id]; i >= len(units) || !bytes.Equal(units[i].Payload, payload) {
			t.Fatalf("unit %d of track %d is not what was sent", i, id)
		}
		next[id]++
	}
}

// message is a tag as it is received.
func message(tag *rtmp.Tag, ms uint32) rtmp.Message {
	return rtmp.Message{Type: tag.Type(), TimestampMS: ms, Body: tag.AppendTo(nil)}
}

// testCard is the video track of the test card and one keyframe of it.
func testCard(t testing.TB) (*clip.Clip, media.Track, []byte) {
	t.Helper()
	c, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	return c, c.Tracks[0], c.Video[0].Payload
}

// otherSPS is a set of another size under the id of the card's.
var otherSPS = []byte{0x67, 0x42, 0xc0, 0x28, 0xd9, 0x00, 0x78, 0x02, 0x27, 0xe5, 0x84, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x03, 0x00, 0xf0, 0x3c, 0x60, 0xc9, 0x20}

// TestChangeOfSize: a new header, or sets in band, are a change of tracks before the
// picture that needs it, and not one when they are the same.
func TestChangeOfSize(t *testing.T) {
	c, track, picture := testCard(t)
	other, err := h264.DecoderConfig{SPS: [][]byte{otherSPS}, PPS: [][]byte{c.PPS}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r, _ := assembleAll([]rtmp.Message{
		message(rtmp.H264HeaderTag(track.DecoderConfig), 0),
		message(rtmp.H264Tag(picture, true, 0), 0),
		message(rtmp.H264HeaderTag(track.DecoderConfig), 33),
		message(rtmp.H264Tag(h264.AppendLengthPrefixed(nil, append([][]byte{c.SPS, c.PPS}, split4(t, picture)...)...), true, 0), 33),
		message(rtmp.H264HeaderTag(other), 66),
		message(rtmp.H264Tag(picture, true, 0), 66),
		message(rtmp.H264Tag(h264.AppendLengthPrefixed(nil, append([][]byte{c.SPS, c.PPS}, split4(t, picture)...)...), true, 0), 100),
	})
	if got, want := strings.Join(r.Events, ", "), "tracks, unit of 1, unit of 1, tracks, unit of 1, tracks, unit of 1"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	for i, width := range []int{clip.Width, 1920, clip.Width} {
		if r.Sets[i][0].Width != width {
			t.Errorf("change %d: %+v", i, r.Sets[i])
		}
	}
	for i, u := range r.Units[1] {
		if !bytes.Equal(u.Payload, picture) {
			t.Errorf("picture %d has other bytes", i)
		}
	}
}

func split4(t *testing.T, payload []byte) [][]byte {
	t.Helper()
	nalus, err := h264.SplitLengthPrefixed(nil, payload)
	if err != nil {
		t.Fatal(err)
	}
	return nalus
}

// TestShortLengths: lengths of two bytes before NAL units, which nobody has to send.
func TestShortLengths(t *testing.T) {
	_, track, picture := testCard(t)
	config := bytes.Clone(track.DecoderConfig)
	config[4] = 0xfc | 1
	var short []byte
	for _, n := range split4(t, picture) {
		short = append(binary.BigEndian.AppendUint16(short, uint16(len(n))), n...)
	}
	r, a := assembleAll([]rtmp.Message{message(rtmp.H264HeaderTag(config), 0), message(rtmp.H264Tag(short, true, 0), 0)})
	if len(r.Units[1]) != 1 || !bytes.Equal(r.Units[1][0].Payload, picture) || !bytes.Equal(r.Tracks()[0].DecoderConfig, track.DecoderConfig) {
		t.Errorf("%d units, tracks %+v", len(r.Units[1]), r.Sets)
	}
	a.take(message(rtmp.H264Tag(short[:len(short)-1], true, 0), 33), time.Now())
	if a.figures.damaged.Load() != 1 {
		t.Error("a picture that is cut off was taken")
	}
}

// TestMultitrack: of pictures the first track stays, of sound all, each with its header.
func TestMultitrack(t *testing.T) {
	_, track, picture := testCard(t)
	asc := []byte{0x11, 0x90}
	r, a := assembleAll([]rtmp.Message{
		message(rtmp.VideoHeaderTag(media.H264, 0, track.DecoderConfig), 0),
		message(rtmp.VideoHeaderTag(media.H264, 1, track.DecoderConfig), 0),
		message(rtmp.AudioHeaderTag(media.AAC, 0, asc), 0),
		message(rtmp.AudioHeaderTag(media.AAC, 1, asc), 0),
		message(rtmp.VideoTag(media.H264, 0, picture, true, 0), 0),
		message(rtmp.VideoTag(media.H264, 1, picture, true, 0), 0),
		message(rtmp.AudioTag(media.AAC, 0, []byte{1}), 0),
		message(rtmp.AudioTag(media.AAC, 1, []byte{2}), 0),
	})
	if len(r.Tracks()) != 3 || len(r.Units[1]) != 1 || len(r.Units[2]) != 1 || len(r.Units[3]) != 1 || r.Units[3][0].Payload[0] != 2 {
		t.Errorf("tracks %+v, units %v", r.Tracks(), r.Events)
	}
	if n := a.figures.leftOut.Load(); n != 2 || len(a.warned) != 1 {
		t.Errorf("%d left out, said %q", n, a.warned)
	}
}

// TestNanoseconds: what Enhanced RTMP adds to a timestamp is kept.
func TestNanoseconds(t *testing.T) {
	head := []byte{0x97, 2, 0x07, 0xA1, 0x20, 0x00} // ModEx: 500,000 ns, then a sequence header
	_, track, picture := testCard(t)
	header := append(append(slices.Clone(head), "avc1"...), track.DecoderConfig...)
	frame := append(append(slices.Clone(head[:5]), 0x03), "avc1"...)
	r, _ := assembleAll([]rtmp.Message{
		{Type: rtmp.TypeVideo, Body: header},
		{Type: rtmp.TypeVideo, Body: append(slices.Clone(frame), picture...)},
		message(rtmp.VideoTag(media.H264, 0, picture, true, 0), 40),
	})
	if u := r.Units[1]; len(u) != 2 || u[1].DTS-u[0].DTS != 39500*time.Microsecond {
		t.Fatalf("%d units: %v", len(u), r.Events)
	}
}

// TestLeftOut: codecs that are not carried are counted and said once.
func TestLeftOut(t *testing.T) {
	_, track, picture := testCard(t)
	list := []rtmp.Message{message(rtmp.H264HeaderTag(track.DecoderConfig), 0)}
	for i := range uint32(5) {
		list = append(list,
			message(rtmp.H264Tag(picture, true, 0), i*33),
			rtmp.Message{Type: rtmp.TypeAudio, TimestampMS: i * 33, Body: []byte{0xb2, 0x1d, 0x40}}, // Speex
			rtmp.Message{Type: rtmp.TypeAudio, TimestampMS: i * 33, Body: []byte{0xee, 0xff, 0xe3}}, // MP3 of 8 kHz
			rtmp.Message{Type: rtmp.TypeVideo, TimestampMS: i * 33, Body: []byte{0x12, 0}},          // Sorenson
		)
	}
	r, a := assembleAll(list)
	if len(r.Tracks()) != 1 || len(r.Units[1]) != 5 || a.figures.leftOut.Load() != 15 {
		t.Errorf("%v, %d left out", r.Events, a.figures.leftOut.Load())
	}
	if got := strings.Join(a.warned, ", "); got != "audio of flv 11, audio of flv 14, video of flv 02" {
		t.Errorf("said %q", got)
	}
}

// TestSilence: a publisher of whom nothing came that can be used is told what is wrong.
func TestSilence(t *testing.T) {
	c, track, picture := testCard(t)
	f := func(want string, list ...rtmp.Message) {
		t.Helper()
		s := &session{media: newAssembler(&intake.Recorder{}, slog.New(slog.DiscardHandler))}
		for i, m := range list {
			s.message(m, time.Unix(int64(i+1), 0))
		}
		if got := s.silence().Error(); !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	speex := rtmp.Message{Type: rtmp.TypeAudio, Body: []byte{0xb2, 0x1d, 0x40}}
	header := message(rtmp.H264HeaderTag(track.DecoderConfig), 0)
	f("no picture and no sound came")
	f("no picture and no sound came", header)
	f("codecs that are not carried", speex, speex)
	f("cannot be decoded", header, message(rtmp.H264Tag(c.Video[1].Payload, false, 0), 0))
	f("cannot be decoded", message(rtmp.H264Tag(picture, true, 0), 0)) // before its header
	f("no picture and no sound came", speex, header, message(rtmp.H264Tag(picture, true, 0), 0))
}

// TestClock: an encoder whose clock jumps goes on; a pause that is one stays one.
func TestClock(t *testing.T) {
	var c clock
	tr := &track{}
	now := time.Now()
	var got []time.Duration
	at := func(stamp uint32, passed time.Duration) {
		now = now.Add(passed)
		got = append(got, c.settle(tr, c.time(stamp), now))
	}
	const frame = 40 * time.Millisecond
	at(7_000_000, 0)
	at(7_000_040, frame)
	at(40, frame)                 // set back
	at(3_000_000, frame)          // forward
	at(3_020_000, 20*time.Second) // a pause
	at(3_020_000, frame)          // not at all
	at(3_019_900, frame)          // a little back
	want := []time.Duration{0, 40, 80, 120, 20120, 20121, 20122}
	for i := range want {
		if got[i] != want[i]*time.Millisecond {
			t.Errorf("unit %d at %v, want %v", i, got[i], want[i]*time.Millisecond)
		}
	}
	if c.jumps != 2 {
		t.Errorf("%d jumps", c.jumps)
	}
}

// FuzzMessages: whatever comes, times rise, pictures begin at a random access point
// and with a config, and what is written has the shape of its codec.
func FuzzMessages(f *testing.F) {
	c, track, picture := testCard(f)
	for _, tag := range []*rtmp.Tag{
		rtmp.H264Tag(picture, true, 40), rtmp.H264Tag(h264.AppendLengthPrefixed(nil, otherSPS, c.PPS, picture[4:]), true, 0),
		rtmp.VideoTag(media.H265, 0, picture[:100], true, 0), rtmp.VideoTag(media.AV1, 0, []byte{0x12, 0, 0x0a, 3, 0, 0, 0}, true, 0),
		rtmp.VideoTag(media.VP9, 0, []byte{0x82, 0x49, 0x83, 0x42, 0, 0, 0}, true, 0), rtmp.AudioTag(media.Opus, 0, []byte{0xfc, 1}),
		rtmp.AudioHeaderTag(media.AAC, 1, []byte{0x11, 0x90}), rtmp.AudioTag(media.AAC, 1, []byte{1}),
		rtmp.AudioTag(media.MP3, 2, slices.Concat(intake.MPEGFrame(layer3At44, 1), intake.MPEGFrame(layer2At48, 2))),
	} {
		m := message(tag, 0)
		f.Add(append([]byte{byte(m.Type), 0, 0, 0, 33, byte(len(m.Body) >> 8), byte(len(m.Body))}, m.Body...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list := []rtmp.Message{message(rtmp.H264HeaderTag(track.DecoderConfig), 0)}
		for len(b) > 7 && len(list) < 100 {
			n := min(int(binary.BigEndian.Uint16(b[5:])), len(b)-7)
			list = append(list, rtmp.Message{Type: rtmp.MessageType(b[0]), TimestampMS: binary.BigEndian.Uint32(b[1:]), Body: b[7 : 7+n]})
			b = b[7+n:]
		}
		r, _ := assembleAll(list)
		known := map[media.TrackID]media.Track{}
		for _, set := range r.Sets {
			for _, tr := range set {
				known[tr.ID] = tr
			}
		}
		for id, units := range r.Units {
			tr, ok := known[id]
			if !ok || !tr.Complete() {
				t.Fatalf("units of track %d, which is %+v", id, tr)
			}
			if !units[0].RandomAccess {
				t.Error("it begins at no random access point")
			}
			for i, u := range units {
				if len(u.Payload) == 0 || i > 0 && u.DTS <= units[i-1].DTS || (u.PTS-u.DTS).Abs() > maxComposition {
					t.Fatalf("unit %d of track %d: %d bytes at %v/%v", i, id, len(u.Payload), u.PTS, u.DTS)
				}
				if tr.Codec == media.H264 || tr.Codec == media.H265 {
					checkNALUs(t, tr.Codec, u.Payload)
				}
			}
		}
	})
}

func checkNALUs(t *testing.T, c media.Codec, payload []byte) {
	t.Helper()
	nalus, err := h264.SplitLengthPrefixed(nil, payload)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nalus {
		if c == media.H264 && (h264.TypeOf(n) > h264.TypeSEI || h264.TypeOf(n) == 0) || c == media.H265 && len(n) < 2 ||
			c == media.H265 && h265.TypeOf(n) >= h265.TypeVPS && h265.TypeOf(n) != h265.TypePrefixSEI && h265.TypeOf(n) != h265.TypeSuffixSEI {
			t.Fatalf("a NAL unit of %s that begins with %x", c, n[:min(2, len(n))])
		}
	}
}
