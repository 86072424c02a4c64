package rtmp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/amf0"
	"github.com/bluenviron/gortmplib/pkg/handshake"
	"github.com/bluenviron/gortmplib/pkg/message"

	"github.com/headgate/gateway/sdk/secret"
)

// A scripted is one connection of a server that does what a test says.
type scripted struct {
	net.Conn
	r *chunkReader
	w *chunkWriter
}

// script serves each connection with f, until the test ends.
func script(t *testing.T, f func(s *scripted)) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				br := bufio.NewReader(conn)
				if _, _, err := handshake.DoServer(bufio.NewReadWriter(br, bufio.NewWriterSize(conn, 1)), true); err != nil {
					return
				}
				f(&scripted{Conn: conn, r: newChunkReader(br, defaultMaxMessage), w: newChunkWriter(conn, nil)})
			})
		}
	})
	return listener.Addr().String()
}

// await reads until the command and returns it; ok is false if the client left.
func (s *scripted) await(name string) (command, bool) {
	for {
		m, err := s.r.next()
		if err != nil {
			return command{}, false
		}
		if m.Type == TypeCommand {
			if cmd, err := parseCommand(m.Type, m.Body); err == nil && cmd.name == name {
				return cmd, true
			}
		}
	}
}

func (s *scripted) send(name string, id float64, args ...any) {
	_ = s.w.command(3, 0, name, id, args...)
}

func status(level, code, description string) amf0.Object {
	return amf0.Object{{Key: "level", Value: level}, {Key: "code", Value: code}, {Key: "description", Value: description}}
}

// accept answers up to the reply to createStream.
func (s *scripted) accept(streamID float64) {
	c, _ := s.await("connect")
	s.send("_result", c.id, amf0.Object{}, status("status", "NetConnection.Connect.Success", ""))
	c, _ = s.await("createStream")
	s.send("_error", 2, nil, status("error", "NetConnection.Call.Failed", "releaseStream is unknown here"))
	s.send("_result", c.id, nil, streamID)
	s.await("publish")
}

// start accepts the publication.
func (s *scripted) start() {
	s.accept(7)
	s.send("onStatus", 0, nil, status("status", "NetStream.Publish.Start", ""))
}

// drain reads until the client leaves.
func (s *scripted) drain() {
	for {
		if _, err := s.r.next(); err != nil {
			return
		}
	}
}

const (
	testKey   = "SECRETKEY"
	testQuery = "SECRETQUERY=1"
	testPass  = "SECRETPASS"
)

