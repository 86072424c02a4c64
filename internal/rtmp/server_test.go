package rtmp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/codecs"
	"github.com/bluenviron/gortmplib/pkg/handshake"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg4audio"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/test/peers"
)

// Parameter sets of 1920x1080 at 30 pictures per second.
var (
	testSPS = []byte{0x67, 0x42, 0xc0, 0x28, 0xd9, 0x00, 0x78, 0x02, 0x27, 0xe5, 0x84, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x03, 0x00, 0xf0, 0x3c, 0x60, 0xc9, 0x20}
	testPPS = []byte{0x68, 0xcb, 0x8c, 0xb2}
	testASC = []byte{0x11, 0x90}
)

// avcC is the decoder config of testSPS and testPPS.
func avcC() []byte {
	b := []byte{1, testSPS[1], testSPS[2], testSPS[3], 0xFF, 0xE1, 0, byte(len(testSPS))}
	b = append(append(b, testSPS...), 1, 0, byte(len(testPPS)))
	return append(b, testPPS...)
}

// TestServerStats publishes a stream with known faults and reads them off.
func TestServerStats(t *testing.T) {
	s := &Server{PingInterval: 5 * time.Millisecond, RecordDir: t.TempDir()}
	got := newCollector(s)
	addr := serve(t, s)
	c := dial(t, "rtmp://"+addr+"/live?token=x#key")
	write := func(tag *Tag, at int) {
		t.Helper()
		if err := c.WriteTag(tag, uint32(at)); err != nil {
			t.Fatal(err)
		}
	}
	write(Metadata{Video: &media.Track{Codec: media.H264}, Audio: []media.Track{{Codec: media.AAC}}, Encoder: "test\x1b[1m"}.Tag(), 0)
	write(H264HeaderTag(avcC()), 0)
	write(AACHeaderTag(testASC), 0)
	picture := make([]byte, 1000)
	for i := range 61 {
		write(H264Tag(picture, i%30 == 0, 0), 1000+i*40)
		write(AACTag(picture[:100]), 1000+i*40-10) // always before the picture: backward across
	}
	write(H264HeaderTag(avcC()), 3500)
	write(H264HeaderTag(append(avcC(), 0)), 3500)
	write(H264Tag(picture, false, 80), 3300) // backward on its track
	write(H264Tag(picture, false, 0), 3300)  // and again the same
	write(H264Tag(picture, false, 0), 3900)
	for range 2*61 + 8 {
		got.next(t)
	}
	eventually(t, "pongs", func() bool { return s.Stats()[0].Pongs > 3 })
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	<-got.ends
	all := s.Stats()
	if len(all) != 1 {
		t.Fatalf("%d publications", len(all))
	}
	st := all[0]
	f := func(what string, got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	f("app", st.App, "live")
	f("key", st.Key.Reveal(), "key")
	f("key as printed", st.Key, "***")
	f("encoder", st.Encoder, "test [1m")
	f("ended", st.EndedBy+fmt.Sprint(st.Ended.IsZero()), "false")
	f("metadata", st.Metadata, 1)
	v, a := st.Video, st.Audio
	f("video", v.Codec+" "+v.Profile, "h264 Constrained Baseline")
	f("size", fmt.Sprint(v.Width, v.Height, v.DeclaredFrameRate), "1920 1080 30")
	f("pictures", v.Units, 64)
	f("bytes", v.Bytes, 64*1005)
	f("keyframes", v.Keyframes, 3)
	f("keyframe interval", v.KeyframeInterval, 1200*time.Millisecond)
	f("headers", v.SequenceHeaders, 3)
	f("config changes", v.ConfigChanges, 1)
	f("backward", v.Backward, 1)
	f("repeated", v.Repeated, 1)
	f("gap", v.MaxGap, 600*time.Millisecond)
	f("first, last", fmt.Sprint(v.First, v.Last), "1s 3.9s")
	f("b-frames", v.BFrames, true)
	f("begins with a keyframe", v.FirstKeyframe, true)
	f("before header", v.UnitsBeforeHeader, 0)
	f("audio", fmt.Sprint(a.Codec, a.Profile, a.SampleRateHz, a.Channels), "aacLC48000 2")
	f("frames", a.Units, 61)
	f("backward across", st.BackwardAcross, 61+1)
	f("faults", st.ExtendedFaults, 0)
	if _, err := os.Stat(st.Recording); err != nil {
		t.Error(err)
	}
}

// TestMeterRates follows the windows with a clock of its own.
func TestMeterRates(t *testing.T) {
	start := time.Now()
	m := newMeter(start)
	m.observe(Message{Type: TypeVideo, Body: append([]byte{0x17, 0, 0, 0, 0}, avcC()...)}, start)
	for i := range 30 {
		body := []byte{0x27, 1, 0, 0, 0}
		m.observe(Message{Type: TypeVideo, TimestampMS: uint32(i * 33), Body: append(body, make([]byte, 1245)...)}, start.Add(milliseconds(int64(i*33))))
		m.observe(Message{Type: TypeAudio, TimestampMS: uint32(i*33 + 7), Body: []byte{0xAF, 1, 0}}, start.Add(milliseconds(int64(i*33+7+25))))
	}
	if m.snapshot(start.Add(time.Second - 1)).Measured {
		t.Error("measured before a second is over")
	}
	st := m.snapshot(start.Add(time.Second))
	if !st.Measured || st.Video.UnitsPerSecond != 30 || st.Video.BitsPerSecond != 300_000 {
		t.Errorf("%v/s, %v b/s", st.Video.UnitsPerSecond, st.Video.BitsPerSecond)
	}
	if st.AVSkew != 25*time.Millisecond || st.AVOffset > 0 || st.AVOffset < -60*time.Millisecond {
		t.Errorf("skew %v, offset %v", st.AVSkew, st.AVOffset)
	}
	if st.Lag > time.Millisecond {
		t.Errorf("lag %v: sound that is always 25ms later does not pile up", st.Lag)
	}
	// The next second everything comes 300 ms late.
	for i := 30; i < 60; i++ {
		m.observe(Message{Type: TypeVideo, TimestampMS: uint32(i * 33), Body: []byte{0x27, 1, 0, 0, 0, 0}}, start.Add(milliseconds(int64(i*33+300))))
	}
	st = m.snapshot(start.Add(3 * time.Second))
	if st.Lag < 299*time.Millisecond || st.Lag > 301*time.Millisecond {
		t.Errorf("lag %v, want 300ms", st.Lag)
	}
	if st = m.snapshot(start.Add(5 * time.Second)); st.Video.UnitsPerSecond != 0 || st.Lag != 0 {
		t.Errorf("after silence: %v/s, lag %v", st.Video.UnitsPerSecond, st.Lag)
	}
}

// TestMeterWrap: timestamps go on across 2^32 ms, on both tracks.
func TestMeterWrap(t *testing.T) {
	m := newMeter(time.Now())
	for i := range 10 {
		ts := uint32(0xFFFFFFFF-100) + uint32(i*40)
		m.observe(Message{Type: TypeVideo, TimestampMS: ts, Body: []byte{0x27, 1, 0, 0, 0, 0}}, time.Now())
		if i > 4 { // audio comes only after the wrap
			m.observe(Message{Type: TypeAudio, TimestampMS: ts + 1, Body: []byte{0xAF, 1, 0}}, time.Now())
		}
	}
	st := m.snapshot(time.Now())
	if st.Video.Backward+st.Audio.Backward+st.BackwardAcross != 0 || st.Audio.Last-st.Video.Last != time.Millisecond || st.Video.Last-st.Video.First != 360*time.Millisecond {
		t.Errorf("%+v", st)
	}
}

// TestEnhancedCodecs: enough of Enhanced RTMP to name what comes.
func TestEnhancedCodecs(t *testing.T) {
	f := func(typ MessageType, body, want string, units uint64) {
		t.Helper()
		m := newMeter(time.Now())
		m.observe(Message{Type: typ, Body: []byte(body)}, time.Now())
		st := m.snapshot(time.Now())
		track := st.Video
		if typ == TypeAudio {
			track = st.Audio
		}
		if track.Codec != want || track.Units != units {
			t.Errorf("%q: %q, %d units", body, track.Codec, track.Units)
		}
	}
	f(TypeVideo, "\x90hvc1", "h265", 0)
	f(TypeVideo, "\x91hvc1\x00\x00\x00x", "h265", 1)
	f(TypeVideo, "\xA3av01x", "av1", 1)
	f(TypeVideo, "\x92vp09", "vp9", 0)
	f(TypeAudio, "\x90Opus", "opus", 0)
	f(TypeAudio, "\x91Opusx", "opus", 1)
	f(TypeAudio, "\x2Fxx", "mp3", 1)
	f(TypeAudio, "\x7Fxx", "pcma", 1)
	f(TypeAudio, "\xBFxx", "flv 11", 1)
	f(TypeVideo, "\x12xxxx", "flv 02", 1)
	f(TypeVideo, "\x17", "", 0)
}

// TestServerRefuses checks what a client hears of Check and Unique.
func TestServerRefuses(t *testing.T) {
	s := &Server{Unique: true, Check: func(p *Publish) error {
		if p.Key.Reveal() == "denied" {
			return &StatusError{Code: "NetStream.Publish.Denied", Description: "not today"}
		}
		if p.App != "live" {
			return errors.New("no such app")
		}
		return nil
	}}
	addr := serve(t, s)
	f := func(path string, kind RefusalKind) {
		t.Helper()
		_, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://"+addr+path, "")})
		var refused *StatusError
		if !errors.As(err, &refused) || refused.Kind() != kind {
			t.Errorf("%s: %v", path, err)
		}
	}
	f("/live/denied", RefusedKey)
	f("/other/key", RefusedKey)
	c := dial(t, "rtmp://"+addr+"/live/key")
	f("/live/key", RefusedBusy)
	other := dial(t, "rtmp://"+addr+"/live/key2")
	if n := len(s.Stats()); n != 2 {
		t.Errorf("%d publications", n)
	}
	_ = c.Close(t.Context())
	_ = other.Close(t.Context())
	eventually(t, "the key is free", func() bool { return !s.Stats()[0].Ended.IsZero() })
	again := dial(t, "rtmp://"+addr+"/live/key")
	_ = again.Close(t.Context())
}

// TestServerAnnounces: what the server is said to support reaches the client.
func TestServerAnnounces(t *testing.T) {
	addr := serve(t, &Server{Announce: &Capabilities{VideoFourCCs: []string{"hvc1"}, AudioFourCCs: []string{"Opus"}, Flags: 1}})
	c := dial(t, "rtmp://"+addr+"/live/key")
	if got := fmt.Sprint(c.Capabilities()); got != "{true [hvc1] [Opus] 1}" {
		t.Errorf("capabilities %s", got)
	}
	_ = c.Close(t.Context())
	addr = serve(t, &Server{})
	c = dial(t, "rtmp://"+addr+"/live/key")
	if c.Capabilities().Enhanced {
		t.Error("a server that announces nothing counts as enhanced")
	}
	_ = c.Close(t.Context())
}

// TestServerEnds: who is lost is told from who says goodbye, and connections are
// closed when the server stops.
func TestServerEnds(t *testing.T) {
	s := &Server{Check: func(p *Publish) error { p.Session = "the owner's"; return nil }}
	got := newCollector(s)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Listener = listener
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	addr := listener.Addr().String()

	lost := dial(t, "rtmp://"+addr+"/live/key")
	_ = lost.sock.SetLinger(0)
	_ = lost.sock.Close()
	if err := <-got.ends; err == nil {
		t.Error("a reset looks like a goodbye")
	}
	if st := s.Stats()[0]; st.Session != nil {
		t.Error("what its owner made of a publication is kept when it is over")
	}
	_ = lost.Close(t.Context())

	live := dial(t, "rtmp://"+addr+"/live/live")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	<-live.Failed()
	_ = live.Close(t.Context())
	if err := <-got.ends; err == nil || err.Error() != "the server stopped" {
		t.Errorf("at the end: %v", err)
	}
}

// overPipes runs a server whose clients are in this process, for a synthetic clock, until
// stop is called.
func overPipes(t *testing.T) (s *Server, pipes pipeListener, got *collector, stop func()) {
	t.Helper()
	pipes = make(pipeListener)
	s = &Server{Listener: pipes}
	got = newCollector(s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, pipes, got, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestIdle: a client that answers no pings is gone after the idle timeout; one that does
// stays.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, pipes, got, stop := overPipes(t)
		begin := time.Now()

		silent := pipes.dial()
		go func() { _, _ = io.Copy(io.Discard, openPublication(t, silent, "silent")) }()
		live := pipes.dial()
		go func() {
			r, w := newChunkReader(openPublication(t, live, "live"), defaultMaxMessage), newChunkWriter(live, nil)
			for m, err := r.next(); err == nil; m, err = r.next() {
				if m.Type == TypeUserControl && len(m.Body) == 6 && binary.BigEndian.Uint16(m.Body) == eventPingRequest {
					_ = w.userControl(eventPingResponse, binary.BigEndian.Uint32(m.Body[2:]))
				}
			}
		}()
		if err := <-got.ends; err == nil || !strings.Contains(err.Error(), "timeout") {
			t.Errorf("the silent client: %v", err)
		}
		if after := time.Since(begin); after != defaultIdleTimeout {
			t.Errorf("it was given up after %v, want %v", after, defaultIdleTimeout)
		}
		time.Sleep(10 * defaultIdleTimeout)
		var there []string
		for _, st := range s.Stats() {
			if st.Ended.IsZero() {
				there = append(there, st.Key.Reveal())
			}
		}
		if !slices.Equal(there, []string{"live"}) {
			t.Errorf("publications under way: %v", there)
		}
		stop()
		_, _ = silent.Close(), live.Close()
	})
}

