package plugintest

import (
	"context"
	"net/netip"
	"net/url"
	"slices"
	"sync"
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
	NewTarget func(t T) *wire.Target
	// StalledTarget returns a target that opens, and reads nothing then; nil leaves
	// out what a slow reader shows.
	StalledTarget func(t T) *wire.Target
	// BadTarget can never work; nil leaves out its checks. BadIsPermanent says that
	// trying again soon is of no use.
	BadTarget      *wire.Target
	BadIsPermanent bool
	// Secrets are values in the options of BadTarget that no error may show, beside
	// its URL and key.
	Secrets []string
	// Options of the plugin as JSON.
	Options []byte
	// Tracks are what the checks send; nil is one track of H.264 (the first of
	// [TestTracks]) and one of AAC.
	Tracks []media.Track

	patience time.Duration // instead of the default
}

// TestEgress runs the checks of an egress.
func TestEgress(t *testing.T, p sdk.Plugin, o EgressOptions) {
	t.Helper()
	EgressSuite(InProcess(p), o).Test(t)
}

// EgressSuite returns the checks of an egress.
func EgressSuite(p Plugin, o EgressOptions) Suite {
	if o.Tracks == nil {
		o.Tracks = TestTracks()
	}
	if o.patience == 0 {
		o.patience = patience
	}
	k := egressKit{o: o, kit: kit{
		plugin: p, options: o.Options, patience: o.patience, kind: wire.SessionKind_SESSION_KIND_EGRESS,
	}}
	k.begin = k.open
	k.work = func(t T, g *Gateway, session uint32) { k.send(t, g, 1, []uint32{session}) }
	checks := []Check{
		{"describe", "Before it has options a plugin says what it is; an egress names its URL schemes and what its targets take.", k.describe},
		{"options", "Option schemas are JSON Schemas of objects, and Validate reports an option that does not exist by its path.", k.validate},
		{"stream", "A session takes its stream, gives credit for every byte of it and no more, and is CLOSED when it was asked to be.", k.stream},
		{"credit", "Credit for all that was dealt with is given back as soon as nothing more is there to be done, without being asked.", k.credit},
		{"two at once", "One unit may be for several sessions; each deals with it and gives credit for it, and none knows of the other.", k.twoAtOnce},
		{"large unit", "A picture may be large: 6 MiB pass, beyond gRPC's own limit of 4 MiB.", k.largeUnit},
		{"B-frames", "PTS differs from DTS where pictures are reordered; such a stream is taken in decoding order.", k.bFrames},
		{"discontinuity", "Units may be missing before one that says Discontinuity; the stream goes on.", k.discontinuity},
		{"change of tracks", "Tracks and decoder configs may change in the middle of a stream, before a random access point; the stream goes on.", k.trackChange},
		{"late units", "Units for a session that has ended, or never was, are ignored.", k.lateUnits},
		{"restricted", "A target that was given by the API leads to no unspecified, link-local or cloud metadata address: it fails for good, and says so.", k.restricted},
	}
	if len(p.program) == 0 && p.serve == nil {
		checks = append(checks, Check{"payload", "Payloads are shared: a sink reads them and changes nothing in them.", k.payload})
	}
	suite := Suite{Kind: "egress"}
	blocking := []Check{
		{"closed while blocked", "A session that is closed without draining inside a write that blocks is CLOSED within 2 s.", k.closedWhileBlocked},
		{"slow neighbour", "A session whose target reads nothing does not hold up its neighbours, and gives no credit for what it has not written.", k.slowNeighbour},
	}
	failing := []Check{
		{"bad target", "A target that cannot work is an error with a message, permanent where the author promises it.", k.badTarget},
		{"secrets", "The text of an error holds no secret: neither the URL of the target, nor its key, nor an option that is one.", k.secrets},
	}
	checks = suite.needs(checks, blocking, o.StalledTarget != nil, "a target that opens and then reads nothing")
	checks = suite.needs(checks, failing, o.BadTarget != nil, "a target that cannot work")
	suite.Checks = slices.Concat(checks, k.common())
	return suite
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
	kit
	o EgressOptions
}

