package ingestrtsp

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bluenviron/gortsplib/v4/pkg/auth"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/pion/rtp"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
	"github.com/headgate/gateway/test/camera"
	"github.com/headgate/gateway/test/faultlab"
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
			checkCard(t, r, 3*time.Second) // by arrival, in which a busy machine has its part; TestReports is exact
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
// sound stay together, in time that passes as packets would have it: at once or up to 15 ms
// late.
func TestReports(t *testing.T) {
	f := func(name string, most time.Duration, reports func(video bool, at time.Duration) (time.Time, time.Duration, bool)) {
		t.Run(name, func(t *testing.T) {
			for _, late := range []time.Duration{0, 15 * time.Millisecond} {
				synctest.Test(t, func(t *testing.T) {
					r := receiveCard(t, late, 12*time.Second, reports)
					checkCard(t, r, most+late)
					if n := count(r.Units[1], func(u *media.AccessUnit) bool { return u.Discontinuity }); n > 0 {
						t.Errorf("%d discontinuities", n)
					}
				})
			}
		})
	}
	const exact = time.Millisecond
	f("good", exact, func(bool, time.Duration) (time.Time, time.Duration, bool) { return time.Time{}, 0, true })
	f("none", exact, nil)
	f("of 1970", exact, func(video bool, _ time.Duration) (time.Time, time.Duration, bool) { return time.Unix(9, 0), 0, video })
	f("clocks apart by an hour", exact, func(video bool, at time.Duration) (time.Time, time.Duration, bool) {
		if video {
			return time.Now().Add(time.Hour), 0, true
		}
		return time.Time{}, 0, true
	})
	f("times that jump about", exact, func(video bool, at time.Duration) (time.Time, time.Duration, bool) {
		return time.Time{}, time.Duration(at.Milliseconds()%7) * 9 * time.Second, video
	})
}

// receiveCard has a session receive the test card for so long. Packets come when they are
// due, or up to late after that.
func receiveCard(t *testing.T, late, long time.Duration, reports func(video bool, at time.Duration) (time.Time, time.Duration, bool)) *intake.Session {
	t.Helper()
	card, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	d, video, audio := camera.Describe(card, camera.Script{})
	s := newSession(d, slog.Default())
	defer s.close()
	r := &intake.Recorder{}
	s.start(r)
	wall := time.Now()
	random := rand.New(rand.NewPCG(1, 2))
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	camera.NewPacker(card, camera.Script{Reports: reports}).Each(ctx, func(u *media.AccessUnit, packets []*rtp.Packet) {
		m := audio
		if u.Track == clip.VideoTrack {
			m = video
		}
		time.Sleep(time.Duration(random.Float64() * float64(late)))
		for _, tr := range s.tracks {
			if tr.media == m {
				for _, p := range packets {
					tr.take(p)
				}
			}
		}
		if sr := camera.Report(u, packets, wall, reports); sr != nil {
			s.report(m, sr)
		}
	})
	return &intake.Session{Tracks: r.Tracks(), Units: r.Units}
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
	gap := time.Hour // before a piece that follows a hole, at the least
	heard := 0
	r := intake.Take(g, func(r *intake.Session) bool {
		for _, u := range r.Units[2][heard:] {
			now := time.Now()
			if u.Discontinuity {
				gap = min(gap, now.Sub(at))
			}
			at = now
		}
		heard = len(r.Units[2])
		return heard > 300
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
	t.Logf("%d packets lost, %d holes in the sound, the shortest of which held it up for %v", lost, holes, gap)
	if holes == 0 || lost < holes {
		t.Errorf("%d lost, %d holes in the sound", lost, holes)
	}
	// The library alone waits for 64 more packets, 1.28 s, each time.
	if gap > time.Second {
		t.Errorf("each lost packet held the sound up for %v or longer", gap)
	}
}

// TestLossHoldsNothingUp: the wait for a packet that is lost, exactly.
func TestLossHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		card, err := clip.Load()
		if err != nil {
			t.Fatal(err)
		}
		d, _, audio := camera.Describe(card, camera.Script{})
		s := newSession(d, slog.Default())
		defer s.close()
		r := &stopwatch{}
		s.start(r)
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
		defer cancel()
		lost := 0
		camera.NewPacker(card, camera.Script{}).Each(ctx, func(u *media.AccessUnit, packets []*rtp.Packet) {
			for _, tr := range s.tracks {
				if (tr.media == audio) != (u.Track == clip.AudioTrack) {
					continue
				}
				for _, p := range packets {
					if tr.media == audio && p.SequenceNumber%97 == 0 {
						lost++
						continue
					}
					tr.take(p)
				}
			}
		})
		s.close()
		if lost < 5 || r.holes != lost || r.longest > 150*time.Millisecond {
			t.Errorf("%d packets lost, %d holes in the sound, the longest wait for sound was %v", lost, r.holes, r.longest)
		}
	})
}

