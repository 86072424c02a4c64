package main

import (
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

func TestTreeSeesOwnProcess(t *testing.T) {
	before := tree(os.Getpid())
	own, ok := before[os.Getpid()]
	if !ok || own.rss < 1<<20 || own.name != "core" {
		t.Fatalf("own process: %+v", own)
	}
	work := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	for start := work(); work()-start < 50*time.Millisecond; {
		// Uses the processor.
	}
	cpu, _ := tree(os.Getpid()).since(before)
	if cpu < 20*time.Millisecond || cpu > 10*time.Second {
		t.Errorf("50 ms of work counted as %v", cpu)
	}
}

func TestPrivateBytes(t *testing.T) {
	if own, all := privateBytes(os.Getpid()), tree(os.Getpid())[os.Getpid()].rss; own < 1<<20 || own > all+1<<20 {
		t.Errorf("%d bytes of its own, %d resident", own, all)
	}
	if n := privateBytes(1 << 30); n != 0 {
		t.Errorf("a process that is not there has %d bytes", n)
	}
}

// TestUDPDrops fills the buffer of a socket that nobody reads.
func TestUDPDrops(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	addr := c.LocalAddr().String()
	if n := udpDrops(addr); n != 0 {
		t.Errorf("%d drops before anything was sent", n)
	}
	from, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = from.Close() }()
	for range 20_000 {
		if _, err := from.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if n := udpDrops(addr); n == 0 || n >= 20_000 {
		t.Errorf("%d drops of 20000", n)
	}
}

func TestList(t *testing.T) {
	f := func(text string, want ...int) {
		t.Helper()
		var got []int
		if err := list(&got)(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	f("1,10,25", 1, 10, 25)
	f("0")
	for _, bad := range []string{"", "1,", "x", "-1"} {
		if err := list(new([]int))(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestQuantile(t *testing.T) {
	d := []time.Duration{4, 1, 3, 2}
	if quantile(d, 0.5) != 3 || quantile(d, 1) != 4 || quantile(d, 0) != 1 || quantile(nil, 0.5) != 0 {
		t.Errorf("quantiles %v %v %v", quantile(d, 0), quantile(d, 0.5), quantile(d, 1))
	}
}