// Before it has options a plugin says what it is; an egress names its URL schemes
// and what its targets take.
func (k egressKit) describe(t T) {
	e := k.described(t).GetEgress()
	a := e.GetAccepts()
	if len(e.GetSchemes()) == 0 || len(a.GetCodecs()) == 0 || a.GetVideoTracks()+a.GetAudioTracks() == 0 {
		t.Errorf("the egress says too little, want schemes, codecs and how many tracks: %v", e)
	}
}

// Option schemas are JSON Schemas of objects, and Validate reports an option that
// does not exist by its path.
func (k egressKit) validate(t T) {
	c := k.plugin.start(t).client
	info := k.checkOptions(t, c)
	target := k.o.NewTarget(t)
	k.checkSchema(t, c, "target_schema", info.GetEgress().GetTargetSchema(), func(o []byte) *wire.ValidateRequest {
		return &wire.ValidateRequest{Targets: []*wire.Target{{Name: "x", Url: target.GetUrl(), Key: target.GetKey(), OptionsJson: o}}}
	}, "targets.0")
	r, err := c.Validate(t.Context(), &wire.ValidateRequest{OptionsJson: k.options, Targets: []*wire.Target{target}})
	if err != nil {
		t.Fatalf("Validate: %v", err)
	}
	for _, d := range r.GetDiagnostics() {
		if !d.GetWarning() {
			t.Errorf("Validate refuses the target that the checks use: %v", d)
		}
	}
}

// A session takes its stream, gives credit for every byte of it and no more, and
// is CLOSED when it was asked to be.
func (k egressKit) stream(t T) {
	_, g := k.attach(t)
	k.open(t, g, 1)
	k.send(t, g, len(k.o.Tracks), []uint32{1})
}

// Credit for all that was dealt with is given back as soon as nothing more is
// there to be done, without being asked.
func (k egressKit) credit(t T) {
	_, g := k.attach(t)
	k.open(t, g, 1)
	for i := range 3 {
		u := unit(k.o.Tracks[0], i, 1500)
		g.Send(mediaMsg(u, 1))
		for owed := len(u.GetPayload()); owed > 0; {
			m := g.Recv()
			if s := m.GetState(); s != nil {
				t.Fatalf("the session is %v", s)
			}
			owed -= int(m.GetCredit().GetBytes())
		}
	}
}

// One unit may be for several sessions; each deals with it and gives credit for
// it, and none knows of the other.
func (k egressKit) twoAtOnce(t T) {
	_, g := k.attach(t)
	k.open(t, g, 1)
	k.open(t, g, 2)
	k.send(t, g, 1, []uint32{1, 2})
}

// A picture may be large: 6 MiB pass, beyond gRPC's own limit of 4 MiB.
func (k egressKit) largeUnit(t T) {
	k.play(t, unit(k.o.Tracks[0], 0, 6<<20))
}

// PTS differs from DTS where pictures are reordered; such a stream is taken in
// decoding order.
func (k egressKit) bFrames(t T) {
	var units []*wire.AccessUnit
	for i := range 12 {
		u := unit(k.o.Tracks[0], i, 1500)
		// Decoding order I P B B P B B: the B-frames are shown before their P.
		shown := 0
		if i > 0 {
			shown = (i-1)/3*3 + []int{3, 1, 2}[(i-1)%3]
		}
		u.PtsNs = int64(time.Duration(shown+1) * time.Second / 30)
		units = append(units, u)
	}
	k.play(t, units...)
}

// Units may be missing before one that says Discontinuity; the stream goes on.
func (k egressKit) discontinuity(t T) {
	key := unit(k.o.Tracks[0], 60, 1500)
	key.Flags |= uint32(wire.Flag_FLAG_DISCONTINUITY)
	k.play(t, unit(k.o.Tracks[0], 0, 1500), unit(k.o.Tracks[0], 1, 1500), key, unit(k.o.Tracks[0], 61, 1500))
}

