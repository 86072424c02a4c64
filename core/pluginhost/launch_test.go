package pluginhost

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestExplained: what is told of a plugin that died is about the plugin, not about
// the connection to it.
func TestExplained(t *testing.T) {
	f := func(err error, exit, words, want string) {
		t.Helper()
		if got := explained(err, exit, words).Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	f(errBroken, "signal: killed", "", "its process ended: signal: killed")
	f(errBroken, "exit status 2", "panic: oh no", "its process ended: exit status 2: panic: oh no")
	f(errBroken, "", "", "the connection to its process broke")
	f(errBroken, "", "last words", "the connection to its process broke (last words)")
	f(errors.New("it did not answer for 5s"), "signal: killed", "", "it did not answer for 5s (signal: killed)")
	f(told(status.Error(codes.Unavailable, "error reading from server: EOF")), "signal: killed", "", "its process ended: signal: killed")
	f(fmt.Errorf("attaching: %w", told(io.EOF)), "", "", "attaching: the connection to its process broke")
	f(told(status.Error(codes.ResourceExhausted, "a message of 20 MB")), "exit status 1", "",
		"it sent a message larger than the 16 MiB that the wire carries; "+remedy+" (exit status 1)")
	f(fmt.Errorf("asking what it is: %w", told(status.Error(codes.Unimplemented, "unknown service"))), "", "",
		"asking what it is: it does not serve gateway.plugin.v1.Plugin: unknown service; name a plugin for this gateway")
	f(told(status.Error(codes.Aborted, "ingest ended: no port")), "", "", "it ended the connection: ingest ended: no port")
}
