package rtmp

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/test/peers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs s on a free port of the loopback until the test ends.
func serve(t testing.TB, s *Server) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Listener = listener
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return listener.Addr().String()
}

// dial publishes to url.
func dial(t testing.TB, url string, change ...func(*ClientConfig)) *Conn {
	t.Helper()
	cfg := ClientConfig{Target: parse(t, url, "")}
	for _, f := range change {
		f(&cfg)
	}
	c, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatalf("dialling: %v", err)
	}
	return c
}

func parse(t testing.TB, url, key string) Target {
	t.Helper()
	target, err := ParseTarget(secret.New(url), secret.New(key))
	if err != nil {
		t.Fatalf("parsing: %v", err)
	}
	return target
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	peers.Wait(t, 30*time.Second, what, func() error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	})
}

// seen is a message and when it came.
type seen struct {
	Message
	at time.Time
}

// collector keeps what a server receives.
type collector struct {
	messages chan seen
	ends     chan error
}

func newCollector(s *Server) *collector {
	c := &collector{messages: make(chan seen, 10000), ends: make(chan error, 100)}
	s.OnMessage = func(_ *Publish, m Message, at time.Time) { c.messages <- seen{m, at} }
	s.OnEnd = func(_ *Publish, err error) { c.ends <- err }
	return c
}

// next returns the next message.
func (c *collector) next(t testing.TB) seen {
	t.Helper()
	select {
	case m := <-c.messages:
		return m
	case <-time.After(30 * time.Second):
		t.Fatal("no message in 30 s")
		panic("unreachable")
	}
}

func TestPublish(t *testing.T) {
	s := &Server{}
	got := newCollector(s)
	addr := serve(t, s)
	c := dial(t, "rtmp://"+addr+"/live/key")
	payload := make([]byte, 3*ChunkSize+17)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	if err := c.WriteTag(Metadata{Video: &media.Track{Codec: media.H264, Width: 640, Height: 360}, Audio: []media.Track{{Codec: media.AAC}}}.Tag(), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteTag(H264Tag(payload, true, -40), 20_000_000); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteTag(AACTag([]byte{1, 2, 3}), 21); err != nil {
		t.Fatal(err)
	}
	if m := got.next(t); m.Type != TypeData {
		t.Errorf("first message has type %d", m.Type)
	}
	want := append([]byte{0x17, 1, 0xFF, 0xFF, 0xD8}, payload...)
	if m := got.next(t); m.Type != TypeVideo || m.TimestampMS != 20_000_000 || string(m.Body) != string(want) {
		t.Errorf("video: type %d, at %d, %d bytes", m.Type, m.TimestampMS, len(m.Body))
	}
	if m := got.next(t); m.Type != TypeAudio || m.TimestampMS != 21 || string(m.Body) != "\xAF\x01\x01\x02\x03" {
		t.Errorf("audio: %+v", m)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-got.ends; err != nil {
		t.Errorf("server's end: %v", err)
	}
	if err := c.WriteTag(AACTag(nil), 0); err == nil {
		t.Error("writing after Close succeeds")
	}
	var stage *StageError
	if _, err := Dial(t.Context(), ClientConfig{Target: parse(t, "rtmp://127.0.0.1:1/live/key", "")}); !errors.As(err, &stage) || stage.Stage != StageTCP {
		t.Errorf("dialling a closed port: %v", err)
	}
}
