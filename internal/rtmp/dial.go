package rtmp

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/proxy"

	"github.com/headgate/gateway/sdk/secret"
)

const (
	// connectTimeout is how long one address is tried. A server that vanished and
	// came back is found again soon: a SYN is repeated after a second, and then after two,
	// four, ..., so that a try that got no answer is begun anew before. One that comes
	// back just after the second SYN waits for the rest of the try, half a second, and for
	// the pause before the next.
	connectTimeout = 1500 * time.Millisecond
	// eyeballDelay is how long the next address waits for the one before it, RFC 8305
	// section 8.
	eyeballDelay = 250 * time.Millisecond
	// maxAddresses are tried of one name.
	maxAddresses = 16
	// maxProxyAnswer bounds the header of a proxy's answer.
	maxProxyAnswer = 16 << 10
)

// A Proxy is a server that connections are made through.
type Proxy struct {
	kind     string // http or socks5
	address  string // host and port
	user     string
	password secret.String
}

// ParseProxy takes http://[user:password@]host:port apart, a proxy that knows
// CONNECT (RFC 9110 section 9.3.6), or socks5://, RFC 1928 and 1929. Names are
// resolved by the proxy. No error contains a part of the URL.
func ParseProxy(rawURL secret.String) (*Proxy, error) {
	u, err := url.Parse(rawURL.Reveal())
	if err != nil || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("proxy: want http://host:port or socks5://host:port, with user:password@ before the host if it asks for them")
	}
	p := &Proxy{kind: u.Scheme, address: u.Host, user: u.User.Username()}
	password, _ := u.User.Password()
	p.password = secret.New(password)
	port := ""
	switch u.Scheme {
	case "http":
		port = "80"
	case "socks5", "socks5h":
		p.kind, port = "socks5", "1080"
	default:
		return nil, errors.New("proxy: the scheme is neither http nor socks5")
	}
	if u.Port() == "" {
		p.address = net.JoinHostPort(u.Hostname(), port)
	}
	return p, nil
}

// String names the proxy without its secrets.
func (p *Proxy) String() string { return p.kind + "://" + p.address }

// connect asks the proxy at conn for a connection to address.
func (p *Proxy) connect(ctx context.Context, conn net.Conn, address string) error {
	if p.kind == "socks5" {
		var auth *proxy.Auth
		if p.user != "" {
			auth = &proxy.Auth{User: p.user, Password: p.password.Reveal()}
		}
		// The dialer of package proxy wants to make the connection itself.
		d, err := proxy.SOCKS5("tcp", p.address, auth, connected{conn})
		if err != nil {
			return err
		}
		_, err = d.(proxy.ContextDialer).DialContext(ctx, "tcp", address)
		var op *net.OpError // it names the address and our end, which we do ourselves
		if errors.As(err, &op) {
			err = op.Err
		}
		return err
	}
	request := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	if p.user != "" {
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(p.user+":"+p.password.Reveal())) + "\r\n"
	}
	if _, err := conn.Write([]byte(request + "\r\n")); err != nil {
		return err
	}
	br := bufio.NewReader(&limitedConn{conn, maxProxyAnswer})
	answer, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return errors.New("it does not answer as an HTTP proxy does")
	}
	_ = answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusProxyAuthRequired:
		return ErrProxyLogin
	case answer.StatusCode/100 != 2:
		return fmt.Errorf("it answers %d", answer.StatusCode)
	case br.Buffered() > 0:
		return errors.New("the server speaks before it is spoken to")
	}
	return nil
}

// ErrProxyLogin says that a proxy wants a user and a password, or others.
var ErrProxyLogin = errors.New("it refuses the user or the password")

// connected is a dialer of a connection that is there.
type connected struct{ net.Conn }

func (c connected) Dial(string, string) (net.Conn, error) { return c.Conn, nil }

func (c connected) DialContext(context.Context, string, string) (net.Conn, error) {
	return c.Conn, nil
}

// limitedConn gives no more than left bytes.
type limitedConn struct {
	net.Conn
	left int
}

