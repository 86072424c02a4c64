package session

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
)

// enterFor takes a place for a publisher of an address and stream; the status of the
// refusal if there is none.
func enterFor(s *Server, host, stream string) (*session, int) {
	sess := &session{server: s, remoteHost: host, stream: stream}
	err := s.enter(sess)
	var p *whip.Problem
	if errors.As(err, &p) {
		if p.RetryAfter <= 0 {
			panic("a refusal for a limit says when to come back")
		}
		return nil, p.Status
	}
	return sess, 0
}

func newLimited() *Server {
	return &Server{sessions: map[string]*session{}, connecting: map[string]int{}, places: map[string]int{}}
}

// Each limit refuses the one beyond it, and lets the next in when a place is free.
func TestLimits(t *testing.T) {
	f := func(name string, most, status int, connects bool, host, stream func(i int) string) {
		t.Run(name, func(t *testing.T) {
			s := newLimited()
			var all []*session
			for i := range most {
				sess, no := enterFor(s, host(i), stream(i))
				if no != 0 {
					t.Fatalf("the %dth of %d was refused: %d", i+1, most, no)
				}
				if connects {
					s.connected(sess)
					s.connected(sess) // counts once
				}
				all = append(all, sess)
			}
			if _, no := enterFor(s, host(most), stream(most)); no != status {
				t.Errorf("one too many: %d, want %d", no, status)
			}
			s.leave(all[most/2])
			next, no := enterFor(s, host(most), stream(most))
			if no != 0 {
				t.Fatalf("refused although one had left: %d", no)
			}
			all[most/2] = next
			for _, sess := range all {
				s.leave(sess)
			}
			if s.taken != 0 || len(s.places) != 0 || len(s.connecting) != 0 {
				t.Errorf("left behind: %d taken, %v, %v", s.taken, s.places, s.connecting)
			}
		})
	}
	other := func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }
	same := func(int) string { return "192.0.2.1" }
	name := func(i int) string { return fmt.Sprintf("stream-%d", i) }
	one := func(int) string { return "studio" }
	f("in all", maxSessions, http.StatusServiceUnavailable, true, other, name)
	f("of one address", maxPerAddress, http.StatusTooManyRequests, true, same, name)
	f("of one address, still connecting", maxConnecting, http.StatusTooManyRequests, false, same, name)
	f("of one stream", maxPerStream, http.StatusTooManyRequests, true, other, one)
}

// A stream is not taken for an address of the same name.
func TestLimitsApart(t *testing.T) {
	s := newLimited()
	for range maxPerStream {
		if _, no := enterFor(s, "studio", "studio"); no != 0 {
			t.Fatalf("refused: %d", no)
		}
	}
	if _, no := enterFor(s, "studio", "another"); no != 0 {
		t.Errorf("another stream of the address: %d", no)
	}
}

// Who sends twice what he was asked for is sent away, but not for a moment's peak.
func TestExcessive(t *testing.T) {
	l := life{session: &session{server: &Server{maxBPS: 1_000_000}}}
	f := func(bps float64, want bool) {
		t.Helper()
		l.receivedBS = bps
		if got := l.excessive(); got != want {
			t.Errorf("%.0f b/s, %d seconds in a row: %v", bps, l.excess, got)
		}
	}
	for range 20 {
		f(2_000_000, false)
	}
	for range excessSeconds - 1 {
		f(2_000_001, false)
	}
	f(1_900_000, false) // begins anew
	for range excessSeconds - 1 {
		f(5_000_000, false)
	}
	f(5_000_000, true)
	l.server.maxBPS = 0
	for range 20 {
		f(1e9, false)
	}
}