// TestServerAfterGoodbye: with the goodbye the publication is over, but the connection is the
// client's to end, as long as it does not take its time.
func TestServerAfterGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, pipes, got, stop := overPipes(t)

		client := pipes.dial()
		r := openPublication(t, client, "key")
		hungUp := make(chan time.Time, 1)
		go func() {
			_, _ = io.Copy(io.Discard, r)
			hungUp <- time.Now()
		}()
		synctest.Wait()
		begin := time.Now()
		if err := newChunkWriter(client, nil).command(3, 0, "deleteStream", 4, nil, 1.0); err != nil {
			t.Fatal(err)
		}
		if err := <-got.ends; err != nil || time.Since(begin) != 0 {
			t.Errorf("it ended with %v after %v", err, time.Since(begin))
		}
		if after := (<-hungUp).Sub(begin); after != leaveTime {
			t.Errorf("the connection ended after %v, want %v", after, leaveTime)
		}
		stop()
		_ = client.Close()
	})
}

// TestRefusedOverTLS: the end of a connection is one of TLS, too; clients take it for cut
// off otherwise.
func TestRefusedOverTLS(t *testing.T) {
	ca := peers.NewCA(t)
	pair, err := tls.LoadX509KeyPair(ca.Issue(t, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, &Server{TLS: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}})
	conn, err := tls.Dial("tcp", addr, ca.ClientConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	br := bufio.NewReader(conn)
	if _, _, err := handshake.DoClient(bufio.NewReadWriter(br, bufio.NewWriterSize(conn, 1)), false, false); err != nil {
		t.Fatal(err)
	}
	w := newChunkWriter(conn, nil)
	err = firstError(
		w.command(3, 0, "connect", 1, connectObject("live", "")),
		w.command(3, 0, "createStream", 2, nil),
		w.command(3, 1, "play", 3, nil, "key"),
	)
	if err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(br); err != nil || !bytes.Contains(said, []byte("NetStream.Play.StreamNotFound")) {
		t.Errorf("%d bytes, then %v", len(said), err)
	}
}

// A pipeListener accepts connections within the process, which know no kernel and so
// no time but the test's. A nil one means that it is closed.
type pipeListener chan net.Conn

func (l pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l <- server
	return client
}

// Accept implements [net.Listener].
func (l pipeListener) Accept() (net.Conn, error) {
	if c := <-l; c != nil {
		return c, nil
	}
	return nil, net.ErrClosed
}

// Close implements [net.Listener].
func (l pipeListener) Close() error { close(l); return nil }

// Addr implements [net.Listener].
func (pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// TestOpeningTime: who does not get as far as publishing has one deadline for
// all that he sends.
func TestOpeningTime(t *testing.T) {
	client, server := net.Pipe()
	defer func() { _ = client.Close() }()
	c := &serverConn{server: &Server{}, raw: server, conn: server, openBy: time.Now().Add(300 * time.Millisecond)}
	done := make(chan error, 1)
	go func() { done <- c.run() }()
	drip := time.NewTicker(20 * time.Millisecond)
	defer drip.Stop()
	if _, err := client.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case err := <-done:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("error %v", err)
			}
			return
		case <-drip.C:
			_ = client.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = client.Write([]byte{0})
		}
	}
}