// play sends units of the first track and drains the session.
func (k egressKit) play(t T, units ...*wire.AccessUnit) {
	t.Helper()
	_, g := k.attach(t)
	k.open(t, g, 1)
	sent := uint64(0)
	for _, u := range units {
		sent += uint64(len(u.GetPayload()))
		g.Send(mediaMsg(u, 1))
	}
	g.Send(closeMsg(1, true))
	s, credit := g.State(1)
	if s.GetState() != wire.SessionState_CLOSED {
		t.Errorf("the session ended with %v, not CLOSED", s)
	} else if credit[1] != sent {
		t.Errorf("credit for %d bytes of %d", credit[1], sent)
	}
}

// Tracks and decoder configs may change in the middle of a stream, before a
// random access point; the stream goes on.
func (k egressKit) trackChange(t T) {
	_, g := k.attach(t)
	k.open(t, g, 1)
	sent := 0
	send := func(n int) {
		u := unit(k.o.Tracks[0], n, 1500)
		sent += len(u.GetPayload())
		g.Send(mediaMsg(u, 1))
	}
	send(0)
	send(1)
	changed := slices.Clone(k.o.Tracks)
	changed[0].Width, changed[0].Height, changed[0].BitrateBitsPerSecond = 640, 480, 1_000_000
	if changed[0].Codec == media.H264 && len(changed[0].DecoderConfig) > 3 {
		changed[0].DecoderConfig = slices.Clone(changed[0].DecoderConfig)
		changed[0].DecoderConfig[3]++ // another level
	}
	g.Send(tracksMsg(changed, 1))
	send(30)
	send(31)
	g.Send(closeMsg(1, true))
	s, credit := g.State(1)
	if s.GetState() != wire.SessionState_CLOSED {
		t.Errorf("the session ended with %v, not CLOSED", s)
	} else if credit[1] != uint64(sent) {
		t.Errorf("credit for %d bytes of %d", credit[1], sent)
	}
}

// Units for a session that has ended, or never was, are ignored.
func (k egressKit) lateUnits(t T) {
	_, g := k.attach(t)
	k.open(t, g, 1)
	g.Send(closeMsg(1, true))
	g.State(1)
	g.Send(tracksMsg(k.o.Tracks, 1, 99))
	g.Send(mediaMsg(unit(k.o.Tracks[0], 0, 1500), 1, 99))
	g.Send(closeMsg(99, true))
	k.open(t, g, 2)
	k.send(t, g, 1, []uint32{2})
}

// A target that was given by the API leads to no unspecified, link-local or cloud
// metadata address: it fails for good, and says so.
func (k egressKit) restricted(t T) {
	target := k.o.NewTarget(t)
	elsewhere, ok := unspecified(target.GetUrl())
	if !ok {
		t.Skipf("needs a target at a loopback address")
	}
	// The unspecified address leads to this machine too: that of a target which
	// anybody may have, and one that nothing outside is asked for.
	target.Url = elsewhere
	_, g := k.attach(t)
	g.Send(k.openMsg(1, target))
	if s, _ := g.State(1); s.GetState() != wire.SessionState_READY {
		t.Skipf("needs a target that can be reached at 0.0.0.0 as well: %s", s.GetMessage())
	}
	g.Send(closeMsg(1, true))
	g.State(1)
	target.Restricted = true
	g.Send(k.openMsg(2, target))
	switch s, _ := g.State(2); {
	case s.GetState() != wire.SessionState_FAILED:
		t.Errorf("it connects to %s; use sdk.Target.Control in the dialer in Go, and look at each address behind the name look-up elsewhere", hostOf(elsewhere))
	case !s.GetPermanent() || s.GetMessage() == "":
		t.Errorf("it fails, but permanent is %v and the message %q", s.GetPermanent(), s.GetMessage())
	}
}

