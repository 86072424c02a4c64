package ingestrtsp

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4/pkg/auth"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
	"github.com/headgate/gateway/test/camera"
	"github.com/headgate/gateway/test/intake"
	"github.com/headgate/gateway/test/peers"
)

// attach starts the plugin.
func attach(t *testing.T, options string) *plugintest.Gateway {
	t.Helper()
	return plugintest.Attach(t, plugintest.Connect(t, Plugin()), []byte(options))
}

// flows reports whether enough of both tracks came.
func flows(r *intake.Session) bool { return len(r.Units[1]) > 45 && len(r.Units[2]) > 75 }

// checkCard holds that what came is the test card, joined at a keyframe, with picture
// and sound together.
func checkCard(t *testing.T, r *intake.Session, most time.Duration) {
	t.Helper()
	video, pictures := r.Of(t, media.H264)
	_, sound := r.Of(t, media.Opus)
	if len(pictures) == 0 || len(sound) == 0 {
		t.Fatalf("%d pictures, %d pieces of sound; the end: %v", len(pictures), len(sound), r.End)
	}
	if !video.Complete() || video.Width != clip.Width || !pictures[0].RandomAccess {
		t.Errorf("track %+v, first picture %+v", video, pictures[0])
	}
	card, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	// What was captured when: where on the card the units can be from.
	places := func(list []clip.Unit, units []*media.AccessUnit) (at []int) {
		for from := range list {
			all := true
			for i, u := range units {
				all = all && bytes.Equal(u.Payload, list[(from+i)%len(list)].Payload)
			}
			if all {
				at = append(at, from)
			}
		}
		return at
	}
	least := time.Hour
	for _, n := range places(card.Video, pictures) {
		for _, k := range places(card.Audio, sound) {
			apart := time.Duration(n)*time.Second/clip.FrameRate - time.Duration(k)*clip.OpusPacketDuration
			skew := (pictures[0].PTS - sound[0].PTS - apart) % clip.Duration
			for _, d := range []time.Duration{skew, skew - clip.Duration, skew + clip.Duration} {
				if d.Abs() < least.Abs() {
					least = d
				}
			}
		}
	}
	if least == time.Hour {
		t.Fatal("it is not the test card")
	}
	if least.Abs() > most {
		t.Errorf("the picture is off by %v against the sound, at most %v is allowed", least, most)
	}
}

// TestPull: every way to a source that works.
func TestPull(t *testing.T) {
	cert := httptest.NewTLSServer(nil)
	defer cert.Close()
	pair := cert.TLS.Certificates[0]
	pin := sha256.Sum256(pair.Certificate[0])
	f := func(name string, s camera.Script, url, transport string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := camera.Start(t, peers.FreeAddr(t), s)
			g := attach(t, `{}`)
			intake.Pull(g, 1, strings.ReplaceAll(url, "ADDR", c.Addr))
			r := intake.Take(g, flows)
			checkCard(t, r, 150*time.Millisecond)
			r = intake.Take(g, func(r *intake.Session) bool { return r.Info["transport"] != "" })
			if r.Info["transport"] != transport {
				t.Errorf("by %s, want %s", r.Info["transport"], transport)
			}
		})
	}
	f("udp by itself", camera.Script{UDP: true}, "rtsp://ADDR/stream", "udp")
	f("tcp where there is no udp", camera.Script{}, "rtsp://ADDR/stream", "tcp")
	f("tcp where nothing comes by udp", camera.Script{LieUDP: true}, "rtsp://ADDR/stream", "tcp")
	f("tcp as told", camera.Script{UDP: true}, "rtsp://ADDR/stream#transport=tcp", "tcp")
	f("digest", camera.Script{User: "admin", Password: "pass word"}, "rtsp://admin:pass%20word@ADDR/stream?channel=1#transport=tcp", "tcp")
	f("basic", camera.Script{User: "admin", Password: "x", Methods: []auth.VerifyMethod{auth.VerifyMethodBasic}}, "rtsp://admin:x@ADDR/", "tcp")
	f("sha256", camera.Script{User: "admin", Password: "x", Methods: []auth.VerifyMethod{auth.VerifyMethodDigestSHA256}}, "rtsp://admin:x@ADDR/a/b", "tcp")
	f("rtsps pinned", camera.Script{TLS: &pair}, "rtsps://ADDR/stream#transport=tcp&fingerprint="+hex.EncodeToString(pin[:]), "tcp")
	f("rtsps with srtp", camera.Script{TLS: &pair, UDP: true}, "rtsps://ADDR/stream#fingerprint="+hex.EncodeToString(pin[:]), "udp")
	f("sets in band", camera.Script{NoSets: true}, "rtsp://ADDR/stream", "tcp")
	f("sets in the description", camera.Script{SetsOnlyInDescription: true}, "rtsp://ADDR/stream", "tcp")
}