// TestRefusals dials servers that say no in the ways that servers do.
func TestRefusals(t *testing.T) {
	f := func(name string, stage Stage, code string, kind RefusalKind, serve func(s *scripted)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			addr := script(t, serve)
			_, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://user:"+testPass+"@"+addr+"/app?"+testQuery, testKey)})
			var refused *StatusError
			if !errors.As(err, &refused) {
				t.Fatalf("error %v (%T)", err, err)
			}
			if refused.Stage != stage || refused.Code != code || refused.Kind() != kind {
				t.Errorf("stage %s, code %q, kind %s", refused.Stage, refused.Code, refused.Kind())
			}
			if strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error tells a secret: %v", err)
			}
			t.Log(err)
		})
	}
	publish := func(code, description string) func(*scripted) {
		return func(s *scripted) {
			s.accept(1)
			s.send("onStatus", 0, nil, status("error", code, description))
			s.drain()
		}
	}
	echo := "stream " + testKey + " of " + testQuery + "\x1b[31m"
	f("bad name", StagePublish, "NetStream.Publish.BadName", RefusedBusy, publish("NetStream.Publish.BadName", "Already publishing "+echo))
	f("unauthorized", StagePublish, "NetStream.Publish.Unauthorized", RefusedKey, publish("NetStream.Publish.Unauthorized", echo))
	f("denied", StagePublish, "NetStream.Publish.Denied", RefusedKey, publish("NetStream.Publish.Denied", echo))
	f("rejected", StagePublish, "NetStream.Publish.Rejected", RefusedKey, publish("NetStream.Publish.Rejected", ""))
	f("not allowed", StagePublish, "NetStream.Record.NoAccess", RefusedKey, publish("NetStream.Record.NoAccess", "invalid stream key "+echo))
	f("failed", StagePublish, "NetStream.Publish.Failed", RefusedOther, publish("NetStream.Publish.Failed", "try later"))
	f("early", StageCreateStream, "NetConnection.Connect.Rejected", RefusedOther, func(s *scripted) {
		c, _ := s.await("connect")
		s.send("_result", c.id, amf0.Object{}, status("status", "NetConnection.Connect.Success", ""))
		s.await("FCPublish")
		s.send("onStatus", 0, nil, status("error", "NetConnection.Connect.Rejected", echo))
		s.drain()
	})
	f("no stream", StageCreateStream, "NetStream.Failed", RefusedOther, func(s *scripted) {
		c, _ := s.await("connect")
		s.send("_result", c.id, amf0.Object{}, status("status", "NetConnection.Connect.Success", ""))
		c, _ = s.await("createStream")
		s.send("_error", c.id, nil, status("error", "NetStream.Failed", echo))
		s.drain()
	})
	f("app", StageConnect, "NetConnection.Connect.InvalidApp", RefusedApp, func(s *scripted) {
		c, _ := s.await("connect")
		s.send("_error", c.id, nil, status("error", "NetConnection.Connect.InvalidApp", echo))
		s.drain()
	})
	f("unknown login", StageConnect, "NetConnection.Connect.Rejected", RefusedLogin, func(s *scripted) {
		c, _ := s.await("connect")
		s.send("_error", c.id, nil, status("error", "NetConnection.Connect.Rejected", "[ code=403 need auth; authmod=kerberos ] : "))
		s.drain()
	})
	f("wrong password", StageConnect, "NetConnection.Connect.Rejected", RefusedLogin, func(s *scripted) {
		c, _ := s.await("connect")
		s.send("_error", c.id, nil, status("error", "NetConnection.Connect.Rejected", "[ authmod=adobe ] : ?reason=authfailed&opaque="+testPass))
		s.drain()
	})
	f("login for ever", StageConnect, "", RefusedLogin, func(s *scripted) {
		c, _ := s.await("connect")
		s.send("_error", c.id, nil, status("error", "NetConnection.Connect.Rejected", "authmod=adobe : ?reason=needauth&salt=a&challenge=b"))
		s.drain()
	})
}

// TestFailures dials servers that fail in other ways.
func TestFailures(t *testing.T) {
	f := func(name string, stage Stage, want string, serve func(s *scripted)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			addr := script(t, serve)
			cfg := ClientConfig{Target: parse(t, "rtmp://user:"+testPass+"@"+addr+"/app?"+testQuery, testKey), DialTimeout: 20 * time.Second}
			if name == "silent" {
				cfg.DialTimeout = 300 * time.Millisecond
			}
			_, err := Dial(t.Context(), cfg)
			var failed *StageError
			if !errors.As(err, &failed) {
				t.Fatalf("error %v (%T)", err, err)
			}
			if failed.Stage != stage || !strings.Contains(err.Error(), want) {
				t.Errorf("stage %s: %v, want %q", failed.Stage, err, want)
			}
			if strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
	f("silent", StageConnect, "no answer in time", func(s *scripted) { s.drain() })
	f("closes", StageConnect, "the server closed the connection", func(s *scripted) { s.await("connect") })
	f("closes late", StagePublish, "the server closed the connection", func(s *scripted) { s.accept(1) })
	f("garbage", StageConnect, "chunk stream", func(s *scripted) {
		s.await("connect")
		_, _ = s.Write(bytes.Repeat([]byte{0xC7}, 100))
		s.drain()
	})
	f("huge", StageConnect, "announces", func(s *scripted) {
		s.await("connect")
		_, _ = s.Write([]byte{0x03, 0, 0, 0, 0xFF, 0xFF, 0xFF, 20, 0, 0, 0, 0})
		s.drain()
	})

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, ClientConfig{Target: parse(t, "rtmp://127.0.0.1:1/app/key", "")}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	var failed *StageError
	if _, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://does-not-exist.invalid/app/key", "")}); !errors.As(err, &failed) || failed.Stage != StageDNS {
		t.Errorf("unknown host: %v", err)
	}
}

