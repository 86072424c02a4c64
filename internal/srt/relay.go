package srt

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A relay stands between the library and a listener that leaves the length of the
// key to its callers, which is what libsrt does by default. Such a listener takes 192
// and 256 bits, and names no length in its last message of the handshake; the library
// reads that as 128 and drops the message. The relay names the length there, and
// passes on everything else as it is.
type relay struct {
	outer   *net.UDPConn // connected to the listener
	inner   *net.UDPConn // what the library calls
	self    netip.AddrPort
	library chan netip.AddrPort // takes its address once
	keyBits int
	wg      sync.WaitGroup
}

func newRelay(ctx context.Context, remote string, keyBits int, control func(network, address string, c syscall.RawConn) error) (*relay, error) {
	inner, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Control: control}
	outer, err := d.DialContext(ctx, "udp", remote)
	if err != nil {
		_ = inner.Close()
		return nil, err
	}
	r := &relay{
		outer: outer.(*net.UDPConn), inner: inner, self: inner.LocalAddr().(*net.UDPAddr).AddrPort(),
		library: make(chan netip.AddrPort, 1), keyBits: keyBits,
	}
	r.wg.Go(r.out)
	r.wg.Go(r.in)
	return r, nil
}

// out passes what the library sends on, until close or a failure.
func (r *relay) out() {
	defer func() { _ = r.outer.Close() }()
	defer close(r.library)
	b := make([]byte, 2048)
	var library netip.AddrPort
	for {
		n, from, err := r.inner.ReadFromUDPAddrPort(b)
		switch {
		case err != nil || from == r.self:
			return
		case !library.IsValid():
			library = from
			r.library <- from
		case from != library:
			continue
		}
		if _, err := r.outer.Write(b[:n]); err != nil {
			return
		}
	}
}

// in passes what the listener sends on. That it is not there any more ends the
// library's connection: nobody listens at the inner address then.
func (r *relay) in() {
	defer func() { _ = r.inner.Close() }()
	library, ok := <-r.library
	if !ok {
		return
	}
	b := make([]byte, 2048)
	for {
		n, err := r.outer.Read(b)
		if err != nil {
			return
		}
		nameKeyLength(b[:n], r.keyBits)
		_, _ = r.inner.WriteToUDPAddrPort(b[:n], library)
	}
}

// nameKeyLength writes the length of the key into the last message of a handshake
// that names none (draft-sharabayko-srt, 3.2.1).
func nameKeyLength(b []byte, bits int) {
	const field, kind, conclusion = 16 + 4, 16 + 20, 0xffffffff
	if isHandshake(b) && binary.BigEndian.Uint32(b[kind:]) == conclusion && keyField(b) == 0 {
		binary.BigEndian.PutUint16(b[field:], uint16(bits/64))
	}
}

// keyField is the length of the key that a handshake names, in units of 64 bits; 0
// for none.
func keyField(b []byte) uint16 { return binary.BigEndian.Uint16(b[16+4:]) }

// close passes on what the library sent before, its goodbye, and ends the relay.
func (r *relay) close() {
	_ = r.inner.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = r.inner.WriteToUDPAddrPort(nil, r.self) // behind all that waits
	r.wg.Wait()
}
