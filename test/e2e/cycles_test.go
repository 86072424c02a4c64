package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/whipclient"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/test/peers"
)

// Publishing again and again leaves nothing behind, whether publishers say
// goodbye or not. `make soak` sets SOAK_CYCLES.
func TestManyPublications(t *testing.T) {
	peers.Need(t, "nginx")
	cycles := 20
	if n, err := strconv.Atoi(os.Getenv("SOAK_CYCLES")); err == nil {
		cycles = n
	}
	cdn := peers.StartNginx(t)
	g := startGateway(t, route("studio", fmt.Sprintf(`first: {url: "%s"}`, cdn.URL("live", "x"))))
	card, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	cfg := whipclient.Config{
		URL: g.whip("studio"), Token: secret.New(token), Length: clip.Duration,
		Video: &whipclient.Media{Track: card.Tracks[0], Units: card.Units(clip.VideoTrack)},
		Audio: &whipclient.Media{Track: card.Tracks[1], Units: card.Units(clip.AudioTrack)},
	}
	once := func(polite bool) {
		t.Helper()
		p, err := whipclient.Publish(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		before, err := g.target("studio", "first")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		peers.Wait(t, 30*time.Second, "pictures at the target", func() error {
			now, err := g.target("studio", "first")
			if err == nil && (now.State != status.TargetLive || now.UnitsSent < before.UnitsSent+10) {
				err = fmt.Errorf("%+v", now)
			}
			return err
		})
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !polite {
			p.Close()
			return
		}
		if err := p.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.waitStream(t, 30*time.Second, "studio", status.StreamIdle)
	}
	for range 3 {
		once(true)
	}
	before := g.footprint(t)
	for i := range cycles {
		once(i%4 != 3)
	}
	once(true)
	peers.Wait(t, 40*time.Second, "goroutines and descriptors as before", func() error {
		for what, n := range g.footprint(t) {
			if n > before[what]+5 {
				return fmt.Errorf("%s: %d, was %d", what, n, before[what])
			}
		}
		return nil
	})
}