// A stopwatch measures how long sound is waited for.
type stopwatch struct {
	last    time.Time
	longest time.Duration
	holes   int
}

// SetTracks implements writer.
func (*stopwatch) SetTracks([]media.Track) {}

// WriteAccessUnit implements writer.
func (w *stopwatch) WriteAccessUnit(u *media.AccessUnit) {
	if u.Track != 2 {
		return
	}
	now := time.Now()
	if !w.last.IsZero() {
		w.longest = max(w.longest, now.Sub(w.last))
	}
	w.last = now
	if u.Discontinuity {
		w.holes++
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
	f(secretURL+redirects(t, "")+"/"+canary, "protocol", false, remote, "redirects again and again")
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

// redirects answers every request with the way to another place, or to itself.
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
			status := "302 Found\r\nLocation: " + cmp.Or(to, "rtsp://"+c.LocalAddr().String()+"/")
			if strings.HasPrefix(string(b[:n]), "OPTIONS") {
				status = "200 OK\r\nPublic: DESCRIBE"
			}
			_, _ = fmt.Fprintf(c, "RTSP/1.0 %s\r\nCSeq: %s\r\n\r\n", status, seq)
		}
	})
}

// TestCameraStalls: one that stops sending and stays connected is given up, though its
// reports come as before.
func TestCameraStalls(t *testing.T) {
	f := func(name string, reports func(bool, time.Duration) (time.Time, time.Duration, bool)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var quiet atomic.Bool
			c := camera.Start(t, peers.FreeAddr(t), camera.Script{Drop: func(uint16, bool) bool { return quiet.Load() }, Reports: reports})
			g := attach(t, `{"timeout": "2s"}`)
			intake.Pull(g, 1, "rtsp://"+c.Addr+"/stream#transport=tcp")
			intake.Take(g, flows)
			quiet.Store(true)
			r := intake.Take(g, nil)
			if r.End.GetClass() != "stalled" || r.Silent == 0 {
				t.Errorf("ended with %v, told %d times of silence", r.End, r.Silent)
			}
		})
	}
	f("altogether", nil)
	f("reports go on", func(bool, time.Duration) (time.Time, time.Duration, bool) { return time.Time{}, 0, true })
}

