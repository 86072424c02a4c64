// Package peers starts the real programs that the gateway is tested with, and
// reads what they made of it: nginx-rtmp, stunnel, Chromium, ffmpeg.
//
// It knows programs, ports, files and recorded media. It knows nothing of the
// gateway: the tests bring that. Every program listens on loopback ports that
// were free, runs in the foreground in a process group of its own, and
// is ended with the test that started it.
package peers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// packages maps a program to the Debian package that brings it.
func packages(program string) string {
	switch program {
	case "nginx":
		return "nginx-light and libnginx-mod-rtmp"
	case "ffmpeg", "ffprobe":
		return "ffmpeg"
	case "stunnel":
		return "stunnel4"
	case "ip":
		return "iproute2"
	case "nft":
		return "nftables"
	case "turnserver":
		return "coturn"
	case "chromium":
		return "chromium"
	case "srt-live-transmit":
		return "srt-tools"
	case "gst-launch-1.0":
		return "gstreamer1.0-tools and the plugins good, bad and ugly"
	default:
		return program
	}
}

// names are what a program may be called.
func names(program string) []string {
	switch program {
	case "nginx":
		return []string{"nginx", "/usr/sbin/nginx"}
	case "stunnel":
		return []string{"stunnel4", "stunnel", "/usr/bin/stunnel4"}
	case "chromium":
		return []string{"chromium", "chromium-browser", "google-chrome"}
	case "ip", "nft", "turnserver":
		return []string{program, "/usr/sbin/" + program, "/usr/bin/" + program}
	default:
		return []string{program}
	}
}

// rtmpModule is where Debian keeps nginx's RTMP module.
const rtmpModule = "/usr/lib/nginx/modules/ngx_rtmp_module.so"

// Find returns the path of a program. Where it is absent the test is skipped, naming the package that
// would bring it; with HEADGATE_TEST_PEERS=required it fails.
func Find(t testing.TB, program string) string {
	t.Helper()
	for _, name := range names(program) {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if program == "nginx" {
			if _, err := os.Stat(rtmpModule); err != nil {
				continue
			}
		}
		return path
	}
	absent(t, program)
	return ""
}

// Need ends the test unless all programs are there, as [Find] does.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		Find(t, p)
	}
}

func absent(t testing.TB, program string) {
	t.Helper()
	msg := fmt.Sprintf("needs %s, of the Debian package %s", program, packages(program))
	if os.Getenv("HEADGATE_TEST_PEERS") == "required" {
		t.Fatal(msg)
	}
	t.Skip(msg)
}

// ports are the ports that were given out, each held by a socket of its name, so that
// no other test gets it while this process lives, whichever binary it is of.
//
//nolint:gochecknoglobals // the ports of a machine are global
var ports struct {
	mu   sync.Mutex
	held []net.Listener
}

// FreePort returns a port of 127.0.0.1 on which nobody listens, neither over TCP
// nor over UDP. It is none of those that the kernel hands out by itself: one of
// these another program could have, as the near end of a connection, before who
// asked for it listens there. It is the caller's until the test binary ends.
func FreePort(t testing.TB) int {
	t.Helper()
	return freePorts(t, 1)
}

// FreePair returns an even port that is free as one of [FreePort] is, and so is the
// next one.
func FreePair(t testing.TB) int {
	t.Helper()
	return freePorts(t, 2)
}

// freePorts returns the first of n free ports in a row, a multiple of n.
func freePorts(t testing.TB, n int) int {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	const least = 10_000 // below are those that services are known by
	end := firstEphemeral(t)
	for range 1000 {
		port := least + rand.IntN((end-least)/n)*n
		if held, ok := hold(port, n); ok {
			ports.held = append(ports.held, held...)
			return port
		}
	}
	t.Fatal("no free port found")
	return 0
}

// hold takes n ports from first on for this process, if all of them are free.
func hold(first, n int) (held []net.Listener, ok bool) {
	defer func() {
		if !ok {
			for _, l := range held {
				_ = l.Close()
			}
		}
	}()
	for port := first; port < first+n; port++ {
		name, err := net.Listen("unix", fmt.Sprintf("@headgate-test-port-%d", port))
		if err != nil {
			return held, false
		}
		held = append(held, name)
		if !unused(port) {
			return held, false
		}
	}
	return held, true
}

// firstEphemeral is the first port that the kernel hands out by itself.
func firstEphemeral(t testing.TB) int {
	t.Helper()
	const file = "/proc/sys/net/ipv4/ip_local_port_range"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var first, last int
	if _, err := fmt.Sscan(string(text), &first, &last); err != nil {
		t.Fatalf("reading %s: %v", file, err)
	}
	if first < 12_000 {
		return 1 << 16 // there is no room below: any port may do
	}
	return first
}

func unused(port int) bool {
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	_ = l.Close() // nobody was accepted on it
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	_ = u.Close() // nothing was sent on it
	return true
}

// FreeAddr is 127.0.0.1 with a port of [FreePort].
func FreeAddr(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", FreePort(t))
}

// Poll calls f until it returns nil, and returns its last error once d is over.
func Poll(d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", d, err)
		case <-tick.C:
		}
	}
}

// Wait calls f until it returns nil, and ends the test with its last error once
// d is over. what says what is waited for.
func Wait(t testing.TB, d time.Duration, what string, f func() error) {
	t.Helper()
	if err := Poll(d, f); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// Run lets time pass: the duration of a recording or of a fault, never the hope
// that something has happened by then.
func Run(t testing.TB, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal("the test ended before")
	}
}

// Listening returns nil once addr accepts TCP connections.
func Listening(addr string) error {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

// errExited is why waiting for a process ended early.
var errExited = errors.New("the process has ended")

// Scratch makes a folder that is removed after the test as far as possible. It is for
// programs whose helpers write on for a moment after they were killed: the removal of
// the test's own folder must not fail.
func Scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "headgate-peer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = Poll(5*time.Second, func() error { return os.RemoveAll(dir) })
	})
	return dir
}