// unspecified is a URL that leads to a loopback address, with the unspecified address
// in its place.
func unspecified(raw string) (string, bool) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", false
	}
	at, err := netip.ParseAddr(u.Hostname())
	if err != nil || !at.IsLoopback() {
		return "", false
	}
	host := netip.IPv4Unspecified().String()
	if at.Is6() {
		host = "[" + netip.IPv6Unspecified().String() + "]"
	}
	if port := u.Port(); port != "" {
		host += ":" + port
	}
	u.Host = host
	return u.String(), true
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// stalled opens a session whose target reads nothing and sends to it until its
// window is used up.
func (k egressKit) stalled(t T, g *Gateway, session uint32) {
	t.Helper()
	const quiet = 500 * time.Millisecond // without credit: the target takes no more
	window := k.openTarget(t, g, session, k.o.StalledTarget(t))
	owed := 0
	for i := 0; ; i++ {
		for taken := time.Now(); owed >= int(window); {
			m, ok := g.RecvWithin(quiet - time.Since(taken))
			if !ok {
				return
			}
			if s := m.GetState(); s != nil {
				t.Fatalf("the session is %v", s)
			}
			if c := m.GetCredit(); c.GetBytes() > 0 {
				owed -= int(c.GetBytes())
				taken = time.Now()
			}
		}
		u := unit(k.o.Tracks[0], i, 16<<10)
		owed += len(u.GetPayload())
		g.Send(mediaMsg(u, session))
		if i > 16<<10 {
			t.Fatalf("the target that shall read nothing has taken %d MiB", i>>6)
		}
	}
}

// A session that is closed without draining inside a write that blocks is CLOSED
// within 2 s.
func (k egressKit) closedWhileBlocked(t T) {
	_, g := k.attach(t)
	k.closeFast(t, g, func(session uint32) { k.stalled(t, g, session) })
}

// A session whose target reads nothing does not hold up its neighbours, and gives
// no credit for what it has not written.
func (k egressKit) slowNeighbour(t T) {
	_, g := k.attach(t)
	k.stalled(t, g, 1)
	k.open(t, g, 2)
	k.send(t, g, 1, []uint32{2})
}

// Payloads are shared: a sink reads them and changes nothing in them.
func (k egressKit) payload(t T) {
	p := k.plugin.sdk
	e := *p.Egress
	w := &watchedEgress{Egress: e.Egress}
	e.Egress, e.OpensEarly, p.Egress = w, false, &e
	k.plugin = InProcess(p)
	_, g := k.attach(t)
	k.open(t, g, 1)
	k.send(t, g, len(k.o.Tracks), []uint32{1})
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.units {
		if checksum(u.unit.Payload) != u.sum {
			t.Errorf("the payload of unit %d of track %d was changed; copy it before", u.unit.Seq, u.unit.Track)
			return
		}
	}
}

// A watchedEgress remembers the units that its sinks were given.
type watchedEgress struct {
	sdk.Egress
	mu    sync.Mutex // guards units
	units []watchedUnit
}

type watchedUnit struct {
	unit *media.AccessUnit
	sum  string
}

// Configure implements [sdk.Configurer] for an egress that does.
func (e *watchedEgress) Configure(decode func(v any) error) error {
	if c, ok := e.Egress.(sdk.Configurer); ok {
		return c.Configure(decode)
	}
	return nil
}

func (e *watchedEgress) Open(ctx context.Context, target sdk.Target, tracks []media.Track) (sdk.Sink, error) {
	s, err := e.Egress.Open(ctx, target, tracks)
	if err != nil {
		return nil, err
	}
	return watchedSink{s, e}, nil
}

type watchedSink struct {
	sdk.Sink
	e *watchedEgress
}

func (s watchedSink) WriteAccessUnit(ctx context.Context, u *media.AccessUnit) error {
	s.e.mu.Lock()
	s.e.units = append(s.e.units, watchedUnit{u, checksum(u.Payload)})
	s.e.mu.Unlock()
	return s.Sink.WriteAccessUnit(ctx, u)
}

