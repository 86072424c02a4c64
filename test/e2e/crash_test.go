package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// twoCDNs is a gateway with two targets at two nginx, and a live publisher.
func twoCDNs(t *testing.T) (g *gateway, cdn [2]*peers.Nginx, p publisher) {
	t.Helper()
	peers.Need(t, "nginx", "ffmpeg", "ffprobe")
	cdn = [2]*peers.Nginx{peers.StartNginx(t), peers.StartNginx(t)}
	g = startGateway(t, route("studio",
		fmt.Sprintf(`first: {url: "%s"}`, cdn[0].URL("a", "x")),
		fmt.Sprintf(`second: {url: "%s"}`, cdn[1].URL("a", "x"))))
	p = g.publish(t, "studio")
	for _, n := range cdn {
		n.WaitPublisher(t, 30*time.Second, "a", "x")
	}
	record(t, cdn[0], "a", "x", 3*time.Second)
	return g, cdn, p
}

// finish ends the publisher and checks all recordings.
func finish(t *testing.T, cdn [2]*peers.Nginx, p publisher) {
	t.Helper()
	if code := p.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("the publisher ended with %d", code)
	}
	for _, n := range cdn {
		waitUnpublished(t, 30*time.Second, n, "a", "x")
		for _, file := range n.Recordings(t, "a") {
			checkRecording(t, file)
		}
	}
}

// A publisher that is killed and comes back after 5 s continues the same RTMP
// connection, with rising time.
func TestPublisherKilledAndBack(t *testing.T) {
	g, cdn, p := twoCDNs(t)
	var before [2]peers.Client
	for i, n := range cdn {
		var err error
		if before[i], _, err = n.Publisher("a", "x"); err != nil {
			t.Fatal(err)
		}
	}
	const away = 5 * time.Second
	killed := time.Now()
	p.Kill()
	peers.Run(t, away)
	p = g.publish(t, "studio")
	for i, n := range cdn {
		peers.Wait(t, 30*time.Second, "media on the same connection", func() error {
			c, _, err := n.Publisher("a", "x")
			switch {
			case err != nil:
				return err
			case c.ID != before[i].ID:
				t.Fatalf("connection %d has taken the place of %d", c.ID, before[i].ID)
			case c.Timestamp < before[i].Timestamp+6000:
				return fmt.Errorf("time is %d ms, was %d ms", c.Timestamp, before[i].Timestamp)
			}
			return nil
		})
	}
	back := time.Since(killed)
	finish(t, cdn, p)
	for _, n := range cdn {
		s, err := n.Stat()
		if err != nil {
			t.Fatal(err)
		}
		packets := peers.Packets(t, oneRecording(t, n, "a"))
		gap, at := peers.LargestGap(packets, "video")
		t.Logf("gap of %v at %v", gap, at)
		// One is that of the test, which waited for nginx to listen.
		if s.Accepted != 2 {
			t.Errorf("nginx has accepted %d RTMP connections, want one from the gateway and one from the test", s.Accepted)
		}
		if gap < away-time.Second || gap > back {
			t.Errorf("the largest gap is %v, want the time that the publisher was away, which was from %v to %v", gap, away, back)
		}
	}
}

