package egressrtmp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/test/badrtmp"
)

// TestBadServers publishes to every server that misbehaves: those that can be lived
// with are, of the others we hear in time and by the right name, and whether it is
// soon to be tried again. No goroutine is left of any (see TestMain).
func TestBadServers(t *testing.T) {
	elsewhere := receive(t)
	var all sync.WaitGroup
	for _, c := range badrtmp.Cases(elsewhere.addr) {
		s := badrtmp.Start(t, c)
		moved := func() bool { return true }
		switch c.Name {
		case "reconnect without address":
			moved = func() bool { return s.Publications() > 1 }
		case "reconnect elsewhere":
			moved = func() bool { return len(elsewhere.Stats()) > 0 }
		}
		all.Go(func() { checkBad(t, s, moved) })
	}
	all.Wait()
	if n := len(elsewhere.Stats()); n != 1 {
		t.Errorf("%d publications where one server sends us, want 1", n)
	}
}

// checkBad publishes to one server. One that can be lived with is published to until
// moved.
func checkBad(t *testing.T, s *badrtmp.Server, moved func() bool) {
	to := target("rtmp://" + s.Addr + "/app/SECRETKEY")
	opts := Options{}
	if s.TLSHost != "" {
		to = target("rtmps://" + s.Addr + "/app/SECRETKEY")
		opts.CA = sdk.File{Name: "ca.pem", Content: s.CA}
	}
	changes := strings.Contains(s.Name, "changed")
	if changes {
		sum := sha256.Sum256(s.DER)
		opts.CA, opts.Fingerprint = sdk.File{}, hex.EncodeToString(sum[:])
	}
	patience := 30 * time.Second
	if s.Class == "timeout" {
		patience = 2 * time.Second
	}
	var enough func() bool
	if s.Lane == badrtmp.Live {
		enough = moved
	}
	err := publishTo(t, to, opts, enough, patience)
	if changes {
		if err == nil {
			t.Errorf("%s: the connection did not end", s.Name)
		}
		s.Renew(t)
		err = publishTo(t, to, opts, nil, patience)
	}
	if err != nil && strings.Contains(err.Error(), "SECRET") {
		t.Errorf("%s: the error tells a secret: %v", s.Name, err)
	}
	var e *sdk.Error
	class, lane := "", badrtmp.Live
	if errors.As(err, &e) {
		class, lane = e.Class, badrtmp.Fast
		if sdk.IsPermanent(err) {
			lane = badrtmp.Slow
		}
	}
	if class != s.Class || lane != s.Lane || err != nil && e == nil {
		t.Errorf("%s: class %q in the %s lane, want %q in the %s lane: %v", s.Name, class, lane, s.Class, s.Lane, err)
	}
}

// publishTo publishes pictures until something fails, or, if enough is not nil, for a
// second and until it says so. patience is how long opening may take.
func publishTo(t *testing.T, to sdk.Target, opts Options, enough func() bool, patience time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	opened, err := (&egress{}).open(ctx, to, opts, []media.Track{h264A})
	if err != nil {
		return err
	}
	s := opened.(*sink)
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	limit := time.NewTimer(60 * time.Second)
	defer limit.Stop()
	for i := 0; ; i++ {
		u := video(float64(10*i), i%10 == 0)
		u.Payload = make([]byte, 8000)
		if err = s.WriteAccessUnit(t.Context(), u); err != nil || enough != nil && i >= 100 && enough() {
			break
		}
		select {
		case <-pace.C:
			continue
		case <-s.Failed():
			err = s.Err()
		case <-limit.C:
			err = errors.New("nothing happens")
		}
		break
	}
	if cerr := s.Close(t.Context()); enough != nil && err == nil {
		err = cerr
	}
	return err
}