// TestRecordingFails: a folder that is not there refuses nobody in silence.
func TestRecordingFails(t *testing.T) {
	s := &Server{RecordDir: filepath.Join(t.TempDir(), "missing")}
	got := newCollector(s)
	addr := serve(t, s)
	if _, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://"+addr+"/live/key", "")}); err == nil {
		t.Error("the publication is accepted")
	}
	if err := <-got.ends; err == nil || !strings.Contains(err.Error(), "recording") {
		t.Errorf("end: %v", err)
	}
}

// openPublication publishes under a key. What the server says comes from the reader,
// which is to be read at once: a pipe holds nothing.
func openPublication(t *testing.T, conn net.Conn, key string) *bufio.Reader {
	t.Helper()
	br := bufio.NewReader(conn)
	if _, _, err := handshake.DoClient(bufio.NewReadWriter(br, bufio.NewWriterSize(conn, 1)), false, true); err != nil {
		t.Error(err)
		return br
	}
	go func() {
		w := newChunkWriter(conn, nil)
		err := firstError(
			w.command(3, 0, "connect", 1, connectObject("live", "rtmp://h/live")),
			w.command(3, 0, "createStream", 2, nil),
			w.command(4, 1, "publish", 3, nil, key, "live"),
		)
		if err != nil {
			t.Error(err)
		}
	}()
	return br
}