// kill -9 of the egress process: the publisher notices nothing, and pictures are
// at both targets again within 2 s.
func TestEgressKilled(t *testing.T) {
	g, cdn, p := twoCDNs(t)
	var before [2]peers.Client
	for i, n := range cdn {
		var err error
		if before[i], _, err = n.Publisher("a", "x"); err != nil {
			t.Fatal(err)
		}
	}
	g.killPlugin(t, "egress-rtmp")
	killed := time.Now()
	for i, n := range cdn {
		peers.Wait(t, 30*time.Second, "pictures on a new connection", func() error {
			c, s, err := n.Publisher("a", "x")
			if err == nil && (c.ID == before[i].ID || s.Width == 0 || s.BytesIn < 5000) {
				err = fmt.Errorf("%+v %+v", c, s)
			}
			return err
		})
		took := time.Since(killed)
		t.Logf("target %d: pictures again after %v", i, took.Round(time.Millisecond))
		if took > busyMachine*recoveryLimit {
			t.Errorf("target %d: pictures again after %v, want %v at most", i, took, recoveryLimit)
		}
	}
	record(t, cdn[0], "a", "x", 3*time.Second)
	if err := p.healthy(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(p.Output(), `"event":"published"`); n != 1 {
		t.Errorf("the publisher has published %d times", n)
	}
	finish(t, cdn, p)
}

// kill -9 of the ingest process: the targets stay connected, and a new publish
// continues on the same connections.
func TestIngestKilled(t *testing.T) {
	g, cdn, p := twoCDNs(t)
	var before [2]peers.Client
	for i, n := range cdn {
		var err error
		if before[i], _, err = n.Publisher("a", "x"); err != nil {
			t.Fatal(err)
		}
	}
	p.Kill()
	g.killPlugin(t, "ingest-webrtc")
	g.waitStream(t, 30*time.Second, "studio", status.StreamHolding)
	peers.Wait(t, 30*time.Second, "the ingest to answer again", func() error {
		resp, b, err := request{method: http.MethodPost, url: g.whip("studio"), header: map[string]string{"Content-Type": "application/sdp"}, body: "v=0"}.do(http.DefaultClient)
		if err == nil && resp.StatusCode == http.StatusServiceUnavailable {
			err = fmt.Errorf("%s: %s", resp.Status, b)
		}
		return err
	})
	p = g.publish(t, "studio")
	for i, n := range cdn {
		peers.Wait(t, 30*time.Second, "media on the same connection", func() error {
			c, _, err := n.Publisher("a", "x")
			switch {
			case err != nil:
				return err
			case c.ID != before[i].ID:
				t.Fatalf("connection %d has taken the place of %d", c.ID, before[i].ID)
			case c.Timestamp < before[i].Timestamp+3000:
				return fmt.Errorf("time is %d ms, was %d ms", c.Timestamp, before[i].Timestamp)
			}
			return nil
		})
	}
	finish(t, cdn, p)
}

// kill -9 of the core leaves no plugin process behind.
func TestCoreKilled(t *testing.T) {
	g, _, _ := twoCDNs(t)
	all := children(t, g.PID())
	if len(all) < 2 {
		t.Fatalf("the gateway runs %v, want an ingest and an egress at least", all)
	}
	if err := g.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-g.Done()
	for pid, line := range all {
		peers.Wait(t, 30*time.Second, "the end of "+line, func() error { return gone(pid) })
	}
}

// SIGTERM and Ctrl-C end the gateway within 5 s with code 0; targets are
// unpublished, not cut off.
func TestDrain(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			g, cdn, _ := twoCDNs(t)
			all := children(t, g.PID())
			if err := g.Signal(sig); err != nil {
				t.Fatal(err)
			}
			asked := time.Now()
			if code := g.ExitCode(t, 30*time.Second); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
			if took := time.Since(asked); took > busyMachine*5*time.Second {
				t.Errorf("ended after %v", took)
			}
			for pid, line := range all {
				if err := gone(pid); err != nil {
					t.Errorf("%s: %v", line, err)
				}
			}
			for _, n := range cdn {
				waitUnpublished(t, 30*time.Second, n, "a", "x")
				checkRecording(t, oneRecording(t, n, "a"))
				if err := n.Unpublished("x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A plugin that dies again and again, but not so often that it is given a rest, is back
// each time, and so are its targets; the publisher notices nothing.
func TestPluginThatKeepsDying(t *testing.T) {
	peers.Need(t, "nginx")
	cdn := peers.StartNginx(t)
	g := startGateway(t, route("studio", fmt.Sprintf(`first: {url: "%s"}`, cdn.URL("live", "x"))))
	p := g.publish(t, "studio")
	cdn.WaitPublisher(t, 30*time.Second, "live", "x")
	for range 3 {
		pid := g.plugin(t, "egress-rtmp")
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		peers.Wait(t, 30*time.Second, "a new egress process", func() error {
			for child, line := range children(t, g.PID()) {
				if child != pid && strings.HasSuffix(line, "plugin egress-rtmp") {
					return nil
				}
			}
			return errors.New("none there")
		})
	}
	g.waitTarget(t, 30*time.Second, "studio", "first", status.TargetLive)
	if err := p.healthy(); err != nil {
		t.Error(err)
	}
}
