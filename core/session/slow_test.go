package session

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// One of twenty targets of a plugin process takes half of what it should. The
// others receive everything, and no later than before.
func TestSlowTargetDelaysNoOther(t *testing.T) {
	alone, _ := twentyTargets(t, "pace://fine")
	beside, slow := twentyTargets(t, "pace://slow")
	if slow.Dropped[router.DroppedLag] == 0 {
		t.Errorf("the slow target lost nothing: %+v", slow)
	}
	// The benchmark measures p99. Here other tests are in the way, of some of the units:
	// with a slow target before it half of them would wait for more than a second.
	if beside.p50 > alone.p50+500*time.Millisecond {
		t.Errorf("half of the units take %v beside a slow target, %v without", beside.p50, alone.p50)
	}
}

// BenchmarkSlowTarget prints the p99 of the nineteen targets beside a slow one, and
// what it was before.
func BenchmarkSlowTarget(b *testing.B) {
	for range b.N {
		alone, _ := twentyTargets(b, "pace://fine")
		beside, _ := twentyTargets(b, "pace://slow")
		b.ReportMetric(float64(alone.p99.Microseconds())/1000, "ms-p99-alone")
		b.ReportMetric(float64(beside.p99.Microseconds())/1000, "ms-p99-beside")
	}
	b.ReportMetric(0, "ns/op")
}

const (
	targets   = 20
	paceHz    = 25
	paceBytes = 10_000 // per unit
	paceTime  = 4 * time.Second
)

// delays are those of the units' way to the target that is worst off.
type delays struct{ p50, p99 time.Duration }

// twentyTargets sends one stream to twenty targets, of which the first one has this
// URL, and returns the delays to all others and the figures of the first. The others
// must receive every unit.
func twentyTargets(t testing.TB, first string) (delays, router.SubscriptionStats) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "gw") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	spec := pluginhost.Spec{Name: "pace", Command: []string{exe, "plugin", "pace"}, Info: sdk.Describe(pacePlugin())}
	h := pluginhost.New([]pluginhost.Spec{spec}, nil, slog.New(slog.DiscardHandler), pluginhost.WithRunDir(dir))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	stream := router.NewStream(1, "studio")
	pub := stream.Publish(&publisher{})
	pub.SetTracks([]media.Track{{ID: 1, Codec: media.VP8}})
	all := func(tracks []media.Track) []media.Track { return tracks }
	var feeds []*Feed
	var subs []*router.Subscription
	for i := range targets {
		f := New()
		url, maxLag := "pace://fine", time.Minute // a busy machine is no reason to drop
		if i == 0 {
			url, maxLag = first, time.Second
		}
		sub := f.Subscribe(stream, router.SubscriptionConfig{MaxLag: maxLag})
		defer sub.Close()
		s, err := h.OpenEgress("pace", pluginhost.EgressSpec{StreamID: 1, Stream: "studio", URL: secret.New(url), Attempt: 1}, f, f)
		if err != nil {
			t.Fatal(err)
		}
		f.Bind(s)
		wait(t, "a target is ready", func() bool { return f.State().Ready })
		sub.Start(all)
		feeds, subs = append(feeds, f), append(subs, sub)
	}
	const count = int(paceTime/time.Second) * paceHz
	for i := range count {
		now := time.Now()
		dts := time.Duration(i) * time.Second / paceHz
		pub.Write(&media.AccessUnit{
			Track: 1, Seq: uint32(i), DTS: dts, PTS: dts, RandomAccess: i%paceHz == 0,
			Received: now, Captured: now, Payload: make([]byte, paceBytes),
		})
		time.Sleep(time.Second / paceHz) // a live publisher
	}
	var worst delays
	for i, sub := range subs[1:] {
		wait(t, "all units are written", func() bool { return sub.Stats().Units == uint64(count) })
		values := func() map[string]float64 { return feeds[1+i].State().Stats.Values }
		wait(t, "the sink's figures", func() bool { return values()["units"] == float64(count) })
		worst.p50 = max(worst.p50, time.Duration(values()["p50_ns"]))
		worst.p99 = max(worst.p99, time.Duration(values()["p99_ns"]))
	}
	return worst, subs[0].Stats()
}

func wait(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// pacePlugin takes everything at once, or at half the rate of the stream.
func pacePlugin() sdk.Plugin {
	return sdk.Plugin{Name: "pace", Version: "1", Egress: &sdk.EgressPlugin{
		Egress: paceEgress{}, Schemes: []string{"pace"}, Accepts: sdk.Accepts{Codecs: []media.Codec{media.VP8}, VideoTracks: 1},
	}}
}

type paceEgress struct{}

func (paceEgress) Open(_ context.Context, t sdk.Target, _ []media.Track) (sdk.Sink, error) {
	return &paceSink{slow: t.URL.Reveal() == "pace://slow"}, nil
}

type paceSink struct {
	slow bool

	mu   sync.Mutex // guards the fields below
	late []time.Duration
}

func (s *paceSink) WriteAccessUnit(ctx context.Context, u *media.AccessUnit) error {
	if s.slow {
		select {
		case <-time.After(2 * time.Second / paceHz):
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = append(s.late, time.Since(u.Captured))
	return nil
}

func (s *paceSink) Close(context.Context) error { return nil }

func (s *paceSink) Stats() sdk.SinkStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := sdk.SinkStats{Values: map[string]float64{"units": float64(len(s.late))}}
	if n := len(s.late); n > 0 {
		sorted := slices.Sorted(slices.Values(s.late))
		st.Values["p50_ns"] = float64(sorted[(n-1)/2])
		st.Values["p99_ns"] = float64(sorted[(n-1)*99/100])
	}
	return st
}