// TestHostileClients: the server survives, and gets rid of them.
func TestHostileClients(t *testing.T) {
	s := &Server{MaxConns: 3}
	addr := serve(t, s)
	f := func(name string, attack func(conn net.Conn, w *chunkWriter)) {
		t.Helper()
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		var w *chunkWriter
		if !strings.HasPrefix(name, "raw") {
			br := bufio.NewReader(conn)
			if _, _, err := handshake.DoClient(bufio.NewReadWriter(br, bufio.NewWriterSize(conn, 1)), false, false); err != nil {
				t.Fatal(err)
			}
			w = newChunkWriter(conn, nil)
		}
		attack(conn, w)
		// It ends with a close of the server's, not by our deadline.
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is still open", name)
		}
	}
	f("raw: http", func(c net.Conn, _ *chunkWriter) { _, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) })
	f("raw: encrypted handshake", func(c net.Conn, _ *chunkWriter) { _, _ = c.Write(append([]byte{6}, make([]byte, 1536)...)) })
	f("noise", func(c net.Conn, _ *chunkWriter) { _, _ = io.CopyN(c, rand.NewChaCha8([32]byte{1}), 100_000) })
	f("no connect", func(_ net.Conn, w *chunkWriter) { _ = w.command(3, 0, "createStream", 1, nil) })
	f("publish without a stream", func(_ net.Conn, w *chunkWriter) {
		_ = w.command(3, 0, "connect", 1, connectObject("live", ""))
		_ = w.command(3, 1, "publish", 1, nil, "key")
	})
	f("too many streams", func(_ net.Conn, w *chunkWriter) {
		_ = w.command(3, 0, "connect", 1, connectObject("live", ""))
		for range maxStreamsPerConn + 1 {
			_ = w.command(3, 0, "createStream", 1, nil)
		}
	})
	f("plays", func(_ net.Conn, w *chunkWriter) {
		_ = w.command(3, 0, "connect", 1, connectObject("live", ""))
		_ = w.command(3, 0, "createStream", 1, nil)
		_ = w.command(3, 1, "play", 1, nil, "key")
	})
	f("a picture before it may", func(_ net.Conn, w *chunkWriter) {
		_ = w.command(3, 0, "connect", 1, connectObject("live", ""))
		_ = w.write(4, TypeVideo, 1, 0, nil, make([]byte, maxAMFBytes+1))
	})
	f("deep nesting", func(_ net.Conn, w *chunkWriter) {
		body := append(marshalAMF("connect", 1.0), bytes.Repeat([]byte{0x0A, 0, 0, 0, 1}, 13_000)...)
		_ = w.write(3, TypeCommand, 0, 0, nil, body)
		_ = w.command(3, 0, "createStream", 1, nil)
	})
	// After all that it serves.
	eventually(t, "connections are given back", func() bool {
		c, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://"+addr+"/live/key", "")})
		if err != nil {
			return false
		}
		return c.Close(t.Context()) == nil
	})
	// More than MaxConns are turned away.
	var held []*Conn
	for range 3 {
		eventually(t, "a connection is free", func() bool {
			c, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://"+addr+"/live/key", "")})
			if err == nil {
				held = append(held, c)
			}
			return err == nil
		})
	}
	if _, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://"+addr+"/live/key", ""), DialTimeout: 2 * time.Second}); err == nil {
		t.Error("a fourth connection is served")
	}
	for _, c := range held {
		_ = c.Close(t.Context())
	}
}

