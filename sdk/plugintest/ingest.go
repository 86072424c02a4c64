package plugintest

import (
	"slices"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// IngestOptions tells [TestIngest] about the plugin. Either PullURL or Publish is
// needed.
type IngestOptions struct {
	// PullURL is a source that delivers media for as long as the checks look.
	PullURL string
	// Publish makes a publisher come, who offers a stream and sends media for as
	// long as the checks look. g.HTTPSocket is where the plugin's mounts are. It is
	// called once per session, and must not wait for the gateway's answer.
	Publish func(t T, g *Gateway)
	// BadURL can never be pulled; empty leaves out its check.
	BadURL string
	// Options of the plugin as JSON.
	Options []byte

	patience time.Duration // instead of the default
}

// TestIngest runs the checks of an ingest.
func TestIngest(t *testing.T, p sdk.Plugin, o IngestOptions) {
	t.Helper()
	IngestSuite(InProcess(p), o).Test(t)
}

// IngestSuite returns the checks of an ingest.
func IngestSuite(p Plugin, o IngestOptions) Suite {
	if o.patience == 0 {
		o.patience = patience
	}
	k := ingestKit{o: o, kit: kit{
		plugin: p, options: o.Options, patience: o.patience, kind: wire.SessionKind_SESSION_KIND_INGEST,
	}}
	k.begin = func(t T, g *Gateway, session uint32) { k.open(t, g, session, wire.IngestWindowBytes) }
	k.work = func(t T, g *Gateway, session uint32) {
		k.watch(t, g, session, 10)
		g.Send(closeMsg(session, true))
		if s, _ := g.State(session); s.GetState() != wire.SessionState_CLOSED {
			t.Errorf("the session ended with %v, not CLOSED", s)
		}
	}
	suite := Suite{Kind: "ingest"}
	suite.Checks = []Check{
		{"describe", "Before it has options a plugin says what it is; an ingest names the codecs that it delivers.", k.describe},
		{"options", "Option schemas are JSON Schemas of objects, and Validate reports an option that does not exist by its path, and nothing of a source that can be pulled.", k.validate},
		{"publish", "A session announces its tracks before their units, begins pictures at a random access point, and lets the DTS of each track rise strictly.", k.publish},
		{"credit", "A session never has more unacknowledged than its credit and one unit, and goes on when credit is given back.", k.credit},
		{"feedback", "Requests for key frames and target bitrates are taken at any time, also by a source that cannot follow them.", k.feedback},
	}
	suite.Checks = suite.needs(suite.Checks, []Check{
		{"rejected", "An offer that is rejected opens nothing: no session and no media follow.", k.rejected},
	}, o.Publish != nil, "a publisher")
	suite.Checks = suite.needs(suite.Checks, []Check{
		{"bad source", "A source that cannot be pulled ends its session as FAILED, with a message that does not hold its URL.", k.badSource},
	}, o.BadURL != "", "a URL that cannot be pulled")
	suite.Checks = append(suite.Checks, k.common()...)
	return suite
}

type ingestKit struct {
	kit
	o IngestOptions
}

// Before it has options a plugin says what it is; an ingest names the codecs that
// it delivers.
func (k ingestKit) describe(t T) {
	i := k.described(t).GetIngest()
	if len(i.GetCodecs()) == 0 {
		t.Errorf("the ingest names no codecs: %v", i)
	}
	if k.o.PullURL != "" && len(i.GetSchemes()) == 0 {
		t.Errorf("the ingest names no schemes of URLs that it can pull: %v", i)
	}
}

// Option schemas are JSON Schemas of objects, and Validate reports an option that
// does not exist by its path, and nothing of a source that can be pulled.
func (k ingestKit) validate(t T) {
	c := k.plugin.start(t).client
	k.checkOptions(t, c)
	if k.o.PullURL == "" {
		return
	}
	r, err := c.Validate(t.Context(), &wire.ValidateRequest{OptionsJson: k.options, Sources: []string{k.o.PullURL}})
	if err != nil {
		t.Fatalf("Validate: %v", err)
	}
	for _, d := range r.GetDiagnostics() {
		if !d.GetWarning() {
			t.Errorf("Validate refuses the source that the checks use: %v", d)
		}
	}
}

// A session announces its tracks before their units, begins pictures at a random
// access point, and lets the DTS of each track rise strictly.
func (k ingestKit) publish(t T) {
	_, g := k.attach(t)
	k.open(t, g, 1, wire.IngestWindowBytes)
	k.watch(t, g, 1, 100)
}

// watch checks what a session sends until that is so many units, and gives credit.
func (k ingestKit) watch(t T, g *Gateway, session uint32, units int) {
	t.Helper()
	var tracks []media.Track
	last := map[uint32]int64{}
	for n := 0; n < units; {
		m := g.Recv()
		if s := m.GetState(); s.GetSession() == session && s != nil {
			t.Fatalf("the session ended after %d units: %v", n, s)
		}
		if ts := m.GetTracks(); ts != nil && slices.Contains(ts.GetSessions(), session) {
			tracks = wire.ToTracks(ts.GetTracks())
			checkTracks(t, tracks)
		}
		for _, u := range m.GetMedia().GetUnits() {
			if !slices.Equal(u.GetSessions(), []uint32{session}) {
				continue
			}
			n++
			checkUnit(t, tracks, last, u)
			g.Send(creditMsg(session, len(u.GetPayload())))
		}
	}
}

// checkTracks checks what a plugin announces.
func checkTracks(t T, tracks []media.Track) {
	t.Helper()
	seen := map[media.TrackID]bool{}
	for _, track := range tracks {
		if track.ID == 0 || seen[track.ID] {
			t.Errorf("track number %d is 0 or used twice", track.ID)
		}
		seen[track.ID] = true
		if track.Codec == "" {
			t.Errorf("track %d has no codec", track.ID)
		}
	}
}

// checkUnit checks one unit against the tracks and the DTS of those before.
func checkUnit(t T, tracks []media.Track, last map[uint32]int64, u *wire.AccessUnit) {
	t.Helper()
	id := u.GetTrack()
	i := slices.IndexFunc(tracks, func(t media.Track) bool { return t.ID == media.TrackID(id) })
	before, known := last[id]
	last[id] = u.GetDtsNs()
	switch {
	case i < 0:
		t.Fatalf("a unit of track %d, which was not announced before", id)
	case len(u.GetPayload()) == 0:
		t.Errorf("a unit of track %d is empty", id)
	case len(u.GetPayload()) > wire.MaxPayloadBytes:
		t.Errorf("a unit of %d bytes, more than %d", len(u.GetPayload()), wire.MaxPayloadBytes)
	case known && u.GetDtsNs() <= before:
		t.Fatalf("the DTS of track %d does not rise: %v after %v", id, time.Duration(u.GetDtsNs()), time.Duration(before))
	case !known && tracks[i].Codec.Kind() == media.Video && u.GetFlags()&uint32(wire.Flag_FLAG_RANDOM_ACCESS) == 0:
		t.Errorf("the pictures of track %d do not begin at a random access point", id)
	case !known && !tracks[i].Complete():
		t.Errorf("track %d has units, and no decoder config", id)
	}
}

// A session never has more unacknowledged than its credit and one unit, and goes
// on when credit is given back.
func (k ingestKit) credit(t T) {
	_, g := k.attach(t)
	const window = 4 << 10
	k.open(t, g, 1, window)
	sent := 0
	for range 3 { // the window three times over
		owed, largest := 0, 0
		take := func(m *wire.PluginMsg) {
			if s := m.GetState(); s != nil {
				t.Fatalf("the session is %v", s)
			}
			for _, u := range m.GetMedia().GetUnits() {
				owed += len(u.GetPayload())
				largest = max(largest, len(u.GetPayload()))
			}
			if owed > window+largest {
				t.Fatalf("%d bytes are unacknowledged, with a window of %d", owed, window)
			}
		}
		for owed < window {
			m, err := g.next(k.patience)
			if err != nil {
				t.Fatalf("after %d bytes, with credit for %d more: %v", sent, window-owed, err)
			}
			take(m)
		}
		settled(t, g, creditQuiet, take)
		sent += owed
		g.Send(creditMsg(1, owed))
	}
}

// Requests for key frames and target bitrates are taken at any time, also by a
// source that cannot follow them.
func (k ingestKit) feedback(t T) {
	_, g := k.attach(t)
	k.open(t, g, 1, wire.IngestWindowBytes)
	for _, bps := range []uint64{500_000, 0} {
		g.Send(&wire.HostMsg{M: &wire.HostMsg_Keyframe{Keyframe: &wire.KeyframeRequest{Session: 1}}})
		g.Send(&wire.HostMsg{M: &wire.HostMsg_TargetBitrate{TargetBitrate: &wire.TargetBitrate{Session: 1, Bps: bps}}})
	}
	k.watch(t, g, 1, 10)
	answered(t, g, 1, nil) // the ten may have been under way before the first request was read
}

// An offer that is rejected opens nothing: no session and no media follow.
func (k ingestKit) rejected(t T) {
	_, g := k.attach(t)
	k.o.Publish(t, g)
	offer := k.offer(t, g)
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Reject{Reject: &wire.OfferRejected{
		Offer: offer, Reason: wire.OfferRejected_FORBIDDEN, Message: "the check says no",
	}}})
	settled(t, g, time.Second, func(m *wire.PluginMsg) {
		if m.GetMedia() != nil || m.GetTracks() != nil || m.GetState() != nil {
			t.Fatalf("after the rejection comes %v", m)
		}
	})
}