// TestLargeDatagrams: a camera whose datagrams are larger than the library takes is
// fetched by TCP.
func TestLargeDatagrams(t *testing.T) {
	t.Parallel()
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{UDP: true})
	theirs, ours := regexp.MustCompile(`client_port=(\d+)-`), regexp.MustCompile(`server_port=\d+-\d+`)
	large, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = large.Close() }()
	var to atomic.Int64 // the port for the picture
	addr := between(t, c.Addr, func(b []byte) []byte {
		if port := theirs.FindSubmatch(b); port != nil && to.Load() == 0 {
			n, _ := strconv.ParseInt(string(port[1]), 10, 64)
			to.Store(n)
		}
		return b
	}, func(b []byte) []byte {
		return ours.ReplaceAll(b, fmt.Appendf(nil, "server_port=%d-%d", large.LocalAddr().(*net.UDPAddr).Port, large.LocalAddr().(*net.UDPAddr).Port))
	})
	g := attach(t, `{"timeout": "30s"}`)
	intake.Pull(g, 1, "rtsp://"+addr+"/stream")
	ctx, stop := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	defer sending.Wait()
	defer stop()
	sending.Go(func() {
		for ctx.Err() == nil {
			if port := int(to.Load()); port != 0 {
				_, _ = large.WriteTo(make([]byte, 2000), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	r := intake.Take(g, func(r *intake.Session) bool { return flows(r) && r.Info["transport"] == "tcp" })
	checkCard(t, r, 3*time.Second)
}

// TestOtherPayloadType: packets that the description does not name are counted, and why
// there is no picture is in the log.
func TestOtherPayloadType(t *testing.T) {
	logs := logged(t)
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{})
	named := regexp.MustCompile(`(RTP/AVP|a=rtpmap:|a=fmtp:)( ?)96`)
	addr := between(t, c.Addr, func(b []byte) []byte { return b }, func(b []byte) []byte { return named.ReplaceAll(b, []byte("${1}${2}99")) })
	g := attach(t, `{}`)
	intake.Pull(g, 1, "rtsp://"+addr+"/stream#transport=tcp")
	r := intake.Take(g, func(r *intake.Session) bool { return r.Stats["rtsp_packets_unreadable"] > 0 && len(r.Units[2]) > 0 })
	if len(r.Units[1]) > 0 {
		t.Errorf("%d pictures of another payload type", len(r.Units[1]))
	}
	if want := "packets come that cannot be read"; strings.Count(logs.String(), want) != 1 || !strings.Contains(logs.String(), "payload type 96") {
		t.Errorf("the log does not say once %q and why", want)
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

// between is a relay in front of target, whose two directions are changed on the way.
func between(t *testing.T, target string, request, response func([]byte) []byte) (addr string) {
	t.Helper()
	relay := func(from, to net.Conn, change func([]byte) []byte) {
		defer func() { _ = to.Close() }()
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			if err != nil {
				return
			}
			if _, err := to.Write(change(b[:n])); err != nil {
				return
			}
		}
	}
	return serveRaw(t, func(client net.Conn) {
		server, err := net.Dial("tcp", target)
		if err != nil {
			_ = client.Close()
			return
		}
		var back sync.WaitGroup
		back.Go(func() { relay(server, client, response) })
		relay(client, server, request)
		back.Wait()
		_ = client.Close()
	})
}

// TestKeepalive: a source whose sessions end after two seconds without a request has
// one in time again and again, with the credentials that it wants.
func TestKeepalive(t *testing.T) {
	t.Parallel()
	const limit, times = 2 * time.Second, 3
	header := regexp.MustCompile(`\r\nSession: [0-9A-Za-z-]+`)
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{User: "admin", Password: "x"})
	heard := make(chan string, 1000)
	addr := between(t, c.Addr, func(b []byte) []byte {
		for _, method := range []string{"OPTIONS ", "GET_PARAMETER "} {
			if at := bytes.Index(b, []byte(method)); at >= 0 {
				heard <- string(b[at:])
			}
		}
		return b
	}, func(b []byte) []byte { return header.ReplaceAll(b, []byte("${0};timeout=2")) })
	g := attach(t, `{"timeout": "60s"}`)
	intake.Pull(g, 1, "rtsp://admin:x@"+addr+"/stream#transport=tcp")
	intake.Take(g, flows)
	for len(heard) > 0 {
		<-heard // from before PLAY
	}
	last := time.Now()
	for range times {
		for m := ""; m == ""; {
			if s := g.Recv().GetState(); s.GetEnded() { // else media go on
				t.Fatalf("ended with %v", s)
			}
			select {
			case m = <-heard:
				if !strings.Contains(m, "Authorization: Digest") || !strings.Contains(m, "Session: ") {
					t.Errorf("a request without session or credentials: %s", m)
				}
			default:
			}
			if time.Since(last) > 20*limit {
				t.Fatal("no request that keeps the session")
			}
		}
		t.Logf("a request after %v", time.Since(last))
		last = time.Now()
	}
}

// TestBadLine: a camera by UDP over a line that loses packets in bursts, and has some
// overtake others. Whatever comes is a unit of the camera as it was, each track in order
// and every picture decodable; what is missing is counted.
func TestBadLine(t *testing.T) {
	t.Parallel()
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{UDP: true})
	bad := faultlab.Impairment{Delay: 5 * time.Millisecond, Loss: 0.02, Burst: 2, Reorder: 0.02, ReorderBy: 10 * time.Millisecond, Duplicate: 0.01}
	proxy := func(target string, back faultlab.Impairment) *faultlab.UDP {
		t.Helper()
		p, err := faultlab.NewUDP(target, faultlab.Impairment{}, back, 7)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	packets, reports := proxy(c.RTPAddr, bad), proxy(c.RTCPAddr, faultlab.Impairment{})
	// Each side is told the proxies' ports for those of the other.
	theirs, ours := regexp.MustCompile(`client_port=(\d+)-(\d+)`), regexp.MustCompile(`server_port=\d+-\d+`)
	behind := func(p *faultlab.UDP, port []byte) uint16 {
		return p.Client(netip.MustParseAddrPort("127.0.0.1:" + string(port))).Port()
	}
	addr := between(t, c.Addr, func(b []byte) []byte {
		return theirs.ReplaceAllFunc(b, func(header []byte) []byte {
			port := theirs.FindSubmatch(header)
			return fmt.Appendf(nil, "client_port=%d-%d", behind(packets, port[1]), behind(reports, port[2]))
		})
	}, func(b []byte) []byte {
		return ours.ReplaceAll(b, fmt.Appendf(nil, "server_port=%d-%d", packets.Addr().Port, reports.Addr().Port))
	})
	g := attach(t, `{"timeout": "30s"}`)
	intake.Pull(g, 1, "rtsp://"+addr+"/stream#transport=udp")
	cuts := func(units []*media.AccessUnit) int {
		return count(units, func(u *media.AccessUnit) bool { return u.Discontinuity })
	}
	r := intake.Take(g, func(r *intake.Session) bool {
		return len(r.Units[2]) > 400 && cuts(r.Units[1]) > 2 && cuts(r.Units[2]) > 2 && r.Stats["rtsp_packets_lost"] > 0
	})
	_, sent := packets.Counts()
	// One that is overtaken for longer than it is waited for is lost, and then late.
	lost, late := uint64(r.Stats["rtsp_packets_lost"]), uint64(r.Stats["rtsp_packets_late"])
	if lost > sent.Lost+sent.Reordered || lost < sent.Lost/2 {
		t.Errorf("%d packets counted as lost and %d as late, the line lost %d so far and had %d overtaken", lost, late, sent.Lost, sent.Reordered)
	}
	card, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	// Pictures are told by their bytes; pieces of sound, of which some are alike, by their
	// times as well.
	pictures := make([]int, len(r.Units[1]))
	for i, u := range r.Units[1] {
		if i > 0 {
			pictures[i] = pictures[i-1] + 1
		}
		for begin := pictures[i]; !bytes.Equal(card.Video[pictures[i]%len(card.Video)].Payload, u.Payload); pictures[i]++ {
			if pictures[i] == begin+len(card.Video) {
				t.Fatalf("picture %d is none of the camera's", i)
			}
		}
	}
	var sound []int
	for begin := range card.Audio {
		sound = nil
		for i, u := range r.Units[2] {
			at := begin + int((u.PTS-r.Units[2][0].PTS).Round(clip.OpusPacketDuration)/clip.OpusPacketDuration)
			if !bytes.Equal(card.Audio[at%len(card.Audio)].Payload, u.Payload) {
				break
			}
			sound = append(sound[:i:i], at)
		}
		if len(sound) == len(r.Units[2]) {
			break
		}
	}
	if len(sound) != len(r.Units[2]) {
		t.Fatalf("a piece of sound is none of the camera's")
	}
	for id, places := range map[media.TrackID][]int{1: pictures, 2: sound} {
		for i, u := range r.Units[id] {
			if i == 0 {
				continue
			}
			if missing := places[i] - places[i-1] - 1; missing > 0 != u.Discontinuity {
				t.Errorf("unit %d of track %d follows %d that are missing, and says discontinuity: %v", i, id, missing, u.Discontinuity)
			}
			if u.Discontinuity && !u.RandomAccess {
				t.Errorf("unit %d of track %d follows a loss and is no random access point", i, id)
			}
			if u.DTS <= r.Units[id][i-1].DTS {
				t.Errorf("unit %d of track %d is at %v, the one before at %v", i, id, u.DTS, r.Units[id][i-1].DTS)
			}
		}
	}
	if err := peers.CheckDecodes(t, annexB(t, r.Tracks[0], r.Units[1])); err != nil {
		t.Error(err)
	}
	t.Logf("of %d packets the line lost %d and had %d overtaken; %d pictures with %d cuts, %d pieces of sound with %d",
		sent.Received, sent.Lost, sent.Reordered, len(r.Units[1]), cuts(r.Units[1]), len(r.Units[2]), cuts(r.Units[2]))
}
