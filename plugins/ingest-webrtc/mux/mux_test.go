package mux_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v4"

	"github.com/headgate/gateway/plugins/ingest-webrtc/mux"
	"github.com/headgate/gateway/sdk/quickio"
)

// patience is how long anything may take on a busy machine.
const patience = 20 * time.Second

func listen(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func addrPort(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// start returns a mux that runs, and its address.
func start(t *testing.T) (*mux.Mux, netip.AddrPort) {
	t.Helper()
	socket := listen(t)
	m := mux.New(quickio.NewUDPConn(socket), slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(m.Run)
	t.Cleanup(func() {
		if err := m.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		running.Wait()
	})
	return m, addrPort(socket)
}

func open(t *testing.T, m *mux.Mux, ufrag string, dropped *atomic.Uint64) *mux.Conn {
	t.Helper()
	c, err := m.Conn(ufrag, dropped)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// check is a connectivity check for the session ufrag.
func check(t *testing.T, ufrag string) []byte {
	t.Helper()
	m, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername(ufrag+":peer"))
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

func send(t *testing.T, from *net.UDPConn, to netip.AddrPort, b []byte) {
	t.Helper()
	if _, err := from.WriteToUDPAddrPort(b, to); err != nil {
		t.Error(err)
	}
}

// reads checks that want is what c reads next.
func reads(t *testing.T, c *mux.Conn, want []byte, from *net.UDPConn) {
	t.Helper()
	type result struct {
		b    []byte
		from netip.AddrPort
		err  error
	}
	got := make(chan result, 1)
	go func() {
		b := make([]byte, 2048)
		n, from, err := c.ReadFromAddrPort(b)
		got <- result{b[:n], from, err}
	}()
	select {
	case r := <-got:
		if r.err != nil || !bytes.Equal(r.b, want) || r.from != addrPort(from) {
			t.Fatalf("%d bytes from %v (%v), want %d from %v", len(r.b), r.from, r.err, len(want), from.LocalAddr())
		}
	case <-time.After(patience):
		t.Fatalf("%d bytes from %v do not come", len(want), from.LocalAddr())
	}
}

func TestPacketsGoToTheSessionThatIsChecked(t *testing.T) {
	m, at := start(t)
	var dropped atomic.Uint64
	one, two := open(t, m, "one", &dropped), open(t, m, "two", &dropped)
	alice, bob, stranger := listen(t), listen(t), listen(t)

	send(t, stranger, at, []byte("media of nobody"))
	send(t, stranger, at, check(t, "three"))
	send(t, alice, at, []byte("media before the check"))
	toOne, toTwo := check(t, "one"), check(t, "two")
	send(t, alice, at, toOne)
	send(t, bob, at, toTwo)
	reads(t, one, toOne, alice)
	reads(t, two, toTwo, bob)

	// Whom a session answers is known by his address.
	for c, peer := range map[*mux.Conn]*net.UDPConn{one: alice, two: bob} {
		if _, err := c.WriteToAddrPort([]byte("answer"), addrPort(peer)); err != nil {
			t.Fatal(err)
		}
		send(t, peer, at, []byte("media"))
		reads(t, c, []byte("media"), peer)
	}

	// A new session of a peer whose port is known.
	again := check(t, "two")
	send(t, alice, at, again)
	reads(t, two, again, alice)
	if _, err := two.WriteTo([]byte("answer"), alice.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	send(t, alice, at, []byte("media"))
	reads(t, two, []byte("media"), alice)

	// The end of one does not end the other's way.
	m.Remove("one")
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	send(t, alice, at, []byte("more"))
	reads(t, two, []byte("more"), alice)
	if dropped.Load() != 0 {
		t.Errorf("%d dropped", dropped.Load())
	}
}

// A session that does not read loses what is too much, and nothing else: neither what
// waits already, nor what comes when it reads again, nor what other sessions get.
func TestQueueIsBounded(t *testing.T) {
	m, at := start(t)
	var slow, quick atomic.Uint64
	stuck, fine := open(t, m, "stuck", &slow), open(t, m, "fine", &quick)
	peer, other := listen(t), listen(t)
	for c, p := range map[*mux.Conn]*net.UDPConn{stuck: peer, fine: other} {
		if _, err := c.WriteToAddrPort(nil, addrPort(p)); err != nil {
			t.Fatal(err)
		}
	}
	const size = 1200
	sent := 0
	for deadline := time.Now().Add(patience); slow.Load() < 100; sent++ {
		if time.Now().After(deadline) {
			t.Fatalf("%d packets wait, %d dropped", sent, slow.Load())
		}
		send(t, peer, at, bytes.Repeat([]byte{byte(sent)}, size))
		send(t, other, at, []byte{byte(sent)}) // keeps the pace of the socket, too
		reads(t, fine, []byte{byte(sent)}, other)
	}
	const room = 512 << 10 / size
	if got := sent - int(slow.Load()); got != room {
		t.Errorf("%d packets wait, want %d", got, room)
	}
	for i := range room {
		reads(t, stuck, bytes.Repeat([]byte{byte(i)}, size), peer)
	}
	send(t, peer, at, []byte("and on"))
	reads(t, stuck, []byte("and on"), peer)
	if quick.Load() != 0 {
		t.Errorf("the other session lost %d", quick.Load())
	}
}

// Connections of one session share what comes; each ends by itself.
func TestClose(t *testing.T) {
	m, at := start(t)
	var dropped atomic.Uint64
	a, b := open(t, m, "session", &dropped), open(t, m, "session", &dropped)
	ended := make(chan error, 1)
	go func() {
		_, _, err := a.ReadFrom(make([]byte, 100))
		ended <- err
	}()
	closeConn := func(c *mux.Conn) {
		t.Helper()
		for range 2 {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	closeConn(a)
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("reading ends with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("reading does not end")
	}
	if _, err := a.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(at)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("writing after Close: %v", err)
	}
	peer := listen(t)
	first := check(t, "session")
	send(t, peer, at, first)
	reads(t, b, first, peer)

	closeConn(b)
	next := open(t, m, "session", &dropped) // a session of its own
	second := check(t, "session")
	send(t, peer, at, second)
	reads(t, next, second, peer)

	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := next.ReadFromAddrPort(make([]byte, 100)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading after the mux was closed: %v", err)
	}
	if _, err := m.Conn("session", &dropped); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a session after the mux was closed: %v", err)
	}
}

// The server's answer counts, whatever else comes; one that is lost is asked for again.
func TestSeenAs(t *testing.T) {
	m, _ := start(t)
	server, stranger := listen(t), listen(t)
	seen := netip.MustParseAddrPort("203.0.113.7:17198")
	var running sync.WaitGroup
	running.Go(func() {
		b := make([]byte, 2048)
		for asked := 0; ; asked++ {
			n, from, err := server.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			request := stun.Message{Raw: bytes.Clone(b[:n])}
			if err := request.Decode(); err != nil {
				t.Error(err)
				return
			}
			answer := func(seen netip.AddrPort) []byte {
				a, err := stun.Build(&request, stun.BindingSuccess, &stun.XORMappedAddress{IP: seen.Addr().AsSlice(), Port: int(seen.Port())})
				if err != nil {
					t.Error(err)
				}
				return a.Raw
			}
			send(t, stranger, from, answer(netip.MustParseAddrPort("192.0.2.1:1")))
			if asked > 0 {
				send(t, server, from, answer(seen))
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := m.SeenAs(ctx, addrPort(server))
	if err != nil || got != seen.Addr() {
		t.Errorf("%v (%v), want %v", got, err, seen.Addr())
	}
	_ = server.Close()
	running.Wait()

	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := m.SeenAs(short, addrPort(stranger)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v (%v) of a server that does not answer", got, err)
	}
}