// A target that cannot work is an error with a message, permanent where the
// author promises it.
func (k egressKit) badTarget(t T) {
	s := k.failure(t)
	if s.GetState() != wire.SessionState_FAILED {
		t.Fatalf("the session is %v, not FAILED", s)
	}
	if s.GetPermanent() != k.o.BadIsPermanent {
		t.Errorf("permanent is %v, want %v", s.GetPermanent(), k.o.BadIsPermanent)
	}
	if s.GetMessage() == "" {
		t.Errorf("there is no message")
	}
}

// The text of an error holds no secret: neither the URL of the target, nor its
// key, nor an option that is one.
func (k egressKit) secrets(t T) {
	s := k.failure(t)
	bad := k.o.BadTarget
	noSecrets(t, s.GetMessage(), append(k.o.Secrets, bad.GetUrl(), bad.GetKey())...)
}

// failure opens the bad target and returns the last that is heard of it.
func (k egressKit) failure(t T) *wire.SessionState {
	t.Helper()
	_, g := k.attach(t)
	g.Send(k.openMsg(1, k.o.BadTarget))
	s, _ := g.State(1)
	if s.GetState() != wire.SessionState_READY {
		return s
	}
	// It may show with the first unit only.
	g.Send(tracksMsg(k.o.Tracks, 1))
	g.Send(mediaMsg(unit(k.o.Tracks[0], 0, 1000), 1))
	for deadline := time.Now().Add(k.patience); ; {
		m, err := g.next(time.Until(deadline))
		if err != nil {
			return s
		}
		if m.GetState().GetSession() == 1 {
			return m.GetState()
		}
	}
}

// open opens a session and waits until it is ready.
func (k egressKit) open(t T, g *Gateway, session uint32) {
	t.Helper()
	k.openTarget(t, g, session, k.o.NewTarget(t))
}

// openTarget opens a session to a target and returns its window.
func (k egressKit) openTarget(t T, g *Gateway, session uint32, target *wire.Target) uint64 {
	t.Helper()
	g.Send(k.openMsg(session, target))
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
	g.Send(tracksMsg(k.o.Tracks, session))
	return s.GetWindowBytes()
}

// send sends 100 units of each of the first tracks to the sessions within their
// least window, closes them, and checks that all was dealt with.
func (k egressKit) send(t T, g *Gateway, tracks int, sessions []uint32) {
	t.Helper()
	sent := uint64(0)
	owed := make(map[uint32]int)
	over := make(map[uint32]bool)
	take := func(m *wire.PluginMsg) {
		if c := m.GetCredit(); c != nil && slices.Contains(sessions, c.GetSession()) {
			if owed[c.GetSession()] -= int(c.GetBytes()); owed[c.GetSession()] < 0 {
				t.Fatalf("session %d gives credit for more than it was sent", c.GetSession())
			}
		}
		if s := m.GetState(); s != nil {
			if s.GetState() != wire.SessionState_CLOSED {
				t.Fatalf("session %d is %v", s.GetSession(), s)
			}
			over[s.GetSession()] = true
		}
	}
	for i := range 100 {
		for _, track := range k.o.Tracks[:tracks] {
			u := unit(track, i, 1500)
			for _, s := range sessions {
				for owed[s] >= wire.MinWindowBytes {
					take(g.Recv())
				}
			}
			for _, s := range sessions {
				owed[s] += len(u.GetPayload())
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
			t.Errorf("session %d gave no credit for %d bytes of %d", s, owed[s], sent)
		}
	}
}

func (k egressKit) openMsg(session uint32, target *wire.Target) *wire.HostMsg {
	return &wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: session, Kind: k.kind, StreamId: 1, Stream: "plugintest",
		Attempt: 1, Target: target, Tracks: wire.FromTracks(k.o.Tracks),
	}}}
}
