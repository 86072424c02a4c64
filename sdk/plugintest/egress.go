package plugintest

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// EgressOptions tells [TestEgress] about the plugin.
type EgressOptions struct {
	// NewTarget returns a target that takes a stream; it is called for each
	// session that the checks open.
	NewTarget func(t *testing.T) *wire.Target
	// BadTarget can never work; nil leaves out its check. BadIsPermanent says that
	// trying again soon is of no use.
	BadTarget      *wire.Target
	BadIsPermanent bool
	// Options of the plugin as JSON.
	Options []byte
	// Tracks are what the checks send; nil is one track of H.264 (the first of
	// [TestTracks]) and one of AAC.
	Tracks []media.Track
}

// TestEgress runs the checks of an egress.
func TestEgress(t *testing.T, p sdk.Plugin, o EgressOptions) {
	if o.Tracks == nil {
		o.Tracks = TestTracks()
	}
	k := egressKit{plugin: p, o: o}
	t.Run("describe", k.describe)
	t.Run("stream", k.stream)
	t.Run("two at once", k.twoAtOnce)
	t.Run("closed while idle", k.closedWhileIdle)
	t.Run("large unit", k.largeUnit)
	if o.BadTarget != nil {
		t.Run("bad target", k.badTarget)
	}
}

// TestTracks returns a track of H.264 (320x240, constrained baseline) and one of
// AAC (48 kHz, stereo).
func TestTracks() []media.Track {
	return []media.Track{
		{ID: 1, Codec: media.H264, Width: 320, Height: 240, FrameRate: 30, DecoderConfig: []byte{
			1, 0x42, 0xc0, 0x0d, 0xff,
			0xe1, 0, 10, 0x67, 0x42, 0xc0, 0x0d, 0xd9, 0x01, 0x41, 0xfb, 0x01, 0x10,
			1, 0, 4, 0x68, 0xce, 0x38, 0x80,
		}},
		{ID: 2, Codec: media.AAC, SampleRateHz: 48000, Channels: 2, DecoderConfig: []byte{0x11, 0x90}},
	}
}

type egressKit struct {
	plugin sdk.Plugin
	o      EgressOptions
}

// A plugin says what it is before it has options, and an egress names its URL
// schemes and the codecs that its targets take.
func (k egressKit) describe(t *testing.T) {
	info, err := Connect(t, k.plugin).Describe(t.Context(), &wire.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if info.GetName() == "" || info.GetVersion() == "" {
		t.Errorf("name %q, version %q", info.GetName(), info.GetVersion())
	}
	e := info.GetEgress()
	a := e.GetAccepts()
	if len(e.GetSchemes()) == 0 || len(a.GetCodecs()) == 0 || a.GetVideoTracks()+a.GetAudioTracks() == 0 {
		t.Errorf("the egress says too little: %v", e)
	}
}

// A session takes its stream, gives credit back for every byte of it, and is
// closed when it was asked to be.
func (k egressKit) stream(t *testing.T) {
	g := Attach(t, Connect(t, k.plugin), k.o.Options)
	k.open(t, g, 1)
	k.send(t, g, 1)
}

// Two targets at once do not know of each other.
func (k egressKit) twoAtOnce(t *testing.T) {
	g := Attach(t, Connect(t, k.plugin), k.o.Options)
	k.open(t, g, 1)
	k.open(t, g, 2)
	k.send(t, g, 1, 2)
}

// A session that is closed between two units, without draining, is over within
// 2 s.
func (k egressKit) closedWhileIdle(t *testing.T) {
	g := Attach(t, Connect(t, k.plugin), k.o.Options)
	k.open(t, g, 1)
	began := time.Now()
	g.Send(closeMsg(1, false))
	if s, _ := g.State(1); s.GetState() != wire.SessionState_CLOSED {
		t.Errorf("the session ended with %v", s)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("closing took %v", took)
	}
}

// A picture may be large: 6 MiB pass, beyond gRPC's own limit of 4 MiB.
func (k egressKit) largeUnit(t *testing.T) {
	g := Attach(t, Connect(t, k.plugin), k.o.Options)
	k.open(t, g, 1)
	u := unit(k.o.Tracks[0], 0, 6<<20)
	g.Send(mediaMsg(u, 1))
	g.Send(closeMsg(1, true))
	if s, credit := g.State(1); s.GetState() != wire.SessionState_CLOSED || credit[1] != uint64(len(u.GetPayload())) {
		t.Errorf("the session ended with %v and credit for %d bytes", s, credit[1])
	}
}

// A target that cannot work is an error, permanent where the author promises it,
// and its text holds neither the URL nor the key.
func (k egressKit) badTarget(t *testing.T) {
	g := Attach(t, Connect(t, k.plugin), k.o.Options)
	bad := k.o.BadTarget
	g.Send(k.openMsg(1, bad))
	s, _ := g.State(1)
	if s.GetState() == wire.SessionState_READY { // it may show with the first unit only
		g.Send(mediaMsg(unit(k.o.Tracks[0], 0, 1000), 1))
		s, _ = g.State(1)
	}
	if s.GetState() != wire.SessionState_FAILED {
		t.Fatalf("the session is %v", s)
	}
	if s.GetPermanent() != k.o.BadIsPermanent {
		t.Errorf("permanent is %v", s.GetPermanent())
	}
	if s.GetMessage() == "" {
		t.Error("there is no message")
	}
	for _, secret := range []string{bad.GetUrl(), bad.GetKey()} {
		if secret != "" && strings.Contains(s.GetMessage(), secret) {
			t.Errorf("a secret is in the message %q", s.GetMessage())
		}
	}
}

// open opens a session and waits until it is ready.
func (k egressKit) open(t *testing.T, g *Gateway, session uint32) {
	t.Helper()
	g.Send(k.openMsg(session, k.o.NewTarget(t)))
	s, _ := g.State(session)
	if s.GetState() != wire.SessionState_READY {
		t.Fatalf("the session is not ready: %v", s)
	}
	if s.GetWindowBytes() < wire.MinWindowBytes {
		t.Errorf("a window of %d bytes, less than %d", s.GetWindowBytes(), wire.MinWindowBytes)
	}
	if a := s.GetAccepts(); len(a.GetCodecs()) == 0 {
		t.Errorf("the session does not say what its peer takes: %v", a)
	}
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Tracks{Tracks: &wire.TrackSet{
		Sessions: []uint32{session}, Tracks: wire.FromTracks(k.o.Tracks),
	}}})
}