func (c *limitedConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.New("the answer is too long")
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// resolve returns the addresses of a host in the order in which to try them: the
// families by turns, that of the resolver's first answer in front.
func (cfg ClientConfig) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	lookup := cfg.lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupNetIP
	}
	found, err := lookup(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var first, second []netip.Addr
	for _, a := range found {
		a = a.Unmap()
		switch {
		case cfg.Bind.IsValid() && a.Is4() != cfg.Bind.Unmap().Is4():
		case len(first) == 0 || a.Is4() == first[0].Is4():
			first = append(first, a)
		default:
			second = append(second, a)
		}
	}
	if len(first) == 0 {
		return nil, &net.AddrError{Err: "no address of the family of the address to bind to", Addr: host}
	}
	var list []netip.Addr
	for i := range max(len(first), len(second)) {
		for _, family := range [][]netip.Addr{first, second} {
			if i < len(family) {
				list = append(list, family[i])
			}
		}
	}
	return list[:min(len(list), maxAddresses)], nil
}

// connect returns a connection to the server or to the proxy before it. It tries
// until ctx ends for as long as there is no answer.
func (cfg ClientConfig) connect(ctx context.Context, address string) (*net.TCPConn, Stage, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, StageDNS, err
	}
	for {
		addrs, err := cfg.resolve(ctx, host)
		if err != nil {
			return nil, StageDNS, err
		}
		conn, err := cfg.race(ctx, addrs, port)
		if err == nil {
			return conn, StageTCP, nil
		}
		if ctx.Err() != nil || !isTimeout(err) {
			return nil, StageTCP, err
		}
	}
}

// race connects to whichever address answers first, RFC 8305: each waits a moment
// for those before it, or until they have failed.
func (cfg ClientConfig) race(ctx context.Context, addrs []netip.Addr, port string) (*net.TCPConn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialer := net.Dialer{
		Timeout:         connectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
		ControlContext: func(_ context.Context, network, address string, c syscall.RawConn) error {
			if cfg.Control != nil {
				if err := cfg.Control(network, address, c); err != nil {
					return err
				}
			}
			tuneSocket(c)
			return nil
		},
	}
	if cfg.Bind.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(cfg.Bind, 0))
	}
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	running := 0
	begin := func() {
		a := addrs[0]
		addrs = addrs[1:]
		running++
		go func() {
			conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), port))
			results <- result{conn, err}
		}()
	}
	var winner net.Conn
	var failure error
	begin()
	for running > 0 {
		var next <-chan time.Time
		if len(addrs) > 0 && winner == nil {
			next = time.After(eyeballDelay)
		}
		select {
		case <-next:
			begin()
			continue
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				if failure == nil || isTimeout(failure) {
					failure = r.err
				}
				if winner == nil && len(addrs) > 0 && ctx.Err() == nil {
					begin()
				}
			case winner == nil:
				winner = r.conn
				cancel()
			default:
				_ = r.conn.Close()
			}
		}
	}
	if winner == nil {
		return nil, failure
	}
	return winner.(*net.TCPConn), nil
}

// tlsConfig is what an rtmps connection is secured with.
func (cfg ClientConfig) tlsConfig() *tls.Config {
	c := &tls.Config{ServerName: cfg.Target.Host, RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12}
	if cfg.Certificate != nil {
		c.Certificates = []tls.Certificate{*cfg.Certificate}
	}
	if cfg.Fingerprint != (Fingerprint{}) {
		c.InsecureSkipVerify = true // what is verified is the certificate itself
		c.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || sha256.Sum256(s.PeerCertificates[0].Raw) != cfg.Fingerprint {
				return ErrFingerprint
			}
			return nil
		}
	}
	return c
}

// ErrFingerprint says that the server showed another certificate than the one that
// was asked for.
var ErrFingerprint = errors.New("the server's certificate has another fingerprint")

// A Fingerprint is the SHA-256 of a certificate in DER.
type Fingerprint [sha256.Size]byte

// ParseFingerprint reads 32 bytes in hex, with or without colons between them, as
// openssl x509 -fingerprint -sha256 prints.
func ParseFingerprint(s string) (Fingerprint, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(s), ":", ""))
	if err != nil || len(b) != sha256.Size {
		return Fingerprint{}, errors.New("fingerprint: not a SHA-256; want the SHA-256 of the server's certificate, 64 digits in hex, as openssl x509 -noout -fingerprint -sha256 prints it")
	}
	return Fingerprint(b), nil
}

// isCertificate reports whether err is about a certificate, which no retry cures.
func isCertificate(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		authority    x509.UnknownAuthorityError
		host         x509.HostnameError
		invalid      x509.CertificateInvalidError
	)
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) ||
		errors.Is(err, ErrFingerprint)
}

// isTLSAlert reports whether err is the peer's word that it does not accept how the
// connection is secured; with TLS 1.3 that comes after the handshake.
func isTLSAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
