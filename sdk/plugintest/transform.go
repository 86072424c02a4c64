package plugintest

import (
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// TransformOptions tells [TestTransform] about the plugin.
type TransformOptions struct {
	// In is the track that is sent, To the codec that is asked for: silence where
	// they are of two kinds.
	In media.Track
	To media.Codec
	// Payload returns the payload of unit n of the input, 20 ms each; nil makes one
	// of 160 bytes.
	Payload func(n int) []byte
	// BadPayload is one that cannot be transformed; nil leaves out its check.
	BadPayload []byte
	// Options of the plugin as JSON.
	Options []byte

	patience time.Duration // instead of the default
}

// TestTransform runs the checks of a transform.
func TestTransform(t *testing.T, p sdk.Plugin, o TransformOptions) {
	t.Helper()
	TransformSuite(InProcess(p), o).Test(t)
}

// TransformSuite returns the checks of a transform.
func TransformSuite(p Plugin, o TransformOptions) Suite {
	if o.patience == 0 {
		o.patience = patience
	}
	if o.In.ID == 0 {
		o.In.ID = 2
	}
	k := transformKit{o: o, kit: kit{
		plugin: p, options: o.Options, patience: o.patience, kind: wire.SessionKind_SESSION_KIND_TRANSFORM,
	}}
	k.begin = func(t T, g *Gateway, session uint32) { k.open(t, g, session, wire.IngestWindowBytes) }
	k.work = func(t T, g *Gateway, session uint32) {
		k.derive(t, g, session, 0, 50)
	}
	suite := Suite{Kind: "transform"}
	suite.Checks = []Check{
		{"describe", "Before it has options a plugin says what it is; a transform names the codec that it takes (none: it makes silence) and the one that it makes.", k.describe},
		{"options", "Option schemas are JSON Schemas of objects, and Validate reports an option that does not exist by its path.", k.validate},
		{"derive", "A session announces the derived track, with the number that was asked for, before its units; their DTS rises strictly, and credit is given for every byte of the input.", k.stream},
		{"credit", "A session never has more output unacknowledged than its credit and one unit, and goes on when credit is given back.", k.credit},
		{"change of the track", "The input may change its description between two units; the derived track goes on.", k.trackChange},
		{"unknown pair", "A session for codecs that the plugin did not name is FAILED, permanently.", k.unknownPair},
		{"two at once", "Two sessions derive their own tracks and do not know of each other.", k.twoAtOnce},
	}
	suite.Checks = suite.needs(suite.Checks, []Check{
		{"bad unit", "A unit that cannot be transformed costs itself alone: credit is given for it, and the session goes on.", k.badUnit},
	}, o.BadPayload != nil, "a payload that cannot be transformed")
	suite.Checks = append(suite.Checks, k.common()...)
	return suite
}

type transformKit struct {
	kit
	o TransformOptions
}

// outTrack is the number that the derived track shall have.
const outTrack = 7

// Before it has options a plugin says what it is; a transform names the codec that
// it takes (none: it makes silence) and the one that it makes.
func (k transformKit) describe(t T) {
	info := k.described(t)
	from := k.o.In.Codec
	if from.Kind() != k.o.To.Kind() {
		from = "" // silence
	}
	for _, tr := range info.GetTransforms() {
		if tr.GetFrom() == string(from) && tr.GetTo() == string(k.o.To) {
			return
		}
	}
	t.Errorf("%s to %s is not among its transforms: %v", k.o.In.Codec, k.o.To, info.GetTransforms())
}

// A session announces the derived track, with the number that was asked for,
// before its units; their DTS rises strictly, and credit is given for every byte
// of the input.
func (k transformKit) stream(t T) {
	_, g := k.attach(t)
	k.begin(t, g, 1)
	k.derive(t, g, 1, 0, 100)
}

// unit is unit n of the input.
func (k transformKit) unit(n int) *wire.AccessUnit {
	u := unit(k.o.In, n, 160)
	if k.o.Payload != nil {
		u.Payload = k.o.Payload(n)
	}
	return u
}

// derive sends units from number from on, drains the session, and checks what comes
// out until it is closed: that all of them are credited and some units have come.
func (k transformKit) derive(t T, g *Gateway, session uint32, from, n int) {
	t.Helper()
	owed := 0
	var tracks []media.Track
	last := map[uint32]int64{}
	units := 0
	closed := false
	take := func() {
		m := g.Recv()
		if s := m.GetState(); s.GetSession() == session && s != nil {
			if s.GetState() != wire.SessionState_CLOSED {
				t.Fatalf("the session is %v", s)
			}
			closed = true
		}
		if c := m.GetCredit(); c.GetSession() == session {
			owed -= int(c.GetBytes()) // that of units before may come late
		}
		if ts := m.GetTracks(); ts != nil && ts.GetSessions()[0] == session {
			tracks = wire.ToTracks(ts.GetTracks())
			if len(tracks) != 1 || tracks[0].ID != outTrack || tracks[0].Codec != k.o.To || tracks[0].DerivedFrom != k.o.In.ID {
				t.Errorf("the derived track is %+v, want number %d, %s, derived from %d", tracks, outTrack, k.o.To, k.o.In.ID)
			}
		}
		for _, u := range m.GetMedia().GetUnits() {
			if u.GetSessions()[0] == session {
				units++
				if from == 0 { // else the track was announced before
					checkUnit(t, tracks, last, u)
				}
				g.Send(creditMsg(session, len(u.GetPayload())))
			}
		}
	}
	for i := from; i < from+n; i++ {
		u := k.unit(i)
		for owed+len(u.GetPayload()) > wire.MinWindowBytes {
			take()
		}
		owed += len(u.GetPayload())
		g.Send(mediaMsg(u, session))
	}
	g.Send(closeMsg(session, true))
	for !closed {
		take()
	}
	if owed > 0 {
		t.Errorf("no credit for %d bytes of the input", owed)
	}
	if units == 0 {
		t.Errorf("no unit came out of %d", n)
	}
}

// A session never has more output unacknowledged than its credit and one unit, and
// goes on when credit is given back.
func (k transformKit) credit(t T) {
	_, g := k.attach(t)
	const window = 400
	k.open(t, g, 1, window)
	sent := 0
	for n := range 200 {
		u := k.unit(n)
		if sent += len(u.GetPayload()); sent > wire.MinWindowBytes {
			break
		}
		g.Send(mediaMsg(u, 1))
	}
	for range 3 {
		owed, largest := 0, 0
		take := func(m *wire.PluginMsg) {
			for _, u := range m.GetMedia().GetUnits() {
				owed += len(u.GetPayload())
				largest = max(largest, len(u.GetPayload()))
			}
			if owed > window+largest {
				t.Fatalf("%d bytes are unacknowledged, with a window of %d", owed, window)
			}
		}
		for deadline := time.Now().Add(k.patience); owed < window; {
			m, err := g.next(time.Until(deadline))
			if err != nil {
				t.Fatalf("with credit for %d bytes more: %v", window-owed, err)
			}
			take(m)
		}
		settled(t, g, creditQuiet, take)
		g.Send(creditMsg(1, owed))
	}
}

// The input may change its description between two units; the derived track goes
// on.
func (k transformKit) trackChange(t T) {
	_, g := k.attach(t)
	k.begin(t, g, 1)
	for i := range 20 {
		g.Send(mediaMsg(k.unit(i), 1))
	}
	changed := k.o.In
	changed.BitrateBitsPerSecond += 8000
	g.Send(tracksMsg([]media.Track{changed}, 1))
	k.derive(t, g, 1, 20, 20)
}

// A session for codecs that the plugin did not name is FAILED, permanently.
func (k transformKit) unknownPair(t T) {
	_, g := k.attach(t)
	m := k.openMsg(1, wire.IngestWindowBytes)
	m.GetOpen().Transform.To = "telepathy"
	g.Send(m)
	if s, _ := g.State(1); s.GetState() != wire.SessionState_FAILED || !s.GetPermanent() || s.GetMessage() == "" {
		t.Errorf("the session is %v, want FAILED, permanent, and a message", s)
	}
}

// Two sessions derive their own tracks and do not know of each other.
func (k transformKit) twoAtOnce(t T) {
	_, g := k.attach(t)
	k.begin(t, g, 1)
	k.begin(t, g, 2)
	k.derive(t, g, 2, 0, 50)
	// What the first announced came while nobody looked.
	k.derive(t, g, 1, 1, 50)
}

// A unit that cannot be transformed costs itself alone: credit is given for it,
// and the session goes on.
func (k transformKit) badUnit(t T) {
	_, g := k.attach(t)
	k.begin(t, g, 1)
	bad := k.unit(0)
	bad.Payload = k.o.BadPayload
	g.Send(mediaMsg(bad, 1))
	for owed := len(bad.GetPayload()); owed > 0; {
		m := g.Recv()
		if s := m.GetState(); s != nil {
			t.Fatalf("the session is %v", s)
		}
		owed -= int(m.GetCredit().GetBytes())
	}
	k.derive(t, g, 1, 1, 50)
}

func (k transformKit) openMsg(session uint32, window int) *wire.HostMsg {
	return &wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: session, Kind: k.kind, StreamId: 1, Stream: "plugintest",
		Transform: &wire.Transform{To: string(k.o.To), Track: outTrack},
		Tracks:    wire.FromTracks([]media.Track{k.o.In}), InitialCreditBytes: uint64(window),
	}}}
}

// open opens a session and waits until it is ready.
func (k transformKit) open(t T, g *Gateway, session uint32, window int) {
	t.Helper()
	g.Send(k.openMsg(session, window))
	s, _ := g.State(session)
	if s.GetState() != wire.SessionState_READY {
		t.Fatalf("the session is not ready: %v", s)
	}
	if s.GetWindowBytes() < wire.MinWindowBytes {
		t.Errorf("a window of %d bytes, less than %d", s.GetWindowBytes(), wire.MinWindowBytes)
	}
}