// TestFirstKeyframe: a camera whose parameter sets are in the description alone, and
// that begins with a key picture: it is not missed.
func TestFirstKeyframe(t *testing.T) {
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{SetsOnlyInDescription: true})
	g := attach(t, `{}`)
	intake.Pull(g, 1, "rtsp://"+c.Addr+"/stream#transport=tcp")
	r := intake.Take(g, func(r *intake.Session) bool { return len(r.Units[1]) > 0 })
	keys := c.Keyframes()
	latest := keys[len(keys)-1]
	if d := r.Units[1][0].Received.Sub(latest); d > time.Second {
		t.Errorf("the first picture is of %v after the newest key picture", d)
	}
}

// TestReports: with good sender reports, with none and with broken ones picture and
// sound stay together.
func TestReports(t *testing.T) {
	f := func(name string, reports func(video bool, at time.Duration) (time.Time, time.Duration, bool)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := camera.Start(t, peers.FreeAddr(t), camera.Script{Reports: reports})
			g := attach(t, `{}`)
			intake.Pull(g, 1, "rtsp://"+c.Addr+"/stream#transport=tcp")
			r := intake.Take(g, func(r *intake.Session) bool { return len(r.Units[1]) > 75 })
			checkCard(t, r, 150*time.Millisecond)
			if n := count(r.Units[1], func(u *media.AccessUnit) bool { return u.Discontinuity }); n > 0 {
				t.Errorf("%d discontinuities", n)
			}
		})
	}
	f("good", func(bool, time.Duration) (time.Time, time.Duration, bool) { return time.Time{}, 0, true })
	f("none", nil)
	f("of 1970", func(video bool, _ time.Duration) (time.Time, time.Duration, bool) { return time.Unix(9, 0), 0, video })
	f("clocks apart by an hour", func(video bool, at time.Duration) (time.Time, time.Duration, bool) {
		if video {
			return time.Now().Add(time.Hour), 0, true
		}
		return time.Time{}, 0, true
	})
	f("times that jump about", func(video bool, at time.Duration) (time.Time, time.Duration, bool) {
		return time.Time{}, time.Duration(at.Milliseconds()%7) * 9 * time.Second, video
	})
}

