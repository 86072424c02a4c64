package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/faultlab"
	"github.com/headgate/gateway/test/peers"
)

// TestCongestion: where the route says so, a target that takes 400 kb/s brings a
// browser's bitrate below that, falls behind by no more than it may, and lets go when
// it takes more again.
func TestCongestion(t *testing.T) {
	peers.Need(t, "chromium")
	slow, healthy := startCDN(t), startCDN(t)
	relay, err := faultlab.NewTCP(slow.addr, 0, 16384)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = relay.Close() }()
	const maxLag = 2 * time.Second
	g := startPlainGateway(t, strings.Replace(route("studio",
		fmt.Sprintf(`healthy: {url: "rtmp://%s/live/x"}`, healthy.addr),
		fmt.Sprintf(`slow: {url: "rtmp://%s/live/x", max_lag: %v}`, relay.Addr(), maxLag)),
		"    to:\n", "    congestion: {follow: slowest, floor: 100kbps}\n    to:\n", 1))
	c := peers.StartChromium(t)
	c.Open(t, g.page("studio", "camera"))
	c.Click(t, "#start")
	slow.live(t)
	healthy.live(t)
	peers.Wait(t, 30*time.Second, "the page to say that both targets are live", func() error {
		var got string
		c.Eval(t, "document.getElementById('state').textContent + ': ' + document.getElementById('targets').textContent", &got)
		if want := "Live: healthy liveslow live"; got != want {
			return fmt.Errorf("it says %q, want %q", got, want)
		}
		return nil
	})
	publisher := func() (*status.Publisher, error) {
		s, err := g.stream("studio")
		switch {
		case err != nil:
			return nil, err
		case s.Publisher == nil:
			return nil, fmt.Errorf("nobody publishes")
		}
		return s.Publisher, nil
	}
	// wait returns how long it took until the publisher is as ok says, and the worst
	// lag of the slow target on the way, less that of the healthy one: a busy machine
	// makes both late.
	wait := func(what string, limit time.Duration, ok func(*status.Publisher) bool) (took, lag time.Duration) {
		t.Helper()
		from := time.Now()
		worst := map[string]float64{}
		peers.Wait(t, limit, what, func() error {
			for _, name := range []string{"slow", "healthy"} {
				if s, err := g.target("studio", name); err == nil {
					worst[name] = max(worst[name], s.LagSeconds)
				}
			}
			p, err := publisher()
			if err != nil {
				return err
			}
			if !ok(p) {
				return fmt.Errorf("limit %d, received %.0f b/s", p.LimitBPS, p.Values["received_bps"])
			}
			return nil
		})
		return time.Since(from), time.Duration((worst["slow"] - worst["healthy"]) * float64(time.Second))
	}
	wait("700 kb/s", 60*time.Second, func(p *status.Publisher) bool { return p.Values["received_bps"] > 700_000 })
	relay.SetRate(400_000 / 8)
	took, lag := wait("less than 400 kb/s", 30*time.Second, func(p *status.Publisher) bool {
		return p.LimitBPS > 0 && p.Values["received_bps"] < 400_000
	})
	t.Logf("below 400 kb/s after %v (asked: 5 s), lag %v at most", took.Round(100*time.Millisecond), lag)
	if lag > 2*maxLag { // 1.63 s was measured
		t.Errorf("the lag was %v, far more than %v", lag, maxLag)
	}
	relay.SetRate(0)
	took, _ = wait("the limit to be lifted", 60*time.Second, func(p *status.Publisher) bool { return p.LimitBPS == 0 })
	t.Logf("lifted after %v (asked: 15 s)", took.Round(100*time.Millisecond))
	took, _ = wait("700 kb/s again", 60*time.Second, func(p *status.Publisher) bool { return p.Values["received_bps"] > 700_000 })
	t.Logf("back after %v more", took.Round(100*time.Millisecond))
	if p, err := publisher(); err != nil || p.Values["limit_ignored"] != 0 {
		t.Errorf("%+v %v: the browser is taken for one that does not listen", p, err)
	}
}