// send sends 100 units of each track to the sessions within their least window,
// closes them, and checks that all was dealt with.
func (k egressKit) send(t *testing.T, g *Gateway, sessions ...uint32) {
	t.Helper()
	sent := uint64(0)
	owed := make(map[uint32]uint64)
	over := make(map[uint32]bool)
	take := func(m *wire.PluginMsg) {
		if c := m.GetCredit(); c != nil {
			owed[c.GetSession()] -= c.GetBytes()
		}
		if s := m.GetState(); s != nil {
			if s.GetState() != wire.SessionState_CLOSED {
				t.Fatalf("session %d is %v", s.GetSession(), s)
			}
			over[s.GetSession()] = true
		}
	}
	for i := range 100 {
		for _, track := range k.o.Tracks {
			u := unit(track, i, 1500)
			for _, s := range sessions {
				for owed[s] >= wire.MinWindowBytes {
					take(g.Recv())
				}
			}
			for _, s := range sessions {
				owed[s] += uint64(len(u.GetPayload()))
			}
			sent += uint64(len(u.GetPayload()))
			g.Send(mediaMsg(u, sessions...))
		}
	}
	for _, s := range sessions {
		g.Send(closeMsg(s, true))
	}
	for len(over) < len(sessions) {
		take(g.Recv())
	}
	for _, s := range sessions {
		if owed[s] != 0 {
			t.Errorf("session %d never dealt with %d bytes of %d", s, int64(owed[s]), sent)
		}
	}
}

func (k egressKit) openMsg(session uint32, target *wire.Target) *wire.HostMsg {
	return &wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: session, Kind: wire.SessionKind_SESSION_KIND_EGRESS, StreamId: 1, Stream: "plugintest",
		Attempt: 1, Target: target, Tracks: wire.FromTracks(k.o.Tracks),
	}}}
}

func closeMsg(session uint32, drain bool) *wire.HostMsg {
	return &wire.HostMsg{M: &wire.HostMsg_Close{Close: &wire.Close{Session: session, Reason: "the test is over", Drain: drain}}}
}

func mediaMsg(u *wire.AccessUnit, sessions ...uint32) *wire.HostMsg {
	u.Sessions = sessions
	return &wire.HostMsg{M: &wire.HostMsg_Media{Media: &wire.AccessUnits{Units: []*wire.AccessUnit{u}}}}
}

// unit returns unit n of a track: of pictures one key frame in 30, of sound 20 ms.
func unit(t media.Track, n, size int) *wire.AccessUnit {
	u := &wire.AccessUnit{Track: uint32(t.ID), Seq: uint32(n)}
	interval := 20 * time.Millisecond
	if t.Codec.Kind() == media.Video {
		interval = time.Second / 30
	}
	if t.Codec.Kind() != media.Video || n%30 == 0 {
		u.Flags = uint32(wire.Flag_FLAG_RANDOM_ACCESS)
	}
	u.DtsNs = int64(n) * int64(interval)
	u.PtsNs = u.DtsNs
	u.DurationNs = uint64(interval)
	u.Payload = bytes.Repeat([]byte{0x5a}, size)
	if t.Codec == media.H264 {
		binary.BigEndian.PutUint32(u.Payload, uint32(size-4))
		u.Payload[4] = 0x41
		if n%30 == 0 {
			u.Payload[4] = 0x65
		}
	}
	return u
}
