// Package intake stands in for the gateway in tests of ingests: it lets publishers in
// or turns them away, takes what a session delivers, and holds it to its source.
//
// It knows the wire and ffprobe. It knows no protocol of a publisher.
package intake

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/wire"
	"github.com/headgate/gateway/test/peers"
)

// Publishers returns what [plugintest.IngestOptions] calls Publish: each call has one
// of a few publishers publish, until the test ends. They are there before the checks,
// which count goroutines.
func Publishers(t testing.TB, publish func(context.Context)) func(plugintest.T, *plugintest.Gateway) {
	t.Helper()
	const several = 4
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	start := make(chan struct{}, 100)
	for range several {
		wg.Go(func() {
			for {
				select {
				case <-start:
					publish(ctx)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func(plugintest.T, *plugintest.Gateway) { start <- struct{}{} }
}

// A Recorder keeps what an ingest writes to its publication, in its own process.
type Recorder struct {
	Sets   [][]media.Track
	Events []string // tracks and units in their order
	Units  map[media.TrackID][]*media.AccessUnit
}

// SetTracks takes tracks.
func (r *Recorder) SetTracks(tracks []media.Track) {
	r.Sets = append(r.Sets, tracks)
	r.Events = append(r.Events, "tracks")
}

// WriteAccessUnit takes a unit.
func (r *Recorder) WriteAccessUnit(u *media.AccessUnit) {
	if r.Units == nil {
		r.Units = make(map[media.TrackID][]*media.AccessUnit)
	}
	r.Units[u.Track] = append(r.Units[u.Track], u)
	r.Events = append(r.Events, fmt.Sprint("unit of ", u.Track))
}

// Tracks are those of the last time.
func (r *Recorder) Tracks() []media.Track { return r.Sets[len(r.Sets)-1] }

// credit is what a session may send ahead, in bytes.
const credit = 1 << 24

// Offer waits for a publisher.
func Offer(g *plugintest.Gateway) *wire.Offer {
	for {
		if o := g.Recv().GetOffer(); o != nil {
			return o
		}
	}
}

// Accept lets the next publisher in, as session 1.
func Accept(g *plugintest.Gateway) *wire.Offer {
	o := Offer(g)
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: 1, Kind: wire.SessionKind_SESSION_KIND_INGEST, StreamId: 1, Stream: o.GetName(), Offer: o.GetOffer(), InitialCreditBytes: credit,
	}}})
	return o
}

// Reject turns the next publisher away.
func Reject(g *plugintest.Gateway, reason wire.OfferRejected_Reason, message string) *wire.Offer {
	o := Offer(g)
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Reject{Reject: &wire.OfferRejected{Offer: o.GetOffer(), Reason: reason, Message: message}}})
	return o
}

// Pull opens a session that reads from url.
func Pull(g *plugintest.Gateway, session uint32, url string) {
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: session, Kind: wire.SessionKind_SESSION_KIND_INGEST, StreamId: 1, Stream: "studio", Url: url, InitialCreditBytes: credit,
	}}})
}

// A Session is what a plugin delivered in one session.
type Session struct {
	Tracks []media.Track
	Units  map[media.TrackID][]*media.AccessUnit
	End    *wire.SessionState // nil if it has not ended
	Stats  map[string]float64
	Info   map[string]string
	Silent int // how often it was said to be
}

// Take takes in a session until it ends or enough says so.
func Take(g *plugintest.Gateway, enough func(*Session) bool) *Session {
	r := &Session{Units: make(map[media.TrackID][]*media.AccessUnit), Stats: map[string]float64{}}
	for {
		m := g.Recv()
		if ts := m.GetTracks(); ts != nil {
			r.Tracks = wire.ToTracks(ts.GetTracks())
		}
		for _, pb := range m.GetMedia().GetUnits() {
			u := wire.ToUnit(pb, time.Now(), time.Minute)
			r.Units[u.Track] = append(r.Units[u.Track], u)
			for _, session := range pb.GetSessions() {
				g.Send(&wire.HostMsg{M: &wire.HostMsg_Credit{Credit: &wire.Credit{Session: session, Bytes: uint64(len(u.Payload))}}})
			}
		}
		if s := m.GetState(); s.GetEnded() || s.GetState() == wire.SessionState_FAILED {
			r.End = s
			return r
		}
		if s := m.GetStats(); s != nil {
			r.Stats, r.Info = s.GetValues(), s.GetInfo()
		}
		if m.GetSilence().GetSilent() {
			r.Silent++
		}
		if enough != nil && enough(r) {
			return r
		}
	}
}

// Of is the only track of a codec, and its units.
func (r *Session) Of(t testing.TB, c media.Codec) (media.Track, []*media.AccessUnit) {
	t.Helper()
	i := slices.IndexFunc(r.Tracks, func(t media.Track) bool { return t.Codec == c })
	if i < 0 {
		t.Fatalf("no track of %s: %+v", c, r.Tracks)
	}
	return r.Tracks[i], r.Units[r.Tracks[i].ID]
}

// CheckPackets holds units of one track to what ffprobe says of a file's packets of that
// kind, video or audio: as many, the same ones random access points, and each at its
// time, to the millisecond, counted from the first one.
func CheckPackets(t testing.TB, units []*media.AccessUnit, file, kind string) {
	t.Helper()
	var packets []peers.Packet
	for _, p := range peers.Packets(t, file) {
		if p.Type == kind {
			packets = append(packets, p)
		}
	}
	if len(units) != len(packets) {
		t.Fatalf("%d units of %s, ffprobe counts %d", len(units), kind, len(packets))
	}
	for i, u := range units {
		p := packets[i]
		off := (u.DTS - units[0].DTS) - (p.DTS - packets[0].DTS)
		ahead := (u.PTS - u.DTS) - (p.PTS - p.DTS)
		if off.Abs() > time.Millisecond || ahead.Abs() > time.Millisecond || u.RandomAccess != p.Key {
			t.Fatalf("unit %d of %s at %v/%v, random access %v; ffprobe says %+v", i, kind, u.PTS, u.DTS, u.RandomAccess, p)
		}
	}
}
