package rtmp

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/secret"
)

// certificate makes one for a name, valid until the given time, and the pool that
// trusts it.
func certificate(t testing.TB, name string, until time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: until.Add(-48 * time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// listener runs accept for each connection until the test ends.
func listener(t testing.TB, network, addr string, accept func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				accept(conn)
			})
		}
	})
	return l
}

// pipe joins two connections until one ends.
func pipe(a, b net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(a, b); _ = a.(*net.TCPConn).CloseWrite() })
	_, _ = io.Copy(b, a)
	_ = b.(*net.TCPConn).CloseWrite()
	wg.Wait()
}

// TestTLS: what is verified of a server, and what it is shown.
func TestTLS(t *testing.T) {
	tomorrow := time.Now().Add(24 * time.Hour)
	good, pool := certificate(t, "127.0.0.1", tomorrow)
	expired, expiredPool := certificate(t, "127.0.0.1", time.Now().Add(-time.Hour))
	other, otherPool := certificate(t, "cdn.example", tomorrow)
	client, clientPool := certificate(t, "client", tomorrow)
	f := func(name string, server *tls.Config, change func(*ClientConfig), class, want string) {
		t.Helper()
		s := &Server{TLS: server}
		addr := serve(t, s)
		cfg := ClientConfig{Target: parse(t, "rtmps://"+addr+"/app/"+testKey, ""), RootCAs: pool, DialTimeout: 20 * time.Second}
		change(&cfg)
		c, err := Dial(t.Context(), cfg)
		if err == nil {
			// TLS 1.3: the server's verdict on our certificate comes with the first data.
			_ = c.Close(t.Context())
		}
		if Class(err) != class || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: class %q: %v, want %q", name, Class(err), err, class)
		}
	}
	with := func(c tls.Certificate) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c}} }
	f("good", with(good), func(*ClientConfig) {}, "", "")
	f("system roots", with(good), func(c *ClientConfig) { c.RootCAs = nil }, "tls", "unknown authority")
	f("expired", with(expired), func(c *ClientConfig) { c.RootCAs = expiredPool }, "tls", "expired")
	f("wrong host", with(other), func(c *ClientConfig) { c.RootCAs = otherPool }, "tls", "127.0.0.1")
	f("old TLS", &tls.Config{Certificates: with(good).Certificates, MaxVersion: tls.VersionTLS11}, func(*ClientConfig) {}, "tls", "version")
	pin := func(c tls.Certificate) func(*ClientConfig) {
		return func(cfg *ClientConfig) {
			cfg.RootCAs = nil
			cfg.Fingerprint = sha256.Sum256(c.Certificate[0])
		}
	}
	f("pinned", with(other), pin(other), "", "")
	f("pinned and expired", with(expired), pin(expired), "", "")
	f("another than pinned", with(good), pin(other), "tls", "another fingerprint")
	asks := &tls.Config{Certificates: with(good).Certificates, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clientPool}
	f("client certificate", asks, func(c *ClientConfig) { c.Certificate = &client }, "", "")
	f("no client certificate", asks, func(*ClientConfig) {}, "tls", "certificate")

	// The name in the URL is what the server is asked for.
	names := make(chan string, 1)
	l := listener(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		_ = tls.Server(c, &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			names <- h.ServerName
			return nil, errors.New("that is all")
		}}).Handshake()
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmps://localhost:"+port+"/app/key", "")})
	if got := <-names; got != "localhost" || Class(err) != "tls" {
		t.Errorf("server name %q, %v", got, err)
	}
}

