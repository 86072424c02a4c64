package egresssrt

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/headgate/gateway/internal/srt"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/wire"
	"github.com/headgate/gateway/test/faultlab"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/datarhei/gosrt.Dial.func1"))
}

// sink runs an SRT listener that takes everything.
func sink(t testing.TB) string {
	s, err := srt.Listen(srt.Address{Mode: srt.Listener, HostPort: "127.0.0.1:0"})
	if err != nil {
		t.Fatalf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func(c srt.Call) {
			conn, err := c.Accept()
			if err != nil {
				t.Errorf("%v", err)
				return
			}
			conn.Discard()
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%v", err)
		}
	})
	return s.Addr()
}

// TestConformance: as a caller, and as a listener.
func TestConformance(t *testing.T) {
	at := sink(t)
	deaf, err := faultlab.NewUDP(at, faultlab.Impairment{}, faultlab.Impairment{Drop: isACK}, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = deaf.Close() })
	target := func(at string) func(plugintest.T) *wire.Target {
		return func(plugintest.T) *wire.Target { return &wire.Target{Name: "x", Url: "srt://" + at} }
	}
	plugintest.TestEgress(t, Plugin(), plugintest.EgressOptions{
		NewTarget:      target(at),
		StalledTarget:  target(deaf.Addr().String()),
		BadTarget:      &wire.Target{Name: "x", Url: "srt://127.0.0.1:1?passphrase=SECRETSECRET&pbkeylen=17"},
		Secrets:        []string{"SECRETSECRET"},
		BadIsPermanent: true,
	})
}

func TestConformanceOfListener(t *testing.T) {
	plugintest.TestEgress(t, Plugin(), plugintest.EgressOptions{
		NewTarget: func(plugintest.T) *wire.Target {
			return &wire.Target{Name: "x", Url: "srt://127.0.0.1:0?mode=listener"}
		},
		BadTarget: &wire.Target{Name: "x", Url: "srt://127.0.0.1:99999?mode=listener"}, BadIsPermanent: true,
	})
}

// isACK reports whether a datagram is an acknowledgement.
func isACK(b []byte) bool { return len(b) > 2 && b[0] == 0x80 && b[1] == 2 }
