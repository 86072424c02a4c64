package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/test/badrtmp"
	"github.com/headgate/gateway/test/peers"
)

// canary is in every secret of TestCanaries. What comes behind it says which one.
const canary = "c4n4ry"

// TestCanaries: a gateway at its most talkative, with a canary in every secret of a
// target and of a route. Each reaches the peer that it is for, which echoes what it
// can; none is in any output: logs, API, metrics, pages, arguments and environments.
func TestCanaries(t *testing.T) {
	peers.Need(t, "openssl")
	of := func(what string) string { return canary + "-" + what }

	login := badrtmp.Start(t, badrtmp.Login(of("user"), of("password")))
	echo := startCDN(t) // refuses, and says the key
	var echoed atomic.Int64
	echo.Check = func(p *rtmp.Publish) error {
		if p.Key.Reveal() == of("refused") && p.AppQuery.Reveal() == "t="+of("query") {
			echoed.Add(1)
		}
		return &rtmp.StatusError{Code: "NetStream.Publish.Unauthorized", Description: "no stream " + p.Key.Reveal() + " with " + p.AppQuery.Reveal()}
	}
	var seen sync.Map // what good publications showed
	good := startCDN(t)
	good.OnPublish = func(p *rtmp.Publish) { seen.Store(p.Key.Reveal(), true) }

	// A proxy that asks who we are.
	proxy := listen(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		r.Header.Set("Authorization", r.Header.Get("Proxy-Authorization"))
		if _, password, _ := r.BasicAuth(); password != of("proxy") {
			_, _ = io.WriteString(c, "HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
			return
		}
		seen.Store(of("proxy"), true)
		to, err := net.Dial("tcp", good.addr)
		if err != nil {
			return
		}
		defer func() { _ = to.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(c, to); _ = c.Close() }()
		_, _ = io.Copy(to, c)
	})

	// A server that asks for a certificate.
	ca := peers.NewCA(t)
	certFile, keyFile := ca.Issue(t, "127.0.0.1")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	caPEM, err := os.ReadFile(ca.File)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(caPEM)
	clientCert, clientKey := ca.Issue(t, "client")
	keyPEM, err := os.ReadFile(clientKey)
	must(t, err)
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		t.Fatal("the key is no PEM")
	}
	private := strings.Split(string(keyPEM), "\n")[2]
	secured := listen(t, func(c net.Conn) {
		s := tls.Server(c, &tls.Config{
			Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12,
		})
		if s.Handshake() != nil {
			return
		}
		seen.Store("certificate", true)
		to, err := net.Dial("tcp", good.addr)
		if err != nil {
			return
		}
		defer func() { _ = to.Close() }()
		go func() { _, _ = io.Copy(s, to); _ = s.Close() }()
		_, _ = io.Copy(to, s)
	})
	dead := peers.FreeAddr(t)

	lines := []string{
		fmt.Sprintf(`login: {url: "rtmp://%s:%s@%s/app?t=%s", key: "%s"}`, of("user"), of("password"), login.Addr, of("query"), of("key")),
		fmt.Sprintf(`echo: {url: "rtmp://%s/live?t=%s", key: "%s"}`, echo.addr, of("query"), of("refused")),
		fmt.Sprintf(`path: {url: "rtmp://%s/live/%s"}`, good.addr, of("path")),
		fmt.Sprintf(`fragment: {url: "rtmp://%s/live#%s"}`, good.addr, of("fragment")),
		fmt.Sprintf(`proxied: {url: "rtmp://%s/live", key: "%s", proxy: "http://me:%s@%s"}`, good.addr, of("proxied"), of("proxy"), proxy),
		fmt.Sprintf(`noproxy: {url: "rtmp://%s/live", key: "%s", proxy: "socks5://me:%s@%s"}`, good.addr, of("never"), of("unused"), proxy),
		fmt.Sprintf(`secured: {url: "rtmps://%s/live", key: "%s", ca: "%s", certificate: "%s", certificate_key: "%s"}`, secured, of("secured"), ca.File, clientCert, clientKey),
		fmt.Sprintf(`backup: {url: "rtmp://%s/live", key: "%s", backup: "rtmp://%s/live", backup_key: "%s"}`, dead, of("first"), good.addr, of("second")),
	}
	g := startTalkative(t, of("admin"), strings.ReplaceAll(route("studio", lines...), "${env:STUDIO_TOKEN}", of("token")))
	p := peers.Start(t, peers.Command{Path: filepath.Join(bin, "publisher"), Args: []string{"-url", g.whip("studio"), "-token-env", "T"}, Env: []string{"T=" + of("token")}})
	p.Match(t, 30*time.Second, `"event":"published"`) // the token was right

	var output strings.Builder
	ask := func(path string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.admin+path, nil)
		must(t, err)
		r.Header.Set("Authorization", "Bearer "+of("admin"))
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, err.Error()
		}
		defer func() { _ = answer.Body.Close() }()
		b, _ := io.ReadAll(answer.Body)
		fmt.Fprintf(&output, "%s: %s\n", path, b)
		return answer.StatusCode, string(b)
	}
	peers.Wait(t, 60*time.Second, "every canary to reach its peer", func() error {
		var missing []string
		for _, what := range []string{"key", "password", "user", "query"} {
			if !login.Saw(of(what)) {
				missing = append(missing, what)
			}
		}
		for _, what := range []string{of("path"), of("fragment"), of("proxied"), of("proxy"), of("secured"), of("second"), "certificate"} {
			if _, ok := seen.Load(what); !ok {
				missing = append(missing, what)
			}
		}
		if echoed.Load() == 0 {
			missing = append(missing, "refused")
		}
		if len(missing) > 0 {
			_, body := ask("/v1/streams")
			return fmt.Errorf("not %v: %s", missing, body)
		}
		return nil
	})
	if code, body := ask("/v1/streams"); code != http.StatusOK || !strings.Contains(body, "NetStream.Publish.Unauthorized") {
		t.Errorf("the API: %d %s", code, body)
	}
	for _, path := range []string{"/metrics", "/", "/v1/streams/studio", "/v1/plugins", "/v1/streams/studio/targets/login", "/v1/config"} {
		ask(path)
	}
	for _, pid := range append([]int{g.PID()}, g.descendants(t)...) {
		for _, of := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, of))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
			output.Write(b)
		}
	}
	_ = p.Interrupt(t, 30*time.Second)
	_ = g.Interrupt(t, 30*time.Second)
	output.WriteString(g.Output())
	if !strings.Contains(g.Output(), "level=DEBUG") {
		t.Error("the gateway was not at its most talkative")
	}
	for line := range strings.Lines(output.String()) {
		if strings.Contains(line, canary) || strings.Contains(line, private) {
			t.Errorf("a secret is told: %s", line)
		}
	}
}

