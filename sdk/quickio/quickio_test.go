package quickio

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pair returns the two ends of a connection, the first one quick.
func pair(t *testing.T, network string) (quick, other net.Conn) {
	t.Helper()
	c, other := sockets(t, network)
	return Conn(c), other
}

// sockets returns the two ends of a connection as they are.
func sockets(t *testing.T, network string) (c, other net.Conn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if c, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if other, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = other.Close() })
	return c, other
}

func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestBothWays sends more than the kernel holds, both ways at once, so that every
// call has to wait now and then.
func TestBothWays(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			quick, other := pair(t, network)
			data := noise(8 << 20)
			want := sha256.Sum256(data)
			var wg sync.WaitGroup
			for _, way := range [][2]net.Conn{{quick, other}, {other, quick}} {
				wg.Go(func() {
					for rest := data; len(rest) > 0; {
						n := min(len(rest), 100_003)
						if w, err := way[0].Write(rest[:n]); err != nil || w != n {
							t.Errorf("wrote %d of %d: %v", w, n, err)
							return
						}
						rest = rest[n:]
					}
				})
				wg.Go(func() {
					h := sha256.New()
					if _, err := io.CopyN(h, way[1], int64(len(data))); err != nil || !bytes.Equal(h.Sum(nil), want[:]) {
						t.Errorf("received something else: %v", err)
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestWriteBuffers(t *testing.T) {
	c, other := sockets(t, "tcp")
	w := NewWriter(c.(*net.TCPConn))
	var v net.Buffers
	var want []byte
	for i := range 3000 { // more than the kernel takes at once
		piece := noise(i % 1500)
		v = append(v, piece)
		want = append(want, piece...)
	}
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(other)
		got <- b
	}()
	n, err := w.WriteBuffers(&v)
	if err != nil || n != int64(len(want)) || len(v) != 0 {
		t.Errorf("wrote %d of %d, %d pieces left: %v", n, len(want), len(v), err)
	}
	if n, err := w.Write([]byte("end")); n != 3 || err != nil {
		t.Errorf("wrote %d: %v", n, err)
	}
	_ = c.Close()
	if !bytes.Equal(<-got, append(want, "end"...)) {
		t.Error("received something else")
	}
}

func TestDeadlines(t *testing.T) {
	quick, other := pair(t, "unix")
	past := time.Now().Add(-time.Second)
	_ = quick.SetReadDeadline(past)
	if _, err := quick.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	_ = quick.SetReadDeadline(time.Time{})
	_, _ = other.Write([]byte("x"))
	if n, err := quick.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("read after the deadline: %d, %v", n, err)
	}
	// Nobody reads: the write fills the kernel's buffer, waits, and is told off.
	const size = 64 << 20
	data := bytes.Repeat([]byte{1}, size) // written once before the time counts
	_ = quick.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	n, err := quick.Write(data)
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == size {
		t.Errorf("wrote %d: %v", n, err)
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("not a timeout: %v", err)
	}
}

func TestEnds(t *testing.T) {
	quick, other := pair(t, "unix")
	_ = other.Close()
	if n, err := quick.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if _, err := quick.Write([]byte("x")); err == nil {
		t.Error("wrote to nobody")
	}
	waiting, _ := pair(t, "unix")
	done := make(chan error, 1)
	go func() {
		_, err := waiting.Read(make([]byte, 1))
		done <- err
	}()
	_ = waiting.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed connection: %v", err)
	}
	if _, err := waiting.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write to a closed connection: %v", err)
	}
}

// TestDatagrams sends between a quick socket and an ordinary one, in both families.
func TestDatagrams(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(at, func(t *testing.T) {
			listen := func() *net.UDPConn {
				c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
				if err != nil {
					t.Skip(err) // no IPv6 here
				}
				t.Cleanup(func() { _ = c.Close() })
				return c
			}
			quick, other := NewUDPConn(listen()), listen()
			here, there := quick.LocalAddr().(*net.UDPAddr).AddrPort(), other.LocalAddr().(*net.UDPAddr).AddrPort()
			buf := make([]byte, 2000)
			got := make(chan string, 1)
			go func() {
				n, from, err := quick.ReadFromAddrPort(buf)
				got <- fmt.Sprint(n, from, err, bytes.Equal(buf[:max(n, 0)], noise(1200)))
			}()
			if _, err := other.WriteToUDPAddrPort(noise(1200), here); err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint(1200, there, nil, true); <-got != want {
				t.Errorf("want %s", want)
			}
			if n, err := quick.WriteToAddrPort(noise(700), there); n != 700 || err != nil {
				t.Errorf("sent %d: %v", n, err)
			}
			if n, from, err := other.ReadFromUDPAddrPort(buf); n != 700 || from != here || err != nil || !bytes.Equal(buf[:n], noise(700)) {
				t.Errorf("received %d from %v: %v", n, from, err)
			}
			if n, err := quick.WriteToAddrPort(make([]byte, 70_000), there); n != 0 || !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("sent %d of what is too long: %v", n, err)
			}
			_ = quick.SetReadDeadline(time.Now().Add(-time.Second))
			if _, _, err := quick.ReadFromAddrPort(buf); !os.IsTimeout(err) {
				t.Errorf("after the deadline: %v", err)
			}
			_ = quick.Close()
			if _, _, err := quick.ReadFromAddrPort(buf); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read of a closed socket: %v", err)
			}
			if _, err := quick.WriteToAddrPort(buf, there); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write to a closed socket: %v", err)
			}
		})
	}
}

// TestFamilies: an address of IPv4 may be written as one of IPv6, not the reverse.
func TestFamilies(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	quick := NewUDPConn(c)
	here := c.LocalAddr().(*net.UDPAddr).AddrPort()
	mapped := netip.AddrPortFrom(netip.AddrFrom16(here.Addr().As16()), here.Port())
	if _, err := quick.WriteToAddrPort([]byte("x"), mapped); err != nil {
		t.Error(err)
	}
	if _, err := quick.WriteToAddrPort([]byte("x"), netip.MustParseAddrPort("[::1]:9")); err == nil {
		t.Error("sent to IPv6 from a socket of IPv4")
	}
}

// TestNoSocket: what is no socket stays as it is.
func TestNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer func() { _ = a.Close(); _ = b.Close() }()
	if Conn(a) != a {
		t.Error("a pipe was wrapped")
	}
}

func BenchmarkRead(b *testing.B) {
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, kind := range []string{"quick", "plain"} {
		b.Run(kind, func(b *testing.B) {
			c, err := net.Dial("unix", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			other, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			if kind == "quick" {
				c = Conn(c)
			}
			buf := make([]byte, 1000)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = other.Write(buf)
				_, _ = io.ReadFull(c, buf)
			}
		})
	}
}
