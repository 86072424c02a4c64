// Package badrtmp is RTMP servers that misbehave, one [Case] each, and what a
// publisher should make of them. It speaks RTMP through gortmplib, not through the
// gateway's own package, and knows nothing of the gateway.
package badrtmp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5" //nolint:gosec // the protocol is made of it
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluenviron/gortmplib/pkg/amf0"
	"github.com/bluenviron/gortmplib/pkg/bytecounter"
	"github.com/bluenviron/gortmplib/pkg/handshake"
	"github.com/bluenviron/gortmplib/pkg/message"
)

// A Lane is how soon a publisher should try again.
type Lane string

// The lanes.
const (
	Live Lane = "live" // it need not: the server can be published to
	Fast Lane = "fast"
	Slow Lane = "slow"
)

// A Case is a server that misbehaves.
type Case struct {
	Name string
	// Class is that of the failure, as the gateway names it; empty if Live.
	Class string
	Lane  Lane
	// Serve is one connection; it may return at any time. Nil listens to nobody.
	Serve func(s *Server, conn net.Conn)
	// TLS makes it rtmps with a certificate for this host, that is valid until this
	// time from now on.
	TLSHost  string
	TLSUntil time.Duration
}

// A Server is a case that runs.
type Server struct {
	Case
	// Addr is host:port, CA the certificate that a TLS server showed first, in PEM,
	// and DER the same.
	Addr string
	CA   []byte
	DER  []byte

	cert    atomic.Pointer[tls.Certificate]
	started atomic.Int64 // publications accepted
	keys    sync.Map     // stream keys seen
	done    chan struct{}
}

// Publications counts those that were accepted.
func (s *Server) Publications() int { return int(s.started.Load()) }

// Saw reports whether a publisher showed the key.
func (s *Server) Saw(key string) bool { _, ok := s.keys.Load(key); return ok }

// Start runs a case until the test ends.
func Start(t testing.TB, c Case) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Case: c, Addr: l.Addr().String(), done: make(chan struct{})}
	if c.TLSHost != "" {
		s.Renew(t)
		s.DER = s.cert.Load().Certificate[0]
		s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.DER})
		l = tls.NewListener(l, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil }})
	}
	if c.Serve == nil {
		_ = l.Close()
		return s
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := make(map[net.Conn]bool)
	t.Cleanup(func() {
		_ = l.Close()
		close(s.done)
		mu.Lock()
		for conn := range conns {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			wg.Go(func() {
				c.Serve(s, conn)
				_ = conn.Close()
				mu.Lock()
				delete(conns, conn)
				mu.Unlock()
			})
		}
	})
	return s
}

// Renew gives a TLS server another certificate for new connections.
func (s *Server) Renew(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(s.TLSUntil)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: s.TLSHost},
		NotBefore: until.Add(-100 * time.Hour), NotAfter: until, DNSNames: []string{s.TLSHost},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if ip := net.ParseIP(s.TLSHost); ip != nil {
		template.IPAddresses = []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s.cert.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
}

// hold waits until the test is over: the connection stays open.
func (s *Server) hold() { <-s.done }

// A peer is a connection behind its handshake.
type peer struct {
	s  *Server
	nc net.Conn
	r  *message.Reader
	w  *message.Writer
}

// shake does the server's part of the handshake.
func (s *Server) shake(conn net.Conn) (*peer, bool) {
	bc := bytecounter.NewReadWriter(conn)
	if _, _, err := handshake.DoServer(bc, false); err != nil {
		return nil, false
	}
	return &peer{s: s, nc: conn, r: message.NewReader(bc, bc.Reader, nil), w: message.NewWriter(bc, bc.Writer, false)}, true
}

// until reads up to a command; ok is false if the client left.
func (p *peer) until(name string) (*message.CommandAMF0, bool) {
	for {
		m, err := p.r.Read()
		if err != nil {
			return nil, false
		}
		if c, ok := m.(*message.CommandAMF0); ok && c.Name == name {
			if name == "publish" && len(c.Arguments) > 1 {
				if key, ok := c.Arguments[1].(string); ok {
					p.s.keys.Store(key, true)
				}
			}
			return c, true
		}
	}
}

func (p *peer) say(name string, id int, args ...any) bool {
	return p.w.Write(&message.CommandAMF0{ChunkStreamID: 3, Name: name, CommandID: id, Arguments: args}) == nil
}

