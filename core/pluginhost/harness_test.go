package pluginhost

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// patience bounds every wait of these tests; none of them gets near it.
const patience = 20 * time.Second

// spec starts this test binary as a plugin.
func spec(mode string) Spec {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Spec{Name: "test", Command: []string{exe, "plugin", mode}, Info: sdk.Describe(testPlugin())}
}

// runDirBase returns a directory whose path is short enough for sockets.
func runDirBase(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) > 0 {
			t.Errorf("left in the run directory: %v, %v", entries, err)
		}
		_ = os.RemoveAll(dir)
	})
	return dir
}

// start runs a host until the test ends.
func start(t *testing.T, s Spec, offers Offers, opts ...Option) *Host {
	t.Helper()
	h, stop := startHost(t, s, offers, opts...)
	t.Cleanup(stop)
	return h
}

func startHost(t *testing.T, s Spec, offers Offers, opts ...Option) (*Host, func()) {
	t.Helper()
	log := &lines{}
	opts = append([]Option{WithRunDir(runDirBase(t)), WithVersion("9.9.9")}, opts...)
	h := New([]Spec{s}, offers, slog.New(slog.NewTextHandler(log, nil)), opts...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	return h, sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the host does not stop")
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
}

func withTimings(f func(*timings)) Option { return func(h *Host) { f(&h.timings) } }

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// recorder is a SessionHandler that keeps what it hears.
type recorder struct {
	ready chan Accepts
	ended chan End

	mu       sync.Mutex
	tracks   [][]media.Track
	units    []*media.AccessUnit
	credited int
	stats    []Stats
	keys     int
	over     bool
}

func record() *recorder {
	return &recorder{ready: make(chan Accepts, 1), ended: make(chan End, 1)}
}

func (r *recorder) do(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		panic("called after Ended")
	}
	f()
}

func (r *recorder) Ready(a Accepts)          { r.ready <- a }
func (r *recorder) Tracks(t []media.Track)   { r.do(func() { r.tracks = append(r.tracks, t) }) }
func (r *recorder) Unit(u *media.AccessUnit) { r.do(func() { r.units = append(r.units, u) }) }
func (r *recorder) Credited(n int)           { r.do(func() { r.credited += n }) }
func (r *recorder) Keyframe(media.TrackID)   { r.do(func() { r.keys++ }) }
func (r *recorder) Stats(s Stats)            { r.do(func() { r.stats = append(r.stats, s) }) }
func (r *recorder) Ended(e End)              { r.do(func() { r.over = true }); r.ended <- e }

func (r *recorder) unitCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.units)
}

func (r *recorder) creditedBytes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.credited
}

// value returns a figure of the newest stats.
func (r *recorder) value(name string) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.stats) == 0 {
		return 0
	}
	return r.stats[len(r.stats)-1].Values[name]
}

// queue is a Source.
type queue struct {
	mu     sync.Mutex
	items  []Item
	pulled int // bytes
}

func (q *queue) put(items ...Item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, items...)
}

func (q *queue) Pull(maxBytes int) []Item {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.items) {
		size := 0
		if u := q.items[n].Unit; u != nil {
			size = len(u.Payload)
		}
		if n > 0 && bytes+size > maxBytes {
			break
		}
		bytes += size
		n++
	}
	out := q.items[:n:n]
	q.items = q.items[n:]
	q.pulled += bytes
	return out
}

func (q *queue) pulledBytes() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pulled
}

// get receives from c within the test's patience.
func get[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// until waits for a condition.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

var twoTracks = []media.Track{
	{ID: 1, Codec: media.H264, DecoderConfig: []byte{1}, Width: 1280, Height: 720},
	{ID: 2, Codec: media.AAC, DecoderConfig: []byte{0x11, 0x90}, SampleRateHz: 48000, Channels: 2},
}

// open opens an egress session and waits until it is ready.
func open(t *testing.T, h *Host, verb string) (Session, *recorder, *queue) {
	t.Helper()
	r, q := record(), &queue{}
	s, err := h.OpenEgress("test", egressSpec(verb), r, q)
	if err != nil {
		t.Fatal(err)
	}
	get(t, r.ready)
	return s, r, q
}

func egressSpec(verb string) EgressSpec {
	return EgressSpec{
		StreamID: 1, Stream: "live", Target: "cdn", Attempt: 1, Tracks: twoTracks,
		URL: secret.New("test://" + verb), Key: secret.New("k3y-of-the-stream"),
	}
}

// units returns n units of size bytes.
func units(n, size int) []Item {
	items := make([]Item, n)
	for i := range items {
		items[i].Unit = &media.AccessUnit{
			Track: 1, Seq: uint32(i), DTS: time.Duration(i) * 33 * time.Millisecond, PTS: time.Duration(i) * 33 * time.Millisecond,
			RandomAccess: i%30 == 0, Received: time.Now(), Payload: make([]byte, size),
		}
	}
	return items
}
