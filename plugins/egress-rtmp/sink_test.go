package egressrtmp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/test/faultlab"
	"github.com/headgate/gateway/test/peers"
)

// Tracks and units made by hand, for what the card does not have.
var (
	h264A = media.Track{ID: 1, Codec: media.H264, DecoderConfig: []byte{1, 66, 0, 30, 'A'}, Width: 640, Height: 360, FrameRate: 30}
	h264B = media.Track{ID: 1, Codec: media.H264, DecoderConfig: []byte{1, 66, 0, 30, 'B'}, Width: 1280, Height: 720, FrameRate: 30}
	aacA  = media.Track{ID: 2, Codec: media.AAC, DecoderConfig: []byte{0x11, 0x90}, SampleRateHz: 48000, Channels: 2, BitrateBitsPerSecond: 128000}
)

func video(ms float64, key bool) *media.AccessUnit {
	at := time.Duration(ms * float64(time.Millisecond))
	return &media.AccessUnit{Track: 1, PTS: at, DTS: at, RandomAccess: key, Payload: fmt.Append(nil, "v", ms)}
}

func audio(ms float64) *media.AccessUnit {
	at := time.Duration(ms * float64(time.Millisecond))
	return &media.AccessUnit{Track: 2, PTS: at, DTS: at, RandomAccess: true, Payload: fmt.Append(nil, "a", ms)}
}