// TestHandshakeWithHTTP: a server that is none.
func TestHandshakeWithHTTP(t *testing.T) {
	srv := httptest.NewServer(nil)
	defer srv.Close()
	_, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://"+srv.Listener.Addr().String()+"/app/key", ""), DialTimeout: 20 * time.Second})
	var failed *StageError
	if !errors.As(err, &failed) || failed.Stage != StageHandshake {
		t.Errorf("error %v", err)
	}
}

// TestConnectCommand checks what a server is told, and what is understood of its
// answer.
func TestConnectCommand(t *testing.T) {
	connects := make(chan command, 1)
	published := make(chan command, 1)
	addr := script(t, func(s *scripted) {
		c, _ := s.await("connect")
		connects <- c
		s.send("_result", c.id, amf0.Object{{Key: "fmsVer", Value: "x"}, {Key: "capsEx", Value: 3.0}}, amf0.ECMAArray{
			{Key: "code", Value: "NetConnection.Connect.Success"},
			{Key: "fourCcList", Value: amf0.StrictArray{"hvc1", "Opus", 5.0}},
			{Key: "videoFourCcInfoMap", Value: amf0.Object{{Key: "av01", Value: 1.0}, {Key: "hvc1", Value: 1.0}}},
		})
		c, _ = s.await("createStream")
		s.send("_result", c.id, nil, 77.0)
		c, _ = s.await("publish")
		published <- c
		s.send("onStatus", 0, nil, status("status", "NetStream.Publish.Start", ""))
		s.drain()
	})
	c := dial(t, "rtmp://"+addr+"/a/b/key?x=1")
	defer func() { _ = c.Close(t.Context()) }()
	o, _ := object((<-connects).args[0])
	want := map[string]any{"app": "a/b", "type": "nonprivate", "tcUrl": "rtmp://" + addr + "/a/b", "capsEx": 3.0}
	for k, v := range want {
		if got, _ := o.Get(k); got != v {
			t.Errorf("connect %s is %v, want %v", k, got, v)
		}
	}
	if v, _ := o.Get("fourCcList"); !slices.Contains(v.(amf0.StrictArray), any("hvc1")) {
		t.Errorf("fourCcList is %v", v)
	}
	if p := <-published; p.text(1) != "key?x=1" || p.text(2) != "live" {
		t.Errorf("publish %v", p.args)
	}
	caps := c.Capabilities()
	if !caps.Enhanced || caps.Flags != 3 || !slices.Equal(caps.VideoFourCCs, []string{"hvc1", "av01"}) || !slices.Equal(caps.AudioFourCCs, []string{"Opus"}) {
		t.Errorf("capabilities %+v", caps)
	}
	if c.streamID != 77 {
		t.Errorf("stream id %d", c.streamID)
	}
}

// TestEndedByServer: what the server says in the middle of a stream.
func TestEndedByServer(t *testing.T) {
	f := func(name, want string, end func(s *scripted)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			addr := script(t, func(s *scripted) {
				s.start()
				end(s)
				s.drain()
			})
			c := dial(t, "rtmp://"+addr+"/app/"+testKey)
			<-c.Failed()
			if err := c.Err(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("Err %v, want %q", err, want)
			}
			if err := c.WriteTag(AACTag([]byte{1}), 0); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("WriteTag %v, want %q", err, want)
			}
			_ = c.Close(t.Context())
		})
	}
	f("status", "NetStream.Publish.BadName: *** is taken", func(s *scripted) {
		s.send("onStatus", 0, nil, status("error", "NetStream.Publish.BadName", testKey+" is taken"))
	})
	f("closed", "ended by the server: NetConnection.Connect.Closed", func(s *scripted) {
		s.send("onStatus", 0, nil, status("status", "NetConnection.Connect.Closed", ""))
	})
	f("fin", "the server closed the connection", func(s *scripted) { _ = s.Close() })
	f("reset", "connection reset", func(s *scripted) {
		_ = s.Conn.(*net.TCPConn).SetLinger(0)
		_ = s.Close()
	})
}

