package session_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/plugins/ingest-webrtc/session"
	"github.com/headgate/gateway/sdk/media"
)

// A publisher whose network changes restarts ICE; the session, its tracks and its
// media go on, three times in a row.
func TestRestartICE(t *testing.T) {
	g := start(t)
	r := publish(t, config(t, g))
	p := g.host.last()
	p.wait(t, "media", func() bool { return p.count(1) >= 10 })
	tags := map[string]bool{r.ETag(): true}
	for i := range 3 {
		began := time.Now()
		if err := r.RestartICE(t.Context()); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		tags[r.ETag()] = true
		p.mu.Lock()
		before := p.count(1)
		p.mu.Unlock()
		p.wait(t, "media after the restart", func() bool { return p.count(1) >= before+30 })
		t.Logf("restart %d took %v", i+1, took)
	}
	if len(tags) != 4 {
		t.Errorf("%d ETags of 4 ICE sessions", len(tags))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Loopback loses nothing: what came in between was repaired.
	gap, last := time.Duration(0), time.Time{}
	for _, u := range p.units {
		if u.Track != media.TrackID(1) {
			continue
		}
		if !last.IsZero() {
			gap = max(gap, u.Received.Sub(last))
		}
		last = u.Received
	}
	t.Logf("longest time without a picture: %v", gap)
	if len(p.tracks) != 2 {
		t.Errorf("tracks were announced %d times, want 2", len(p.tracks))
	}
}

// What is wrong with a restart does not end the session.
func TestBadRestarts(t *testing.T) {
	g := start(t)
	r := publish(t, config(t, g))
	p := g.host.last()
	p.wait(t, "media", func() bool { return p.count(1) >= 3 })
	patch := func(match, body string, want int) http.Header {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, r.Location(), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/trickle-ice-sdpfrag")
		req.Header.Set("If-Match", match)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, _ := io.ReadAll(res.Body)
		if res.StatusCode != want {
			t.Errorf("%d, want %d: %s", res.StatusCode, want, b)
		}
		return res.Header
	}
	const pwd = "a=ice-pwd:0123456789012345678901\r\n"
	first := r.ETag()
	patch("*", "a=ice-ufrag:abcd\r\na=ice-pwd:short\r\n", 400)
	patch(`"other"`, "a=ice-ufrag:abcd\r\n"+pwd, 412)
	before := count(p)
	p.wait(t, "media after bad restarts", func() bool { return p.count(1) >= before+5 })
	// A candidate that nobody can read does not spoil the restart, and one that
	// leads into the machine's network stack or nowhere is not tried.
	header := patch(first, "a=ice-ufrag:abcd\r\n"+pwd+"m=audio 9 X 0\r\na=mid:0\r\na=candidate:bogus\r\na=candidate:1 1 udp 1 nowhere.local 9 typ host\r\na=candidate:1 1 udp 1 169.254.169.254 80 typ host\r\n", 200)
	if header.Get("ETag") == first || header.Get("ETag") == "" {
		t.Errorf("ETag %q after the restart", header.Get("ETag"))
	}
	patch(first, "a=ice-ufrag:abcd\r\n"+pwd, 412)
	patch("*", "a=ice-ufrag:abcd\r\n"+pwd, 204)
	// This publisher does not know of that restart: he is where he was, and a
	// restart of his own brings him back.
	if err := r.RestartICE(t.Context()); err != nil {
		t.Fatal(err)
	}
	before = count(p)
	p.wait(t, "media after the publisher's own restart", func() bool { return p.count(1) >= before+5 })
}

func count(p *publication) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count(1)
}

// An offer with more candidates than any publisher has is refused.
func TestTooManyCandidates(t *testing.T) {
	g := start(t)
	status, _, body := post(t, g.url, strings.Replace(chromiumOffer(t), "a=mid:0\r\n", "a=mid:0\r\n"+strings.Repeat("a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n", 65), 1))
	if status != 400 || !strings.Contains(body, "more than 64 candidates") {
		t.Errorf("%d %s", status, body)
	}
}

// What cannot be meant is said before anything starts.
func TestBadConfigs(t *testing.T) {
	f := func(cfg session.Config, want string) {
		t.Helper()
		cfg.UDP, cfg.Log = "127.0.0.1:0", quiet
		s, err := session.Listen(cfg, nil)
		if err == nil {
			ctx, cancel := contextDone()
			cancel()
			err = errors.Join(s.Run(ctx), errors.New("passes"))
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	f(session.Config{PublicIPs: []string{"2001:db8::1"}}, "no address from which 2001:db8::1")
	f(session.Config{TURN: []session.ICEServer{{URL: "turn:turn.example.org"}}}, "needs a secret")
	f(session.Config{TURN: []session.ICEServer{{URL: "http://turn.example.org"}}}, "is not the URL")
	f(session.Config{Publishers: []session.ICEServer{{URL: "stun:stun.example.org", Username: "a"}}}, "take no credentials")
	f(session.Config{TCP: "nonsense"}, "tcp nonsense")
	f(session.Config{Relay: "nonsense"}, "turn nonsense")
}