func status(level, code, description string) amf0.Object {
	return amf0.Object{{Key: "level", Value: level}, {Key: "code", Value: code}, {Key: "description", Value: description}}
}

// connected answers connect.
func (p *peer) connected() bool {
	c, ok := p.until("connect")
	return ok && p.say("_result", c.CommandID, amf0.Object{{Key: "fmsVer", Value: "bad"}}, status("status", "NetConnection.Connect.Success", ""))
}

// created answers createStream with a stream's number.
func (p *peer) created(stream float64) bool {
	c, ok := p.until("createStream")
	return ok && p.say("_result", c.CommandID, nil, stream)
}

// published accepts the publication.
func (p *peer) published() bool {
	if _, ok := p.until("publish"); !ok {
		return false
	}
	p.s.started.Add(1)
	return p.say("onStatus", 0, nil, status("status", "NetStream.Publish.Start", ""))
}

// How far a server behaves.
const (
	handshaken = iota
	connected
	created
	published
)

// behaves is a server that does what it should up to a stage, and then f.
func behaves(upTo int, f func(p *peer)) func(*Server, net.Conn) {
	steps := []func(*peer) bool{(*peer).connected, func(p *peer) bool { return p.created(1) }, (*peer).published}
	return func(s *Server, conn net.Conn) {
		p, ok := s.shake(conn)
		for _, step := range steps[:upTo] {
			ok = ok && step(p)
		}
		if ok {
			f(p)
		}
	}
}

// after runs f once the publication is accepted, and reads on.
func after(f func(p *peer)) func(*Server, net.Conn) {
	return behaves(published, func(p *peer) { f(p); p.drain() })
}

// behave goes on with a stream of this number as a good server would.
func (p *peer) behave(stream float64) {
	if p.created(stream) && p.published() {
		p.drain()
	}
}

// drain reads what comes until the client leaves.
func (p *peer) drain() { _, _ = io.Copy(io.Discard, p.nc) }

// stalls says nothing more from a command on.
func stalls(command string) func(*peer) {
	return func(p *peer) {
		_, _ = p.until(command)
		p.s.hold()
	}
}

// refusedConnect answers connect with an error.
func refusedConnect(code, description string) func(*Server, net.Conn) {
	return behaves(handshaken, func(p *peer) {
		if c, ok := p.until("connect"); ok {
			p.say("_error", c.CommandID, nil, status("error", code, description))
			p.drain()
		}
	})
}

// refusedPublish answers publish with an error.
func refusedPublish(code string) func(*Server, net.Conn) {
	return behaves(created, func(p *peer) {
		if _, ok := p.until("publish"); ok {
			p.say("onStatus", 0, nil, status("error", code, "no"))
			p.drain()
		}
	})
}

// first is a server that sends a message before it behaves.
func first(m message.Message) func(*Server, net.Conn) {
	return behaves(handshaken, func(p *peer) {
		if p.w.Write(m) == nil && p.connected() {
			p.behave(1)
		}
	})
}

// closes says goodbye after d, behind everything that was sent, so that it is no
// reset.
func closes(d time.Duration) func(*Server, net.Conn) {
	return behaves(published, func(p *peer) {
		_ = p.nc.SetReadDeadline(time.Now().Add(d))
		p.drain()
		p.halfClose()
		_ = p.nc.SetReadDeadline(time.Time{})
		p.drain()
	})
}

func (p *peer) halfClose() {
	if tcp, ok := p.nc.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}

// small gives a server little room: what it does not read waits at the publisher.
func small(serve func(*Server, net.Conn)) func(*Server, net.Conn) {
	return func(s *Server, conn net.Conn) {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(4096)
		}
		serve(s, conn)
	}
}

// byteASecond reads as slowly as that.
func byteASecond(p *peer) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := p.nc.Read(make([]byte, 1)); err != nil {
				return
			}
		case <-p.s.done:
			return
		}
	}
}

// reconnects asks its first publisher to connect anew.
func reconnects(url string) func(*Server, net.Conn) {
	return after(func(p *peer) {
		if p.s.Publications() > 1 { // once is enough
			return
		}
		o := status("status", "NetConnection.Connect.ReconnectRequest", "maintenance")
		if url != "" {
			o = append(o, amf0.ObjectEntry{Key: "tcUrl", Value: url})
		}
		p.say("onStatus", 0, nil, o)
	})
}