func TestReconnectRequest(t *testing.T) {
	goodbye := make(chan bool, 1)
	addr := script(t, func(s *scripted) {
		s.start()
		s.send("onStatus", 0, nil, append(status("status", "NetConnection.Connect.ReconnectRequest", ""), amf0.ObjectEntry{Key: "tcUrl", Value: "rtmp://other/app"}))
		_, ok := s.await("deleteStream")
		goodbye <- ok
		s.drain()
	})
	c := dial(t, "rtmp://"+addr+"/app/key")
	if r := <-c.ReconnectRequests(); !r.TCURL.Equal(secret.New("rtmp://other/app")) {
		t.Errorf("%+v", r)
	}
	if err := c.Err(); err != nil {
		t.Errorf("the connection failed: %v", err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if !<-goodbye {
		t.Error("no goodbye to a server that asked to reconnect")
	}
}

// TestGoodbye: the last bytes arrive, although the server still talks.
func TestGoodbye(t *testing.T) {
	last := make(chan Message, 1)
	commands := make(chan string, 10)
	addr := script(t, func(s *scripted) {
		s.start()
		defer close(commands)
		for {
			m, err := s.r.next()
			if err != nil {
				return
			}
			_ = s.w.userControl(eventPingRequest, 1) // bytes that the client has not read when it closes
			switch m.Type {
			case TypeVideo:
				last <- m
			case TypeCommand:
				cmd, _ := parseCommand(m.Type, m.Body)
				commands <- cmd.name
			}
		}
	})
	c := dial(t, "rtmp://"+addr+"/app/key")
	if err := c.WriteTag(H264Tag(make([]byte, 500_000), true, 0), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if m := <-last; len(m.Body) != 500_005 || m.StreamID != 7 {
		t.Errorf("%d bytes on stream %d", len(m.Body), m.StreamID)
	}
	var got []string
	for name := range commands {
		got = append(got, name)
	}
	if !slices.Equal(got, []string{"FCUnpublish", "deleteStream"}) {
		t.Errorf("commands at the end: %v", got)
	}
}

// TestPingingServer: media and pongs go out at once, through TCP and TLS, at
// timestamps of five hours, in messages of several chunks. The server is another
// implementation.
func TestPingingServer(t *testing.T) {
	for _, scheme := range []string{"rtmp", "rtmps"} {
		t.Run(scheme, func(t *testing.T) {
			const frames, pings = 60, 200
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var roots *x509.CertPool
			if scheme == "rtmps" {
				listener, roots = secure(t, listener)
			}
			var wg sync.WaitGroup
			t.Cleanup(func() { _ = listener.Close(); wg.Wait() })
			type result struct {
				frames, pongs int
				err           error
			}
			results, arrived := make(chan result, 1), make(chan struct{})
			wg.Go(func() {
				var r result
				defer func() { results <- r }()
				whole := sync.OnceFunc(func() { close(arrived) })
				defer whole()
				conn, err := listener.Accept()
				if err != nil {
					r.err = err
					return
				}
				defer func() { _ = conn.Close() }()
				sc := &gortmplib.ServerConn{RW: conn}
				if r.err = errors.Join(sc.Initialize(), sc.AcceptConn(), sc.AcceptAction()); r.err != nil {
					return
				}
				// Reading and writing at once is not for this implementation.
				for i := range pings {
					if r.err = sc.Write(&message.UserControlPingRequest{ServerTime: uint32(i)}); r.err != nil {
						return
					}
				}
				for {
					m, err := sc.Read()
					if err != nil {
						return
					}
					switch m := m.(type) {
					case *message.Video:
						if m.DTS != 5*time.Hour+time.Duration(r.frames)*33*time.Millisecond || len(m.AU) != 5*ChunkSize ||
							binary.BigEndian.Uint32(m.AU) != uint32(r.frames) || m.AU[len(m.AU)-1] != byte(r.frames) {
							r.err = errors.New("a picture came out different")
							return
						}
						r.frames++
					case *message.UserControlPingResponse:
						r.pongs++
					}
					if r.frames == frames && r.pongs == pings {
						whole()
					}
				}
			})
			c := dial(t, scheme+"://"+listener.Addr().String()+"/app/key", func(cfg *ClientConfig) { cfg.RootCAs = roots })
			au := make([]byte, 5*ChunkSize)
			for i := range frames {
				binary.BigEndian.PutUint32(au, uint32(i))
				au[len(au)-1] = byte(i)
				if err := c.WriteTag(H264Tag(au, false, 0), uint32(5*3600*1000+33*i)); err != nil {
					t.Fatal(err)
				}
			}
			<-arrived // a goodbye cuts pongs off that wait for their turn
			if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if r := <-results; r.err != nil || r.frames != frames || r.pongs != pings {
				t.Errorf("%d pictures, %d pongs, %v", r.frames, r.pongs, r.err)
			}
		})
	}
}

// secure wraps a listener in TLS with a certificate for 127.0.0.1.
func secure(t *testing.T, l net.Listener) (net.Listener, *x509.CertPool) {
	t.Helper()
	srv := httptest.NewTLSServer(nil) // for its certificate
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return tls.NewListener(l, &tls.Config{Certificates: srv.TLS.Certificates}), roots
}

// TestTLSVerification: the right roots, none, and the wrong name.
func TestTLSVerification(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	s := &Server{TLS: &tls.Config{Certificates: srv.TLS.Certificates}}
	addr := serve(t, s)
	c := dial(t, "rtmps://"+addr+"/app/key", func(cfg *ClientConfig) { cfg.RootCAs = roots })
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); len(st) != 1 || !st[0].TLS {
		t.Errorf("stats %+v", st)
	}
	var failed *StageError
	var authority x509.UnknownAuthorityError
	_, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmps://"+addr+"/app/key", "")})
	if !errors.As(err, &failed) || failed.Stage != StageTLS || !errors.As(err, &authority) {
		t.Errorf("without the roots: %v", err)
	}
	_, port, _ := net.SplitHostPort(addr)
	_, err = Dial(t.Context(), ClientConfig{Target: parse(t, "rtmps://localhost:"+port+"/app/key", ""), RootCAs: roots})
	var host x509.HostnameError
	if !errors.As(err, &host) {
		t.Errorf("wrong name: %v", err)
	}
}

// TestAdobeAuthentication logs in at another implementation.
func TestAdobeAuthentication(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = listener.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				sc := &gortmplib.ServerConn{RW: conn}
				if sc.Initialize() != nil || sc.AcceptConnIfCredentialsMatch("us er", "pa:ss") != nil || sc.AcceptAction() != nil {
					return
				}
				for {
					if _, err := sc.Read(); err != nil {
						return
					}
				}
			})
		}
	})
	addr := listener.Addr().String()
	c := dial(t, "rtmp://us%20er:pa:ss@"+addr+"/app/key")
	_ = c.Close(t.Context())
	_, err = Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://us%20er:"+testPass+"@"+addr+"/app/key", "")})
	var refused *StatusError
	if !errors.As(err, &refused) || refused.Kind() != RefusedLogin || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("wrong password: %v", err)
	}
	_, err = Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://"+addr+"/app/key", "")})
	if !errors.As(err, &refused) || refused.Kind() != RefusedLogin || !strings.Contains(err.Error(), "user:password@") {
		t.Errorf("no password: %v", err)
	}
}