// startTalkative starts a gateway at debug level whose admin listener wants a token.
func startTalkative(t *testing.T, adminToken, routes string) *gateway {
	t.Helper()
	g := &gateway{listen: peers.FreeAddr(t), admin: peers.FreeAddr(t), file: filepath.Join(t.TempDir(), "gateway.yaml")}
	text := fmt.Sprintf("listen: %s\nadmin: %s\nadmin_token: %s\nplugins:\n  ingest-webrtc: {options: {udp: \"127.0.0.1:%d\"}}\nroutes:\n%s", g.listen, g.admin, adminToken, peers.FreePort(t), routes)
	must(t, os.WriteFile(g.file, []byte(text), 0o600))
	g.Process = startBinaryWith(t, peers.Command{Args: []string{"--log-level", "debug", "run", g.file}})
	g.waitReady(t)
	return g
}

// descendants returns the processes of the gateway's plugins.
func (g *gateway) descendants(t *testing.T) (pids []int) {
	t.Helper()
	for pid := range children(t, g.PID()) {
		pids = append(pids, pid)
	}
	if len(pids) == 0 {
		t.Error("the gateway has no plugins")
	}
	return pids
}

// listen runs serve for each connection until the test ends.
func listen(t *testing.T, serve func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				serve(c)
				_ = c.Close()
			})
		}
	})
	return l.Addr().String()
}