// TestLoss: what refers to a lost packet is left out up to the next key picture, and a
// lost packet of sound holds nothing up.
func TestLoss(t *testing.T) {
	var mu sync.Mutex
	lost := 0
	drop := func(seq uint16, video bool) bool {
		if seq%97 != 0 {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		lost++
		return true
	}
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{UDP: true, Drop: drop})
	g := attach(t, `{}`)
	intake.Pull(g, 1, "rtsp://"+c.Addr+"/stream#transport=udp")
	var at time.Time
	gap := time.Duration(0)
	heard := 0
	r := intake.Take(g, func(r *intake.Session) bool {
		if n := len(r.Units[2]); n > heard {
			now := time.Now()
			if heard > 0 {
				gap = max(gap, now.Sub(at))
			}
			at, heard = now, n
		}
		return len(r.Units[2]) > 300
	})
	pictures := r.Units[1]
	for i, u := range pictures {
		if (i == 0 || u.Discontinuity) && !u.RandomAccess {
			t.Errorf("picture %d follows a loss and is no key picture", i)
		}
	}
	file := annexB(t, r.Tracks[0], pictures)
	if err := peers.CheckDecodes(t, file); err != nil {
		t.Error(err)
	}
	holes := count(r.Units[2], func(u *media.AccessUnit) bool { return u.Discontinuity })
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d packets lost, %d holes in the sound, the longest wait for sound was %v", lost, holes, gap)
	if holes == 0 || lost < holes {
		t.Errorf("%d lost, %d holes in the sound", lost, holes)
	}
	// The library alone waits for 64 more packets: 1.28 s.
	if gap > time.Second {
		t.Errorf("a lost packet held the sound up for %v", gap)
	}
}

// TestLeftOut: tracks that are not carried are counted, and are no trouble.
func TestLeftOut(t *testing.T) {
	more := []*description.Media{
		{Type: description.MediaTypeApplication, Formats: []format.Format{generic(t, 107, "vnd.onvif.metadata/90000")}},
		{Type: description.MediaTypeAudio, IsBackChannel: true, Formats: []format.Format{&format.G711{PayloadTyp: 0, MULaw: true, SampleRate: 8000, ChannelCount: 1}}},
		{Type: description.MediaTypeVideo, Formats: []format.Format{&format.MJPEG{}}},
	}
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{More: more})
	g := attach(t, `{}`)
	intake.Pull(g, 1, "rtsp://"+c.Addr+"/stream#transport=tcp")
	r := intake.Take(g, func(r *intake.Session) bool { return len(r.Stats) > 0 })
	if len(r.Tracks) != 2 || r.Stats["rtsp_tracks_left_out"] < 2 { // servers keep back channels to themselves
		t.Errorf("tracks %+v, %v left out", r.Tracks, r.Stats["rtsp_tracks_left_out"])
	}
}

func generic(t *testing.T, payloadType uint8, rtpmap string) format.Format {
	t.Helper()
	f := &format.Generic{PayloadTyp: payloadType, RTPMa: rtpmap}
	if err := f.Init(); err != nil {
		t.Fatal(err)
	}
	return f
}

const canary = "CANARY7f3a"