// TestLLNWAuthentication checks the answer against the formula of RFC 2617.
func TestLLNWAuthentication(t *testing.T) {
	var apps []string
	var mu sync.Mutex
	addr := script(t, func(s *scripted) {
		c, _ := s.await("connect")
		o, _ := object(c.args[0])
		app, _ := o.GetString("app")
		mu.Lock()
		apps = append(apps, app)
		n := len(apps)
		mu.Unlock()
		switch n {
		case 1:
			s.send("_error", c.id, nil, status("error", "NetConnection.Connect.Rejected", "[ AccessManager.Reject ] : [ code=403 need auth; authmod=llnw ] : "))
		case 2:
			s.send("_error", c.id, nil, status("error", "NetConnection.Connect.Rejected", "[ AccessManager.Reject ] : [ authmod=llnw ] : ?reason=needauth&user=u&nonce=abc"))
		default:
			s.send("_result", c.id, amf0.Object{}, status("status", "NetConnection.Connect.Success", ""))
			c, _ = s.await("createStream")
			s.send("_result", c.id, nil, 1.0)
			s.send("onStatus", 0, nil, status("status", "NetStream.Publish.Start", ""))
		}
		s.drain()
	})
	c, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://u:p@"+addr+"/app?x=1", "key")})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close(t.Context())
	mu.Lock()
	defer mu.Unlock()
	if len(apps) != 3 || apps[0] != "app?x=1" || apps[1] != "app?x=1&authmod=llnw&user=u" {
		t.Fatalf("apps %q", apps)
	}
	params := map[string]string{}
	for pair := range strings.SplitSeq(apps[2], "&") {
		k, v, _ := strings.Cut(pair, "=")
		params[k] = v
	}
	want := md5Hex(md5Hex("u:live:p") + ":abc:00000001:" + params["cnonce"] + ":auth:" + md5Hex("publish:/app/_definst_"))
	if params["response"] != want || params["nonce"] != "abc" || params["nc"] != "00000001" {
		t.Errorf("answer %v", params)
	}
}

