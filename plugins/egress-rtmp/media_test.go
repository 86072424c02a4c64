package egressrtmp

import (
	"context"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/test/testcard"
)

func TestMain(m *testing.M) {
	if os.Getenv(receiverEnv) != "" {
		runReceiver()
		return
	}
	goleak.VerifyTestMain(m,
		// toxiproxy leaves these behind when it is stopped.
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).write"))
}

const (
	videoID = testcard.Video
	audioID = testcard.Audio
)

// testMedia is tracks and their units by decoding time.
type testMedia struct {
	tracks []media.Track
	units  []*media.AccessUnit
}

// load returns the card with units of the caller's own, later by offset.
func load(t testing.TB, offset time.Duration) testMedia {
	t.Helper()
	tracks, units := testcard.AAC(t)
	out := testMedia{tracks: slices.Clone(tracks)}
	for _, u := range units {
		u = u.Clone()
		u.PTS += offset
		u.DTS += offset
		out.units = append(out.units, u)
	}
	return out
}

// of returns the units of one track.
func (m testMedia) of(id media.TrackID) (units []*media.AccessUnit) {
	for _, u := range m.units {
		if u.Track == id {
			units = append(units, u)
		}
	}
	return units
}

// A receiver is a server that keeps what it is sent.
type receiver struct {
	*rtmp.Server
	addr     string
	messages chan rtmp.Message
	ends     chan error
}

// receive runs a receiver until the test ends.
func receive(t testing.TB, change ...func(*rtmp.Server)) *receiver {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{
		Server:   &rtmp.Server{Listener: listener},
		addr:     listener.Addr().String(),
		messages: make(chan rtmp.Message, 20000),
		ends:     make(chan error, 100),
	}
	r.OnMessage = func(_ *rtmp.Publish, m rtmp.Message, _ time.Time) { r.messages <- m }
	r.OnEnd = func(_ *rtmp.Publish, err error) { r.ends <- err }
	for _, f := range change {
		f(r.Server)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("receiver: %v", err)
		}
	})
	return r
}

// all returns what was received, once the publication is over.
func (r *receiver) all(t testing.TB) []rtmp.Message {
	t.Helper()
	select {
	case err := <-r.ends:
		if err != nil {
			t.Errorf("the publication ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the publication does not end")
	}
	return r.drained()
}

// drained returns what was received so far.
func (r *receiver) drained() (list []rtmp.Message) {
	for {
		select {
		case m := <-r.messages:
			list = append(list, m)
		default:
			return list
		}
	}
}

func target(url string) sdk.Target {
	return sdk.Target{Name: "target", Stream: "stream", URL: secret.New(url), Attempt: 1}
}

// open opens a sink.
func open(t testing.TB, url string, opts Options, tracks []media.Track) *sink {
	t.Helper()
	if opts.Interleave == "" {
		opts.Interleave = InterleaveLow
	}
	s, err := (&egress{}).open(t.Context(), target(url), opts, tracks)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	return s.(*sink)
}

func write(t testing.TB, s sdk.Sink, units ...*media.AccessUnit) {
	t.Helper()
	for _, u := range units {
		if err := s.WriteAccessUnit(t.Context(), u); err != nil {
			t.Fatalf("writing: %v", err)
		}
	}
}

func closeSink(t testing.TB, s sdk.Sink) {
	t.Helper()
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("closing: %v", err)
	}
}