// raw is a chunk of type 0 on chunk stream 3.
func raw(typ byte, stream uint32, body []byte) []byte {
	b := []byte{3, 0, 0, 0, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body)), typ}
	return append(binary.LittleEndian.AppendUint32(b, stream), body...)
}

// Cases are the servers. elsewhere is an address to which the one that asks to
// reconnect somewhere else sends its clients.
func Cases(elsewhere string) []Case {
	publish := after(func(*peer) {})
	const day = 24 * time.Hour
	return []Case{
		{Name: "refuses TCP", Class: "unreachable", Lane: Fast},
		{Name: "says nothing", Class: "timeout", Lane: Fast, Serve: func(s *Server, _ net.Conn) { s.hold() }},
		{Name: "closes in handshake", Class: "closed", Lane: Fast, Serve: func(_ *Server, conn net.Conn) {
			_, _ = io.ReadFull(conn, make([]byte, 1537))
			_, _ = conn.Write(bytes.Repeat([]byte{3}, 500))
		}},
		{Name: "wrong version", Class: "protocol", Lane: Fast, Serve: func(s *Server, conn net.Conn) {
			_, _ = io.ReadFull(conn, make([]byte, 1537))
			_, _ = conn.Write(append([]byte{9}, make([]byte, 3072)...))
			s.hold()
		}},
		{Name: "stalls after handshake", Class: "timeout", Lane: Fast, Serve: behaves(handshaken, func(p *peer) { p.s.hold() })},
		{Name: "_error on connect", Class: "refused", Lane: Fast, Serve: refusedConnect("NetConnection.Connect.Failed", "overloaded")},
		{Name: "rejects the app", Class: "app", Lane: Slow, Serve: refusedConnect("NetConnection.Connect.InvalidApp", "no such application")},
		{Name: "wants a login", Class: "auth", Lane: Slow, Serve: refusedConnect("NetConnection.Connect.Rejected", "[ code=403 need auth; authmod=adobe ]")},
		{Name: "answers connect twice", Lane: Live, Serve: behaves(connected, func(p *peer) {
			p.say("_result", 1, amf0.Object{}, status("status", "NetConnection.Connect.Success", ""))
			p.behave(1)
		})},
		{Name: "stalls at releaseStream", Class: "timeout", Lane: Fast, Serve: behaves(connected, stalls("releaseStream"))},
		{Name: "stalls at createStream", Class: "timeout", Lane: Fast, Serve: behaves(connected, func(p *peer) {
			p.say("_result", 2, nil)
			stalls("createStream")(p)
		})},
		{Name: "stalls at publish", Class: "timeout", Lane: Fast, Serve: behaves(created, stalls("publish"))},
		{Name: "stream 7", Lane: Live, Serve: behaves(connected, func(p *peer) { p.behave(7) })},
		{Name: "BadName", Class: "in_use", Lane: Fast, Serve: refusedPublish("NetStream.Publish.BadName")},
		{Name: "Unauthorized", Class: "key", Lane: Slow, Serve: refusedPublish("NetStream.Publish.Unauthorized")},
		{Name: "Denied", Class: "key", Lane: Slow, Serve: refusedPublish("NetStream.Publish.Denied")},
		{Name: "closes after start", Class: "closed", Lane: Fast, Serve: closes(50 * time.Millisecond)},
		{Name: "closes after 10 s", Class: "closed", Lane: Fast, Serve: closes(10 * time.Second)},
		{Name: "resets within a message", Class: "reset", Lane: Fast, Serve: behaves(published, func(p *peer) {
			_, _ = io.CopyN(io.Discard, p.nc, 20000)
			if tcp, ok := p.nc.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
		})},
		{Name: "stops reading", Class: "stalled", Lane: Fast, Serve: small(behaves(published, func(p *peer) { p.s.hold() }))},
		{Name: "reads a byte a second", Class: "stalled", Lane: Fast, Serve: small(behaves(published, byteASecond))},
		{Name: "chunks of 1 byte", Lane: Live, Serve: first(&message.SetChunkSize{Value: 1})},
		{Name: "chunks of 16 MB", Lane: Live, Serve: first(&message.SetChunkSize{Value: 16 << 20})},
		{Name: "acknowledge each byte", Lane: Live, Serve: first(&message.SetWindowAckSize{Value: 1})},
		{Name: "pings every 10 ms", Lane: Live, Serve: after(func(p *peer) {
			go func() {
				for n := uint32(0); p.w.Write(&message.UserControlPingRequest{ServerTime: n}) == nil; n++ {
					time.Sleep(10 * time.Millisecond) //nolint:forbidigo // a server's pace
				}
			}()
		})},
		{Name: "unknown messages", Lane: Live, Serve: after(func(p *peer) {
			_, _ = p.nc.Write(raw(99, 0, []byte("what is this")))
			_, _ = p.nc.Write(raw(22, 1, []byte("aggregate")))
			_, _ = p.nc.Write(raw(17, 0, append([]byte{0}, must(amf0.Data{"onFCPublish", 0.0, nil}.Marshal())...)))
			_, _ = p.nc.Write(raw(17, 0, []byte{0, 0x11, 4, 1, 9}))
			_, _ = p.nc.Write(raw(20, 0, []byte{2, 0, 200, 'x'}))
			_, _ = p.nc.Write(raw(4, 0, []byte{0, 99, 1, 2, 3, 4}))
		})},
		{Name: "reconnect without address", Lane: Live, Serve: reconnects("")},
		{Name: "reconnect elsewhere", Lane: Live, Serve: reconnects("rtmp://" + elsewhere + "/app")},
		{Name: "half-close", Class: "closed", Lane: Fast, Serve: after((*peer).halfClose)},
		{Name: "certificate expired", Class: "tls", Lane: Slow, TLSHost: "127.0.0.1", TLSUntil: -time.Hour, Serve: publish},
		{Name: "certificate of another host", Class: "tls", Lane: Slow, TLSHost: "cdn.example", TLSUntil: day, Serve: publish},
		{Name: "certificate changed on reconnect", Class: "tls", Lane: Slow, TLSHost: "127.0.0.1", TLSUntil: day, Serve: behaves(published, func(p *peer) {
			// The connection ends, and the next one meets another certificate.
			_ = p.nc.SetReadDeadline(time.Now().Add(time.Second))
			p.drain()
		})},
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// Login is a server that behaves, once it has seen the user and the password in the
// way called adobe.
func Login(user, password string) Case {
	const salt, challenge, opaque = "c2FsdA==", "Y2hhbGxlbmdl", "b3BhcXVl"
	return Case{Name: "login", Lane: Live, Serve: func(s *Server, conn net.Conn) {
		p, ok := s.shake(conn)
		if !ok {
			return
		}
		c, ok := p.until("connect")
		if !ok || len(c.Arguments) == 0 {
			return
		}
		o, _ := c.Arguments[0].(amf0.Object)
		app, _ := o.GetString("app")
		refuse := func(description string) {
			p.say("_error", c.CommandID, nil, status("error", "NetConnection.Connect.Rejected", "[ AccessManager.Reject ] : "+description))
			p.drain()
		}
		values := make(map[string]string)
		for pair := range strings.SplitSeq(strings.ReplaceAll(app, "?", "&"), "&") {
			k, v, _ := strings.Cut(pair, "=")
			values[k] = v
		}
		sum := func(text string) string {
			b := md5.Sum([]byte(text)) //nolint:gosec // the protocol is made of it
			return base64.StdEncoding.EncodeToString(b[:])
		}
		switch {
		case values["authmod"] != "adobe":
			refuse("[ code=403 need auth; authmod=adobe ]")
		case values["response"] == "":
			refuse("[ authmod=adobe ] : ?reason=needauth&user=" + values["user"] + "&salt=" + salt + "&challenge=" + challenge + "&opaque=" + opaque)
		case values["user"] != user || values["response"] != sum(sum(user+salt+password)+opaque+values["challenge"]):
			refuse("[ authmod=adobe ] : ?reason=authfailed&user=" + values["user"])
		default:
			s.keys.Store(password, true)
			for _, v := range values {
				s.keys.Store(v, true)
			}
			if p.say("_result", c.CommandID, amf0.Object{}, status("status", "NetConnection.Connect.Success", "")) {
				p.behave(1)
			}
		}
	}}
}