// TestStall: a peer that takes nothing fails a write in time; one that is slow
// but moves does not; and Abort cuts a write off.
func TestStall(t *testing.T) {
	t.Run("stalled", func(t *testing.T) {
		release := make(chan struct{})
		addr := script(t, func(s *scripted) { s.start(); <-release })
		defer close(release)
		c := dial(t, "rtmp://"+addr+"/app/key", func(cfg *ClientConfig) { cfg.StallTimeout = 200 * time.Millisecond })
		start := time.Now()
		var err error
		for err == nil {
			err = c.WriteTag(H264Tag(make([]byte, 1<<20), true, 0), 0)
		}
		if !strings.Contains(err.Error(), "the server takes no data") {
			t.Errorf("error %v", err)
		}
		st := c.Stats()
		if st.Unsent > 0 && st.UnsentAge <= 0 {
			t.Errorf("stats %+v", st)
		}
		if err := c.Close(t.Context()); err == nil {
			t.Error("Close got through to a server that reads nothing")
		}
		if d := time.Since(start); d > 15*time.Second {
			t.Errorf("it took %v", d)
		}
	})
	t.Run("slow", func(t *testing.T) {
		const stall = 1500 * time.Millisecond
		addr := script(t, func(s *scripted) {
			// Little room: what is read makes room at once.
			_ = s.Conn.(*net.TCPConn).SetReadBuffer(64 << 10)
			s.start()
			buf := make([]byte, 32<<10)
			pace := time.NewTicker(20 * time.Millisecond)
			defer pace.Stop()
			for range pace.C {
				if _, err := s.Read(buf); err != nil {
					return
				}
			}
		})
		c := dial(t, "rtmp://"+addr+"/app/key", func(cfg *ClientConfig) { cfg.StallTimeout = stall })
		start := time.Now()
		if err := c.WriteTag(H264Tag(make([]byte, 3<<20), true, 0), 0); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d < stall {
			t.Errorf("the peer was not slow: %v", d)
		}
		_ = c.Close(t.Context())
	})
	t.Run("abort", func(t *testing.T) {
		release := make(chan struct{})
		addr := script(t, func(s *scripted) { s.start(); <-release })
		defer close(release)
		c := dial(t, "rtmp://"+addr+"/app/key")
		result := make(chan error, 1)
		go func() { result <- c.WriteTag(H264Tag(make([]byte, 15<<20), true, 0), 0) }()
		eventually(t, "the write blocks", func() bool { return c.sock.written.Load() > 0 || c.sock.stats().Unsent > 0 })
		c.Abort()
		if err := <-result; err == nil {
			t.Error("no error")
		}
		_ = c.Close(t.Context())
	})
}

func TestAges(t *testing.T) {
	s := &socket{}
	start := time.Now()
	s.marks = []mark{{100, start}, {200, start.Add(time.Second)}, {300, start.Add(2 * time.Second)}}
	f := func(acked, sent uint64, unacked, unsent time.Duration, marks int) {
		t.Helper()
		if a, b := s.ages(acked, sent, start.Add(5*time.Second)); a != unacked || b != unsent || len(s.marks) != marks {
			t.Errorf("acked %d, sent %d: %v and %v and %d marks, want %v, %v and %d", acked, sent, a, b, len(s.marks), unacked, unsent, marks)
		}
	}
	f(0, 0, 5*time.Second, 5*time.Second, 3)
	f(0, 150, 5*time.Second, 4*time.Second, 3)
	f(99, 300, 5*time.Second, 0, 3)
	f(100, 250, 4*time.Second, 3*time.Second, 2)
	f(250, 250, 3*time.Second, 3*time.Second, 1)
	f(300, 300, 0, 0, 0)
}