// TestFaults: what goes wrong with a source is told with its class, and the secrets of
// its URL are in no text.
func TestFaults(t *testing.T) {
	logs := logged(t)
	cert := httptest.NewTLSServer(nil)
	defer cert.Close()
	pair := cert.TLS.Certificates[0]
	// Those that answer may take their time on a busy machine.
	patient, hasty := attach(t, `{"timeout": "15s"}`), attach(t, `{"timeout": "1s"}`)
	session := uint32(0)
	f := func(url, class string, permanent bool, cause wire.SessionState_Cause, text string) {
		t.Helper()
		session++
		g := patient
		if class == "timeout" {
			g = hasty
		}
		intake.Pull(g, session, url)
		for {
			m := g.Recv()
			s := m.GetState()
			if s.GetSession() != session || s.GetState() != wire.SessionState_FAILED {
				continue
			}
			if s.GetClass() != class || s.GetPermanent() != permanent || s.GetCause() != cause || !strings.Contains(s.GetMessage(), text) {
				t.Errorf("%s: class %q permanent %v cause %v %q; want %s %v %v %q", url, s.GetClass(), s.GetPermanent(), s.GetCause(), s.GetMessage(), class, permanent, cause, text)
			}
			if strings.Contains(s.GetMessage(), canary) {
				t.Errorf("the message holds a secret: %s", s.GetMessage())
			}
			return
		}
	}
	play := func(s camera.Script) string { return camera.Start(t, peers.FreeAddr(t), s).Addr }
	const remote, config = wire.SessionState_REMOTE, wire.SessionState_CONFIG
	secretURL := "rtsp://user" + canary + ":" + canary + "@"
	f("rtsp://user:pass"+canary+"%zz@host/", "address", true, config, "no URL of a source")
	f("rtsp:///stream?"+canary, "address", true, config, "names no host")
	f("rtsp://host/stream#transport="+canary, "address", true, config, "transport")
	f("rtsp://host/stream#"+canary, "address", true, config, "not understood")
	f(secretURL+addrOf(peers.FreePort(t))+"/"+canary, "refused", false, remote, "nothing listens")
	f(secretURL+"no-such-host.invalid/"+canary, "dns", false, remote, "no address")
	f(secretURL+play(camera.Script{User: "admin", Password: "x"})+"/"+canary, "auth", true, config, "refuses user and password")
	f("rtsp://"+play(camera.Script{User: "admin", Password: "x"})+"/"+canary, "auth", true, config, "wants a user and a password")
	f(secretURL+play(camera.Script{Status: base.StatusNotFound})+"/"+canary, "app", false, remote, "no such stream")
	f(secretURL+play(camera.Script{Status: base.StatusServiceUnavailable})+"/"+canary, "in_use", false, remote, "no room")
	f("rtsps://"+play(camera.Script{TLS: &pair})+"/"+canary, "tls", true, config, "not trusted")
	f("rtsps://"+play(camera.Script{TLS: &pair})+"/"+canary+"#fingerprint="+strings.Repeat("ab", 32), "tls", true, config, "another fingerprint")
	f("rtsps://"+says(t, "RTSP/1.0 400 Bad Request\r\n\r\n")+"/"+canary, "tls", true, config, "does not speak TLS")
	f("rtsps://"+silent(t)+"/"+canary, "timeout", false, remote, "does not answer")
	f(secretURL+silent(t)+"/"+canary, "timeout", false, remote, "does not answer")
	f(secretURL+says(t, "RTSP/1.0 nonsense\r\n\r\n")+"/"+canary, "protocol", false, remote, "not understood")
	f(secretURL+says(t, "")+"/"+canary, "closed", false, remote, "ended the connection")
	f(secretURL+play(camera.Script{UDP: false})+"/"+canary+"#transport=udp", "protocol", true, config, "transport")
	f(secretURL+redirects(t, "rtsp://127.0.0.2:9/"+canary)+"/"+canary, "protocol", false, remote, "redirects to another host")
	if text := logs.String(); strings.Contains(text, canary) {
		i := strings.Index(text, canary)
		t.Errorf("the log holds a secret: %s", text[max(0, i-200):min(len(text), i+40)])
	}
}

// serveRaw answers every connection in its own way.
func serveRaw(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() { answer(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// silent takes connections and says nothing.
func silent(t *testing.T) string {
	return serveRaw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

// says answers the first bytes with text and ends the connection.
func says(t *testing.T, text string) string {
	return serveRaw(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, text)
		_ = c.Close()
	})
}

// redirects answers every request with the way to another place.
func redirects(t *testing.T, to string) string {
	return serveRaw(t, func(c net.Conn) {
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			_, rest, _ := strings.Cut(string(b[:n]), "CSeq: ")
			seq, _, _ := strings.Cut(rest, "\r\n")
			status := "302 Found\r\nLocation: " + to
			if strings.HasPrefix(string(b[:n]), "OPTIONS") {
				status = "200 OK\r\nPublic: DESCRIBE"
			}
			_, _ = fmt.Fprintf(c, "RTSP/1.0 %s\r\nCSeq: %s\r\n\r\n", status, seq)
		}
	})
}

// TestCameraStalls: one that stops sending and stays connected is given up.
func TestCameraStalls(t *testing.T) {
	var mu sync.Mutex
	quiet := false
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{Drop: func(uint16, bool) bool {
		mu.Lock()
		defer mu.Unlock()
		return quiet
	}})
	g := attach(t, `{"timeout": "2s"}`)
	intake.Pull(g, 1, "rtsp://"+c.Addr+"/stream#transport=tcp")
	intake.Take(g, flows)
	mu.Lock()
	quiet = true
	mu.Unlock()
	r := intake.Take(g, nil)
	if r.End.GetClass() != "stalled" || r.Silent == 0 {
		t.Errorf("ended with %v, told %d times of silence", r.End, r.Silent)
	}
}

