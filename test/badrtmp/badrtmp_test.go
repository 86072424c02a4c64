package badrtmp

import (
	"context"
	"net"
	"net/url"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bluenviron/gortmplib"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Each server is one of its kind, and says what is to be made of it.
func TestCases(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Cases("127.0.0.1:1") {
		if c.Name == "" || seen[c.Name] {
			t.Errorf("%q is there twice", c.Name)
		}
		seen[c.Name] = true
		if live := c.Lane == Live; live != (c.Class == "") || !live && c.Lane != Fast && c.Lane != Slow {
			t.Errorf("%s: class %q in the lane %q", c.Name, c.Class, c.Lane)
		}
	}
	if len(seen) < 25 {
		t.Errorf("%d servers", len(seen))
	}
}

// Another implementation of a publisher gets through to a server that behaves up to
// where it does, with the key, and leaves nothing behind; and to none that refuses TCP.
func TestServers(t *testing.T) {
	publish := func(name string) (*Server, error) {
		for _, c := range Cases("127.0.0.1:1") {
			if c.Name != name {
				continue
			}
			s := Start(t, c)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			client := &gortmplib.Client{URL: &url.URL{Scheme: "rtmp", Host: s.Addr, Path: "/app", Fragment: "key"}, Publish: true}
			err := client.Initialize(ctx)
			if err == nil {
				client.Close()
			}
			return s, err
		}
		t.Fatalf("there is no server %q", name)
		return nil, nil
	}
	for _, name := range []string{"half-close", "answers connect twice", "unknown messages"} {
		if s, err := publish(name); err != nil || s.Publications() != 1 || !s.Saw("key") {
			t.Errorf("%s: %v, %d publications", name, err, s.Publications())
		}
	}
	for _, name := range []string{"refuses TCP", "_error on connect", "Denied"} {
		if s, err := publish(name); err == nil || s.Publications() != 0 {
			t.Errorf("%s: %v, %d publications", name, err, s.Publications())
		}
	}
}

// A certificate is for the host that the case says, and is another after Renew.
func TestCertificates(t *testing.T) {
	s := Start(t, Case{Name: "x", TLSHost: "cdn.example", TLSUntil: time.Hour, Serve: func(*Server, net.Conn) {}})
	before := s.cert.Load().Certificate[0]
	s.Renew(t)
	if len(s.CA) == 0 || string(before) != string(s.DER) || string(before) == string(s.cert.Load().Certificate[0]) {
		t.Error("the certificate is not renewed")
	}
}
