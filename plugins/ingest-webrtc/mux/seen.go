package mux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/pion/stun/v4"
)

// resendEvery is how soon a STUN server is asked again that does not answer: the first
// interval of RFC 8489, 6.2.1.
const resendEvery = 500 * time.Millisecond

// A request is one that a STUN server has not answered yet.
type request struct {
	server netip.AddrPort
	answer chan stun.Message // takes one
}

// SeenAs asks the STUN server which address the socket has for it, until ctx ends.
func (m *Mux) SeenAs(ctx context.Context, server netip.AddrPort) (netip.Addr, error) {
	msg, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	if err != nil {
		return netip.Addr{}, err
	}
	r := &request{server: canonical(server), answer: make(chan stun.Message, 1)}
	m.mu.Lock()
	m.requests[msg.TransactionID] = r
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.requests, msg.TransactionID)
		m.mu.Unlock()
	}()
	again := time.NewTicker(resendEvery)
	defer again.Stop()
	for {
		if _, err := m.socket.WriteToAddrPort(msg.Raw, server); err != nil {
			return netip.Addr{}, err
		}
		select {
		case a := <-r.answer:
			return mapped(&a)
		case <-again.C:
		case <-ctx.Done():
			return netip.Addr{}, fmt.Errorf("no answer: %w", ctx.Err())
		}
	}
}

// mapped returns the address that an answer tells.
func mapped(a *stun.Message) (netip.Addr, error) {
	if a.Type != stun.BindingSuccess {
		return netip.Addr{}, fmt.Errorf("the server answers %s", a.Type)
	}
	var seen stun.XORMappedAddress
	if err := seen.GetFrom(a); err != nil {
		return netip.Addr{}, fmt.Errorf("the server's answer: %w", err)
	}
	ip, ok := netip.AddrFromSlice(seen.IP)
	if !ok || ip.Unmap().IsUnspecified() {
		return netip.Addr{}, errors.New("the server's answer has no address")
	}
	return ip.Unmap(), nil
}

// answered reports whether b, a STUN message, is what a server was asked for, and takes
// it if so. It is called with m.mu held.
func (m *Mux) answered(b []byte, from netip.AddrPort) bool {
	a := stun.Message{Raw: append([]byte(nil), b...)}
	if a.Decode() != nil {
		return false
	}
	r := m.requests[a.TransactionID]
	if r == nil || r.server != from {
		return false
	}
	select {
	case r.answer <- a:
	default: // it answers twice
	}
	return true
}