func TestParseSource(t *testing.T) {
	good := func(raw, transport, address string) {
		t.Helper()
		s, err := parseSource(secret.New(raw), transportAuto)
		if err != nil || s.transport != transport || s.address() != address {
			t.Errorf("%s: %+v %v", raw, s, err)
		}
	}
	good("rtsp://cam/stream", "auto", "cam:554")
	good("rtsps://cam/stream", "auto", "cam:322")
	good("rtsp://u:p@cam:8554/stream?a=b#transport=tcp", "tcp", "cam:8554")
	good("rtsp://u:p@[fe80::1%25eth0]:8554/stream#transport=udp", "udp", "[fe80::1%eth0]:8554")
	good("rtsps://cam#fingerprint="+strings.Repeat("AB:", 31)+"AB", "auto", "cam:322")
	bad := func(raw string) {
		t.Helper()
		if _, err := parseSource(secret.New(raw), transportAuto); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", raw, err)
		}
	}
	bad("SECRET")
	bad("http://SECRET/")
	bad("rtsp://u:SECRET@/x")
	bad("rtsp://u:SECRET%zz@host/x")
	bad("rtsp://host/x#SECRET=1")
	bad("rtsp://host/x#transport=SECRET")
	bad("rtsps://host/x#fingerprint=SECRET")
	bad("rtsp://host/x#fingerprint=" + strings.Repeat("ab", 32))
}

// TestKeepalive: a source whose sessions end after two seconds without a request has
// one in time again and again, with the credentials that it wants.
func TestKeepalive(t *testing.T) {
	t.Parallel()
	const limit, times = 2 * time.Second, 3
	header := regexp.MustCompile(`\r\nSession: [0-9A-Za-z-]+`)
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{User: "admin", Password: "x"})
	heard := make(chan string, 1000)
	addr := serveRaw(t, func(client net.Conn) {
		server, err := net.Dial("tcp", c.Addr)
		if err != nil {
			return
		}
		defer func() { _ = client.Close() }()
		defer func() { _ = server.Close() }()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer func() { _ = server.Close() }()
			b := make([]byte, 64<<10)
			for {
				n, err := client.Read(b)
				if err != nil {
					return
				}
				for _, method := range []string{"OPTIONS ", "GET_PARAMETER "} {
					if at := bytes.Index(b[:n], []byte(method)); at >= 0 {
						heard <- string(b[at:n])
					}
				}
				if _, err := server.Write(b[:n]); err != nil {
					return
				}
			}
		}()
		b := make([]byte, 64<<10)
		for {
			n, err := server.Read(b)
			if err != nil {
				break
			}
			if _, err := client.Write(header.ReplaceAll(b[:n], []byte("${0};timeout=2"))); err != nil {
				break
			}
		}
		_ = client.Close()
		<-ended
	})
	g := attach(t, `{}`)
	intake.Pull(g, 1, "rtsp://admin:x@"+addr+"/stream#transport=tcp")
	intake.Take(g, flows)
	for len(heard) > 0 {
		<-heard // from before PLAY
	}
	last := time.Now()
	for range times {
		for m := ""; m == ""; {
			g.Recv() // media go on
			select {
			case m = <-heard:
				if !strings.Contains(m, "Authorization: Digest") || !strings.Contains(m, "Session: ") {
					t.Errorf("a request without session or credentials: %s", m)
				}
			default:
			}
			if time.Since(last) > 10*limit {
				t.Fatal("no request that keeps the session")
			}
		}
		t.Logf("a request after %v", time.Since(last))
		last = time.Now()
	}
}
