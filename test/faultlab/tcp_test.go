package faultlab

import (
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// TestTCP: what is sent arrives whole, at the pace, and the answer comes back.
func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	got := make(chan int, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		n, _ := io.Copy(io.Discard, c)
		got <- int(n)
		_, _ = io.WriteString(c, "thanks")
		_ = c.Close()
	}()
	p, err := NewTCP(l.Addr().String(), 200_000, 4096)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := c.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if n := <-got; n != 100_000 {
		t.Errorf("%d bytes arrived", n)
	}
	if d := time.Since(start); d < 400*time.Millisecond {
		t.Errorf("half a second's worth took %v", d)
	}
	marks := p.Marks()
	waits := func(m Mark) bool { return m.Arrived > m.Read }
	if len(marks) < 2 || marks[len(marks)-1].Read != 100_000 || !slices.ContainsFunc(marks, waits) {
		t.Errorf("%d marks", len(marks))
	}
	if b, err := io.ReadAll(c); string(b) != "thanks" {
		t.Errorf("the answer is %q, %v", b, err)
	}
	_ = c.Close()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