// TestOpeningLimit: one address has but so many connections that do not publish yet;
// those that do, and those that end, make room.
func TestOpeningLimit(t *testing.T) {
	s := &Server{MaxOpening: 2}
	addr := serve(t, s)
	opening := func() (n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, of := range s.opening {
			n += of
		}
		return n
	}
	idle := func(want int) net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		eventually(t, "the connection is counted", func() bool { return opening() == want })
		return conn
	}
	idle(1)
	second := idle(2)
	third, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = third.Close() }()
	_ = third.SetReadDeadline(time.Now().Add(8 * time.Second)) // shorter than what opening may take
	if _, err := third.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a third connection: %v", err)
	}
	_ = second.Close()
	eventually(t, "there is room", func() bool { return opening() == 1 })
	c, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://"+addr+"/live/key", "")})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "who publishes is not counted", func() bool { return opening() == 1 })
	idle(2)
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestServerWithOtherClient receives from another implementation.
func TestServerWithOtherClient(t *testing.T) {
	s := &Server{}
	got := newCollector(s)
	addr := serve(t, s)
	c := &gortmplib.Client{URL: &url.URL{Scheme: "rtmp", Host: addr, Path: "/live", Fragment: "key"}, Publish: true}
	if err := c.Initialize(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	asc := &mpeg4audio.AudioSpecificConfig{}
	if err := asc.Unmarshal(testASC); err != nil {
		t.Fatal(err)
	}
	vt := &gortmplib.Track{Codec: &codecs.H264{SPS: testSPS, PPS: testPPS}}
	at := &gortmplib.Track{Codec: &codecs.MPEG4Audio{Config: asc}}
	w := &gortmplib.Writer{Conn: c, Tracks: []*gortmplib.Track{vt, at}}
	if err := w.Initialize(); err != nil {
		t.Fatal(err)
	}
	// From 4 h 39 min on this client's continuation chunks are wrong: zeros for the
	// extended timestamp.
	const begin = 5 * time.Hour
	if err := w.WriteH264(vt, begin, begin, [][]byte{bytes.Repeat([]byte{0x65}, 200_000)}); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 11; i++ {
		if err := w.WriteH264(vt, begin+time.Duration(i)*40*time.Millisecond, begin+time.Duration(i)*40*time.Millisecond, [][]byte{{0x65, 1, 2, 3}}); err != nil {
			t.Fatal(err)
		}
		if err := w.WriteMPEG4Audio(at, begin+time.Duration(i)*40*time.Millisecond, []byte{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		got.next(t)
	}
	if m := got.next(t); len(m.Body) != 200_000+9 || m.Body[len(m.Body)-1] != 0x65 {
		t.Errorf("big picture: %d bytes", len(m.Body))
	}
	for range 20 {
		got.next(t)
	}
	st := s.Stats()[0]
	if st.Video.Codec != "h264" || st.Video.Width != 1920 || st.Audio.Channels != 2 || st.Video.Units != 11 || st.Video.Last != begin+400*time.Millisecond {
		t.Errorf("stats %+v", st)
	}
	// A fault of that client which the server has to see through.
	if st.ExtendedFaults == 0 {
		t.Error("the zero extended timestamps went unnoticed")
	}
}

// TestServerWithFFmpeg receives from ffmpeg and records what ffmpeg can decode.
func TestServerWithFFmpeg(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	s := &Server{RecordDir: t.TempDir()}
	got := newCollector(s)
	addr := serve(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, peers.Find(t, "ffmpeg"), "-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25",
		"-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", "2", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast",
		"-profile:v", "main", "-bf", "2", "-g", "25", "-ac", "2", "-c:a", "aac", "-f", "flv", "rtmp://"+addr+"/live/key")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg: %v\n%s", err, out)
	}
	if err := <-got.ends; err != nil {
		t.Errorf("end: %v", err)
	}
	st := s.Stats()[0]
	v, a := st.Video, st.Audio
	if v.Codec != "h264" || v.Profile != "Main" || v.Width != 320 || v.Height != 240 || v.Units != 50 || v.Keyframes != 2 || v.SequenceHeaders != 1 || !v.BFrames || v.Backward != 0 {
		t.Errorf("video %+v", v)
	}
	if a.Codec != "aac" || a.Profile != "LC" || a.SampleRateHz != 48000 || a.Channels != 2 || a.Units < 90 || a.Backward != 0 {
		t.Errorf("audio %+v", a)
	}
	if filepath.Dir(st.Recording) != s.RecordDir || strings.Contains(st.Recording, "key") {
		t.Errorf("recording %s", st.Recording)
	}
	packets := peers.Packets(t, st.Recording)
	if n := peers.Count(packets, "video"); n != 50 {
		t.Errorf("%d pictures recorded", n)
	}
	if err := errors.Join(peers.CheckMonotonic(packets), peers.CheckDecodes(t, st.Recording)); err != nil {
		t.Error(err)
	}
}

// FuzzServer gives a server what a hostile client may send after the handshake.
func FuzzServer(f *testing.F) {
	var b bytes.Buffer
	w := newChunkWriter(&b, nil)
	_ = w.command(3, 0, "connect", 1, connectObject("live", "rtmp://h/live"))
	_ = w.command(3, 0, "createStream", 2, nil)
	_ = w.command(4, 1, "publish", 3, nil, "key", "live")
	_ = w.write(6, TypeVideo, 1, 0, []byte{0x17, 0, 0, 0, 0}, avcC())
	_ = w.userControl(eventPingRequest, 1)
	_ = w.command(3, 0, "deleteStream", 4, nil, 1.0)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, input []byte) {
		s := &Server{MaxMessageBytes: 1 << 20}
		c := &serverConn{server: s, raw: discardConn{}, conn: discardConn{}, opened: func() {}}
		c.writer = newChunkWriter(c, nil)
		c.reader = newChunkReader(bufio.NewReader(bytes.NewReader(input)), s.MaxMessageBytes)
		for {
			m, err := c.reader.next()
			if err == nil {
				err = c.handle(m)
			}
			if err != nil {
				break
			}
		}
		if c.publication != nil {
			s.end(c.publication, nil)
		}
		if n := len(s.active); n != 0 {
			t.Errorf("%d publications are left", n)
		}
	})
}

// A discardConn is a connection that takes everything and says nothing.
type discardConn struct{}

func (discardConn) Read([]byte) (int, error)         { return 0, io.EOF }
func (discardConn) Write(b []byte) (int, error)      { return len(b), nil }
func (discardConn) Close() error                     { return nil }
func (discardConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (discardConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (discardConn) SetDeadline(time.Time) error      { return nil }
func (discardConn) SetReadDeadline(time.Time) error  { return nil }
func (discardConn) SetWriteDeadline(time.Time) error { return nil }