// offer waits for an offer and returns its name.
func (k ingestKit) offer(t T, g *Gateway) string {
	t.Helper()
	for {
		if o := g.Recv().GetOffer(); o != nil {
			if o.GetOffer() == "" || o.GetName() == "" {
				t.Errorf("the offer lacks its own name or the stream's: %q, %q", o.GetOffer(), o.GetName())
			}
			return o.GetOffer()
		}
	}
}

// A source that cannot be pulled ends its session as FAILED, with a message that
// does not hold its URL.
func (k ingestKit) badSource(t T) {
	_, g := k.attach(t)
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: 1, Kind: k.kind, StreamId: 1, Stream: "plugintest", Url: k.o.BadURL, InitialCreditBytes: wire.IngestWindowBytes,
	}}})
	s, _ := g.State(1)
	if s.GetState() == wire.SessionState_READY {
		s, _ = g.State(1)
	}
	if s.GetState() != wire.SessionState_FAILED || s.GetMessage() == "" {
		t.Fatalf("the session is %v, want FAILED and a message", s)
	}
	noSecrets(t, s.GetMessage(), k.o.BadURL)
}

// open opens a session and waits until it is ready.
func (k ingestKit) open(t T, g *Gateway, session uint32, window int) {
	t.Helper()
	o := &wire.Open{
		Session: session, Kind: k.kind, StreamId: uint64(session), Stream: "plugintest",
		Url: k.o.PullURL, InitialCreditBytes: uint64(window),
	}
	if k.o.Publish != nil {
		k.o.Publish(t, g)
		o.Offer, o.Url = k.offer(t, g), ""
	}
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: o}})
	if s, _ := g.State(session); s.GetState() != wire.SessionState_READY {
		t.Fatalf("the session is not ready: %v", s)
	}
}

func creditMsg(session uint32, bytes int) *wire.HostMsg {
	return &wire.HostMsg{M: &wire.HostMsg_Credit{Credit: &wire.Credit{Session: session, Bytes: uint64(bytes)}}}
}