func TestParseFingerprint(t *testing.T) {
	sum := sha256.Sum256([]byte("x"))
	digits := hex.EncodeToString(sum[:])
	var colons []string
	for i := 0; i < len(digits); i += 2 {
		colons = append(colons, strings.ToUpper(digits[i:i+2]))
	}
	for _, s := range []string{digits, strings.Join(colons, ":"), " " + digits + "\n"} {
		if got, err := ParseFingerprint(s); err != nil || got != Fingerprint(sum) {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"", digits[2:], digits + "00", "zz" + digits[2:]} {
		if _, err := ParseFingerprint(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

// TestProxies connects through an HTTP and a SOCKS5 proxy, which resolve the name.
func TestProxies(t *testing.T) {
	s := &Server{}
	addr := serve(t, s)
	_, port, _ := net.SplitHostPort(addr)
	const name = "server.invalid" // the proxy knows it, nobody else
	asked := make(chan string, 1)
	reach := func(to string) (net.Conn, error) {
		asked <- to
		return net.Dial("tcp", addr)
	}
	connect := listener(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		br := bufio.NewReader(c)
		r, err := http.ReadRequest(br)
		if err != nil || r.Method != http.MethodConnect {
			_, _ = io.WriteString(c, "HTTP/1.1 405 No\r\n\r\n")
			return
		}
		r.Header.Set("Authorization", r.Header.Get("Proxy-Authorization"))
		if user, password, _ := r.BasicAuth(); user != "us er" || password != testPass {
			_, _ = io.WriteString(c, "HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
			return
		}
		to, err := reach(r.Host)
		if err != nil {
			_, _ = io.WriteString(c, "HTTP/1.1 502 Bad\r\n\r\n")
			return
		}
		defer func() { _ = to.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		pipe(c, to)
	}).Addr().String()
	socks := listener(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		b := make([]byte, 300)
		if _, err := io.ReadFull(c, b[:2]); err != nil {
			return
		}
		if _, err := io.ReadFull(c, b[:b[1]]); err != nil {
			return
		}
		_, _ = c.Write([]byte{5, 2})
		_, _ = io.ReadFull(c, b[:2])
		_, _ = io.ReadFull(c, b[2:2+int(b[1])+1])
		n := int(b[2+int(b[1])])
		user := string(b[2 : 2+int(b[1])])
		_, _ = io.ReadFull(c, b[:n])
		if user != "us er" || string(b[:n]) != testPass {
			_, _ = c.Write([]byte{1, 1})
			return
		}
		_, _ = c.Write([]byte{1, 0})
		if _, err := io.ReadFull(c, b[:5]); err != nil || b[3] != 3 {
			return
		}
		n = int(b[4])
		if _, err := io.ReadFull(c, b[:n+2]); err != nil {
			return
		}
		to, err := reach(net.JoinHostPort(string(b[:n]), port))
		if err != nil || binary.BigEndian.Uint16(b[n:]) == 0 {
			return
		}
		defer func() { _ = to.Close() }()
		_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		pipe(c, to)
	}).Addr().String()

	f := func(proxyURL, class, want string) {
		t.Helper()
		p, err := ParseProxy(secret.New(proxyURL))
		if err != nil {
			t.Fatal(err)
		}
		cfg := ClientConfig{Target: parse(t, "rtmp://"+name+":"+port+"/app/"+testKey, ""), Proxy: p, DialTimeout: 20 * time.Second}
		if class == "timeout" {
			cfg.DialTimeout = time.Second
		}
		c, err := Dial(t.Context(), cfg)
		if err == nil {
			if to := <-asked; to != name+":"+port {
				t.Errorf("%s: the proxy was asked for %s", p, to)
			}
			if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if Class(err) != class || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("%s: class %q: %v, want %q", p, Class(err), err, want)
		}
	}
	f("http://us%20er:"+testPass+"@"+connect, "", "")
	f("socks5://us%20er:"+testPass+"@"+socks, "", "")
	f("http://us%20er:SECRET2@"+connect, "proxy", "user or the password")
	f("socks5://us%20er:SECRET2@"+socks, "proxy", "username/password authentication failed")
	f("socks5://us%20er:"+testPass+"@"+connect, "timeout", "proxy socks5://")
	f("http://us%20er:"+testPass+"@"+socks, "timeout", "proxy http://")
	f("http://"+addr, "proxy", "HTTP proxy") // an RTMP server

	for _, bad := range []string{"", "host:1", "ftp://SECRET@h", "http://SECRET@h/path", "http://%zzSECRET", "socks5://"} {
		if _, err := ParseProxy(secret.New(bad)); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if p, err := ParseProxy(secret.New("socks5h://[::1]")); err != nil || p.String() != "socks5://[::1]:1080" {
		t.Errorf("%v, %v", p, err)
	}
}

// TestEyeballs: dead addresses of either family do not keep us from the one that
// lives, and the order is the families by turns.
func TestEyeballs(t *testing.T) {
	s := &Server{}
	addr := serve(t, s)
	_, port, _ := net.SplitHostPort(addr)
	addrs := func(list ...string) func(context.Context, string, string) ([]netip.Addr, error) {
		var out []netip.Addr
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return func(context.Context, string, string) ([]netip.Addr, error) { return out, nil }
	}
	cfg := ClientConfig{lookup: addrs("2001:db8::1", "2001:db8::2", "127.0.0.2", "127.0.0.3", "127.0.0.4")}
	got, err := cfg.resolve(t.Context(), "h")
	if err != nil || len(got) != 5 || got[0].Is4() || got[1].Is6() || got[2].Is4() || got[3].Is6() {
		t.Errorf("%v, %v", got, err)
	}
	// Nothing listens at ::1 and 127.0.0.2 under this port; 240.0.0.1 never answers.
	target := parse(t, "rtmp://server.invalid:"+port+"/app/key", "")
	for _, list := range [][]string{{"::1", "127.0.0.1"}, {"127.0.0.2", "::1", "127.0.0.1"}, {"::ffff:127.0.0.2", "::ffff:127.0.0.1"}} {
		c, err := Dial(t.Context(), ClientConfig{Target: target, lookup: addrs(list...), DialTimeout: 30 * time.Second})
		if err != nil {
			t.Errorf("%v: %v", list, err)
			continue
		}
		_ = c.Close(t.Context())
	}
	_, err = Dial(t.Context(), ClientConfig{Target: target, lookup: addrs("127.0.0.2", "::1")})
	if Class(err) != "unreachable" {
		t.Errorf("%v", err)
	}
	// From an address of ours, and to no other family.
	c, err := Dial(t.Context(), ClientConfig{Target: target, lookup: addrs("::1", "127.0.0.1"), Bind: netip.MustParseAddr("127.0.0.9")})
	if err != nil {
		t.Fatal(err)
	}
	if from := c.sock.LocalAddr().(*net.TCPAddr).IP.String(); from != "127.0.0.9" {
		t.Errorf("it came from %s", from)
	}
	_ = c.Close(t.Context())
	if _, err := Dial(t.Context(), ClientConfig{Target: target, lookup: addrs("::1"), Bind: netip.MustParseAddr("127.0.0.9")}); Class(err) != "dns" {
		t.Errorf("%v", err)
	}
}

// TestIPv6 publishes to an address of IPv6.
func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 on the loopback here")
	}
	s := &Server{Listener: l}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	c := dial(t, "rtmp://"+l.Addr().String()+"/app/key")
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