// trace describes messages: what, timestamp, composition time if any, payload.
func trace(messages []rtmp.Message) string {
	var lines []string
	for _, m := range messages {
		b := m.Body
		switch {
		case m.Type == rtmp.TypeData:
			lines = append(lines, fmt.Sprintf("%d metadata", m.TimestampMS))
		case m.Type == rtmp.TypeVideo && b[1] == 0:
			lines = append(lines, fmt.Sprintf("%d video-header %c", m.TimestampMS, b[len(b)-1]))
		case m.Type == rtmp.TypeVideo:
			kind := map[byte]string{0x17: "key", 0x27: "inter"}[b[0]]
			if cts := int32(uint32(b[2])<<24|uint32(b[3])<<16|uint32(b[4])<<8) >> 8; cts != 0 {
				kind += fmt.Sprintf(" %+d", cts)
			}
			lines = append(lines, fmt.Sprintf("%d %s %s", m.TimestampMS, kind, b[5:]))
		case b[1] == 0:
			lines = append(lines, fmt.Sprintf("%d audio-header %x", m.TimestampMS, b[2:]))
		default:
			lines = append(lines, fmt.Sprintf("%d audio %s", m.TimestampMS, b[2:]))
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// check runs steps ([]media.Track or *media.AccessUnit) through a sink and
// compares what arrives. It returns how many units were left out.
func check(t *testing.T, interleave Interleave, want string, opened []media.Track, steps ...any) (dropped uint64) {
	t.Helper()
	r := receive(t)
	s := open(t, "rtmp://"+r.addr+"/app/key", Options{Interleave: interleave}, opened)
	for _, step := range steps {
		switch step := step.(type) {
		case []media.Track:
			if err := s.SetTracks(t.Context(), step); err != nil {
				t.Fatal(err)
			}
		case *media.AccessUnit:
			write(t, s, step)
		}
	}
	closeSink(t, s)
	got := trace(r.all(t))
	want = strings.ReplaceAll(strings.TrimPrefix(want, "\n"), "\t", "")
	if got != want {
		t.Errorf("received:\n%swant:\n%s", got, want)
	}
	return s.Stats().UnitsDropped
}

// TestStart: metadata, video header, audio header, keyframe, all at 0; what comes
// before the keyframe is left out.
func TestStart(t *testing.T) {
	dropped := check(t, InterleaveLow, `
		0 metadata
		0 video-header A
		0 audio-header 1190
		0 key v10033.4
		7 audio a10040
		34 inter v10066.7
		`,
		[]media.Track{h264A, aacA},
		video(10000, false), audio(10001), audio(10033), video(10033.4, true), audio(10032), audio(10040), video(10066.7, false))
	if dropped != 4 {
		t.Errorf("%d units left out, want 4", dropped)
	}
}

// TestEarlyOpen: the configs come after Open, the sound's after the first picture.
func TestEarlyOpen(t *testing.T) {
	bareVideo, bareAudio := h264A, aacA
	bareVideo.DecoderConfig, bareAudio.DecoderConfig = nil, nil
	bareAudio.SampleRateHz = 0
	check(t, InterleaveLow, `
		0 metadata
		0 video-header A
		0 key v1040
		60 metadata
		60 audio-header 1190
		60 audio a1100
		`,
		[]media.Track{bareVideo, bareAudio},
		video(1000, true), audio(1000), // no decoder could start on these
		[]media.Track{h264A, bareAudio}, video(1040, true), audio(1045),
		[]media.Track{h264A, aacA}, audio(1100))
}

// TestHeadersOnChange: a header for each change of the decoder config, with the
// timestamp of the picture that needs it, and for nothing else.
func TestHeadersOnChange(t *testing.T) {
	longer := h264B
	longer.BitrateBitsPerSecond = 3_000_000
	check(t, InterleaveLow, `
		0 metadata
		0 video-header A
		0 audio-header 1190
		0 key v0
		33 inter v33
		66 key v66
		70 metadata
		70 audio a70
		100 video-header B
		100 key v100
		133 inter v133
		166 metadata
		166 inter v166
		200 metadata
		200 video-header A
		200 key v200
		`,
		[]media.Track{h264A, aacA},
		video(0, true), video(33, false),
		[]media.Track{h264A, aacA}, video(66, true),
		[]media.Track{h264B, aacA}, audio(70), video(100, true), video(133, false),
		[]media.Track{longer, aacA}, video(166, false),
		[]media.Track{h264A, aacA}, video(200, true))
}

func TestAudioOnlyAndVideoOnly(t *testing.T) {
	check(t, InterleaveLow, `
		0 metadata
		0 audio-header 1190
		0 audio a500
		21 audio a521.3
		`, []media.Track{aacA}, audio(500), audio(521.3))
	check(t, InterleaveLow, `
		0 metadata
		0 video-header A
		0 key v500
		`, []media.Track{h264A}, video(500, true))
	// A picture comes later: it begins at a keyframe, at its own time.
	check(t, InterleaveStrict, `
		0 metadata
		0 audio-header 1190
		0 audio a500
		40 audio a540
		60 metadata
		60 video-header A
		60 key v560
		`, []media.Track{aacA}, audio(500), audio(540), []media.Track{h264A, aacA}, video(550, false), video(560, true))
}

// TestSoundAlone: an announced picture that does not come costs no sound for long;
// when it comes after all it begins at a keyframe, at its own time.
func TestSoundAlone(t *testing.T) {
	for _, way := range []Interleave{InterleaveLow, InterleaveStrict} {
		dropped := check(t, way, `
		0 metadata
		0 video-header A
		0 audio-header 1190
		0 audio a6000
		20 audio a6020
		300 key v6300
		`, []media.Track{h264A, aacA}, audio(5000), audio(5980), audio(6000), audio(6020), video(6200, false), video(6300, true))
		if dropped != 3 {
			t.Errorf("%s: %d units left out, want 3", way, dropped)
		}
	}
}

// TestTimestamps: they rise on each track, whatever rounding makes of them, and
// the composition time makes up for what they were moved by.
func TestTimestamps(t *testing.T) {
	b := func(dts, pts float64) *media.AccessUnit {
		u := video(dts, false)
		u.PTS = time.Duration(pts * float64(time.Millisecond))
		return u
	}
	check(t, InterleaveLow, `
		0 metadata
		0 video-header A
		0 audio-header 1190
		0 key v1000
		33 inter +34 v1033.4
		34 inter -1 v1033.6
		35 inter v1034.4
		67 inter -33 v1066.6
		10 audio a1010
		11 audio a1010.4
		`,
		[]media.Track{h264A, aacA},
		video(1000, true), b(1033.4, 1066.7), b(1033.6, 1033.4), b(1034.4, 1034.6), b(1066.6, 1034.2), audio(1010), audio(1010.4))
}

// TestLongTimes: the timeline of the stream may be hours old, and pass 2^32 ms
// while it is sent: a connection begins at 0 and wraps as RTMP does.
func TestLongTimes(t *testing.T) {
	const wrap = 1 << 32
	r := receive(t)
	s := open(t, "rtmp://"+r.addr+"/app/key", Options{}, []media.Track{h264A})
	begin := float64(3 * 24 * time.Hour / time.Millisecond)
	big := func(at float64) *media.AccessUnit {
		u := video(begin+at, true)
		u.Payload = bytes.Repeat([]byte{7}, 3*rtmp.ChunkSize)
		return u
	}
	var want []string
	for _, at := range []float64{0, 0xFFFFFE, 0xFFFFFF, 0x1000000, 5 * 3600 * 1000, wrap / 2, wrap - 1, wrap, wrap + 40} {
		write(t, s, big(at))
		want = append(want, fmt.Sprint(uint32(int64(at))))
	}
	closeSink(t, s)
	var got []string
	for _, m := range r.all(t)[2:] {
		if len(m.Body) != 3*rtmp.ChunkSize+5 || m.Body[len(m.Body)-1] != 7 {
			t.Errorf("at %d: %d bytes", m.TimestampMS, len(m.Body))
		}
		got = append(got, fmt.Sprint(m.TimestampMS))
	}
	if !slices.Equal(got, want) {
		t.Errorf("timestamps %v, want %v", got, want)
	}
	if st := r.Stats()[0]; st.ExtendedFaults != 0 || st.Video.Backward != 0 || st.Video.Last != milli(wrap+40) {
		t.Errorf("stats %+v", st)
	}
}

func milli(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// TestInterleave: low sends at once, strict in the order of time, and waits for
// the sound for as long as it makes sense.
func TestInterleave(t *testing.T) {
	tracks := []media.Track{h264A, aacA}
	units := []any{
		video(0, true), video(33, false), audio(5), audio(26), video(66, false), audio(47), audio(68),
	}
	check(t, InterleaveLow, `
		0 metadata
		0 video-header A
		0 audio-header 1190
		0 key v0
		33 inter v33
		5 audio a5
		26 audio a26
		66 inter v66
		47 audio a47
		68 audio a68
		`, tracks, units...)
	check(t, InterleaveStrict, `
		0 metadata
		0 video-header A
		0 audio-header 1190
		0 key v0
		5 audio a5
		26 audio a26
		33 inter v33
		47 audio a47
		66 inter v66
		68 audio a68
		`, tracks, units...)
	// Sound that is late for a while keeps its place.
	late := []any{video(0, true), audio(5)}
	want := "0 metadata\n0 video-header A\n0 audio-header 1190\n0 key v0\n5 audio a5\n"
	for ms := 100.0; ms <= 900; ms += 100 {
		late = append(late, video(ms, false))
	}
	for ms := 105.0; ms <= 905; ms += 100 {
		late = append(late, audio(ms))
		want += fmt.Sprintf("%v inter v%v\n%v audio a%v\n", ms-5, ms-5, ms, ms)
	}
	check(t, InterleaveStrict, want, tracks, late...)
	// Sound that comes when nothing waits for it any more is moved to where the
	// picture is.
	check(t, InterleaveStrict, `
		0 metadata
		0 video-header A
		0 audio-header 1190
		0 key v0
		100 inter v100
		100 audio a20
		200 inter v200
		300 inter v300
		`, tracks, video(0, true), video(100, false), video(200, false), video(300, false), audio(20))
}

// TestStrictDoesNotWaitForMuted: a track that is far behind holds nothing up.
func TestStrictDoesNotWaitForMuted(t *testing.T) {
	m := &merger{}
	m.expect([]sinkTrack{{Track: h264A}, {Track: aacA}})
	m.push(video(0, true))
	m.push(audio(0))
	for m.pop() != nil {
	}
	waiting := 0
	for ms := 40.0; ms < 3000; ms += 40 {
		m.push(video(ms, false))
		for m.pop() != nil {
		}
		waiting = len(m.tracks[0].queue)
		if want := min(int(ms)/40, 25); ms <= 1000 && waiting != want {
			t.Errorf("at %v ms %d pictures wait, want %d", ms, waiting, want)
		}
	}
	if waiting != 0 {
		t.Errorf("after 3 s of silence %d pictures still wait", waiting)
	}
}

func TestMetadata(t *testing.T) {
	r := receive(t)
	track := h264A
	track.BitrateBitsPerSecond = 2_500_000
	s := open(t, "rtmp://"+r.addr+"/app/key", Options{}, []media.Track{track, aacA})
	write(t, s, video(0, true))
	closeSink(t, s)
	want := rtmp.Metadata{Video: &track, Audio: []media.Track{aacA}, Encoder: "Headgate " + sdk.Version}
	if m := r.all(t)[0]; !bytes.Equal(m.Body, want.Tag().AppendTo(nil)) {
		t.Errorf("metadata %q", m.Body)
	}
}

// TestMuxedOnce: fifty targets of one process share one body per unit.
func TestMuxedOnce(t *testing.T) {
	u, a := video(40, false), audio(40)
	var videoTags, audioTags []*rtmp.Tag
	for range 50 {
		s := &sink{}
		videoTags = append(videoTags, s.tag(u, &sinkTrack{Track: h264A}, 0))
		audioTags = append(audioTags, s.tag(a, &sinkTrack{Track: aacA}, 0))
	}
	if len(slices.Compact(videoTags)) != 1 || len(slices.Compact(audioTags)) != 1 {
		t.Error("targets do not share what is muxed")
	}
	s, track := &sink{}, &sinkTrack{Track: h264A}
	if n := testing.AllocsPerRun(100, func() { s.tag(u, track, 0) }); n > 0 {
		t.Errorf("sharing costs %v allocations", n)
	}
}

func TestUnknownCodec(t *testing.T) {
	_, err := (&egress{}).open(t.Context(), target("rtmp://127.0.0.1:1/app/key"), Options{Interleave: InterleaveLow},
		[]media.Track{h264A, {ID: 2, Codec: media.PCMA}})
	if !sdk.IsPermanent(err) || !strings.Contains(err.Error(), "pcma") {
		t.Errorf("%v", err)
	}
}

// TestFailed: the sink notices between writes that its server is gone, and says
// why.
func TestFailed(t *testing.T) {
	r := receive(t, func(s *rtmp.Server) { s.MaxMessageBytes = 1000 })
	s := open(t, "rtmp://"+r.addr+"/app/SECRETKEY", Options{}, []media.Track{h264A})
	write(t, s, video(0, true))
	select {
	case <-s.Failed():
		t.Fatalf("failed: %v", s.Err())
	default:
	}
	if err := s.Err(); err != nil {
		t.Errorf("Err before a failure: %v", err)
	}
	big := video(33, false)
	big.Payload = make([]byte, 2000) // more than this server takes: it hangs up
	write(t, s, big)
	<-s.Failed()
	err := s.Err()
	var cause *sdk.Error
	if !errors.As(err, &cause) || cause.Cause != sdk.CauseRemote || sdk.IsPermanent(err) || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("Err: %v", err)
	}
	if werr := s.WriteAccessUnit(t.Context(), video(66, false)); werr == nil || werr.Error() != err.Error() {
		t.Errorf("the next write: %v, want %v", werr, err)
	}
	if err := s.Close(t.Context()); err == nil {
		t.Error("a goodbye got through")
	}
}

// TestCancelledSession: a write that blocks ends with its context, and one that
// does not leaves the connection good for a goodbye.
func TestCancelledSession(t *testing.T) {
	t.Run("blocked", func(t *testing.T) {
		// A server that takes a minute for a picture, and so never stalls.
		slow, err := faultlab.NewTCP(receive(t).addr, 150_000, 16<<10)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = slow.Close() }()
		s := open(t, "rtmp://"+slow.Addr()+"/app/key", Options{}, []media.Track{h264A})
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			var err error
			for err == nil {
				u := video(0, true)
				u.Payload = make([]byte, 8<<20)
				err = s.WriteAccessUnit(ctx, u)
			}
			result <- err
		}()
		peers.Wait(t, 30*time.Second, "the socket is full", func() error {
			if s.Stats().UnsentBytes == 0 {
				return errors.New("nothing waits")
			}
			return nil
		})
		start := time.Now()
		cancel()
		if err := <-result; err == nil {
			t.Error("no error")
		}
		if err := s.Close(t.Context()); err == nil {
			t.Error("a goodbye got through")
		}
		if d := time.Since(start); d > 15*time.Second {
			t.Errorf("it took %v", d)
		}
	})
	t.Run("idle", func(t *testing.T) {
		r := receive(t)
		s := open(t, "rtmp://"+r.addr+"/app/key", Options{}, []media.Track{h264A})
		ctx, cancel := context.WithCancel(t.Context())
		if err := s.WriteAccessUnit(ctx, video(0, true)); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := s.WriteAccessUnit(ctx, video(33, false)); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
		closeSink(t, s)
		if n := len(r.all(t)); n != 3 {
			t.Errorf("%d messages", n)
		}
	})
}

func TestStats(t *testing.T) {
	r := receive(t)
	s := open(t, "rtmp://"+r.addr+"/app/key", Options{}, []media.Track{h264A})
	u := video(0, true)
	u.Payload = make([]byte, 4<<20)
	write(t, s, u)
	peers.Wait(t, 30*time.Second, "all is acknowledged", func() error {
		st := s.Stats()
		if st.Bytes < 4<<20 || st.AckedBytes != st.Bytes || st.UnsentBytes != 0 || st.UnsentAge != 0 || st.RTT <= 0 {
			return fmt.Errorf("%+v", st)
		}
		if st.Values["rtmp_acknowledged_bytes"] < 2_000_000 {
			return fmt.Errorf("the server acknowledged %v", st.Values)
		}
		return nil
	})
	closeSink(t, s)
}
