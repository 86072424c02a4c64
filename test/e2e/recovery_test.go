package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/internal/whipclient"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/test/peers"
)

// A watcher is an RTMP server that looks at every picture: whether a decoder could
// go on with it, and when the first one of a connection came.
type watcher struct {
	addr string

	mu      sync.Mutex // guards the fields below
	conn    uint64     // the newest connection
	frame   uint64     // of its newest picture; 0: none yet
	config  bool       // it has sent a decoder config
	first   time.Time  // its first picture
	open    int        // connections
	faults  []string
	arrived int // pictures, of all connections
}

func watch(t *testing.T) *watcher {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{addr: l.Addr().String()}
	s := &rtmp.Server{
		Listener: l, OnMessage: w.message,
		OnPublish: func(*rtmp.Publish) { w.count(1) },
		OnEnd:     func(*rtmp.Publish, error) { w.count(-1) },
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return w
}

func (w *watcher) count(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open += n
}

// message checks one message. Of a video tag the first byte says whether the picture
// is a keyframe, the second whether it is a decoder config.
func (w *watcher) message(p *rtmp.Publish, m rtmp.Message, at time.Time) {
	if m.Type != rtmp.TypeVideo || len(m.Body) < 2 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.ID < w.conn {
		return // the rest of one whose process was killed
	}
	if p.ID > w.conn {
		w.conn, w.frame, w.config, w.first = p.ID, 0, false, time.Time{}
	}
	if m.Body[1] == 0 {
		w.config = true
		return
	}
	timing, found := whipclient.FindTiming(m.Body)
	key := m.Body[0]>>4 == 1
	switch {
	case !found:
		w.faults = append(w.faults, "a picture that nobody sent")
		return
	case !w.config:
		w.faults = append(w.faults, "a picture before the decoder config")
	case w.frame == 0 && !key:
		w.faults = append(w.faults, fmt.Sprintf("a connection that begins with picture %d, which is no keyframe", timing.Frame))
	case w.frame != 0 && timing.Frame != w.frame+1 && !key:
		w.faults = append(w.faults, fmt.Sprintf("picture %d after %d", timing.Frame, w.frame))
	}
	if w.frame == 0 {
		w.first = at
	}
	w.frame = timing.Frame
	w.arrived++
}

// since returns when the first picture came on a connection that is newer than conn.
func (w *watcher) since(conn uint64) (time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn <= conn || w.frame == 0 {
		return time.Time{}, errors.New("no picture on a new connection")
	}
	return w.first, nil
}

func (w *watcher) state() (conn uint64, pictures, open int, faults []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conn, w.arrived, w.open, w.faults
}

const (
	// recoveryMost of the recoveries take at most recoveryUsual, all recoveryLimit.
	recoveryMost  = 0.95
	recoveryUsual = time.Second
	recoveryLimit = 2 * time.Second
	// busyMachine is what a machine that also runs the race detector and a publisher
	// may take longer.
	busyMachine = 2
)

// kill -9 of the egress process again and again, at random moments: pictures are at
// its targets again soon, each new connection can be decoded from its first picture
// on, and neither the publisher, nor the target of another plugin, nor the machine
// has anything of it left. `make soak` sets SOAK_KILLS.
func TestEgressKilledAgainAndAgain(t *testing.T) {
	kills := 10
	if n, err := strconv.Atoi(os.Getenv("SOAK_KILLS")); err == nil {
		kills = n
	}
	other := filepath.Join(bin, "egress-file")
	code, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(code)
	disk := t.TempDir()
	targets := []*watcher{watch(t), watch(t)}
	g := startGatewayOf(t, "gateway-plain",
		fmt.Sprintf("  egress-file: {path: %q, sha256: %q, files: [%q]}\n", other, hex.EncodeToString(sum[:]), disk),
		route("studio",
			fmt.Sprintf(`first: {url: "rtmp://%s/live/x", interleave: low}`, targets[0].addr),
			fmt.Sprintf(`second: {url: "rtmp://%s/live/x"}`, targets[1].addr),
			fmt.Sprintf(`disk: {url: "file://%s"}`, disk)))
	card, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	p, err := whipclient.Publish(t.Context(), whipclient.Config{
		URL: g.whip("studio"), Token: secret.New(token), Length: clip.Duration, Timing: true,
		Video: &whipclient.Media{Track: card.Tracks[0], Units: card.Units(clip.VideoTrack)},
		Audio: &whipclient.Media{Track: card.Tracks[1], Units: card.Units(clip.AudioTrack)},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	published := make(chan error, 1)
	go func() { published <- p.Run(ctx) }()
	for _, w := range targets {
		peers.Wait(t, 30*time.Second, "pictures", func() error { _, err := w.since(0); return err })
	}
	undisturbed := g.waitTarget(t, 30*time.Second, "studio", "disk", status.TargetLive)
	before, processes := g.footprint(t), len(children(t, g.PID()))

	var took []time.Duration
	for i := range kills {
		peers.Run(t, killPause(i))
		var conns [2]uint64
		for k, w := range targets {
			conns[k], _, _, _ = w.state()
		}
		pid := g.plugin(t, "egress-rtmp")
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		for k, w := range targets {
			var first time.Time
			peers.Wait(t, 30*time.Second, fmt.Sprintf("pictures at target %d after kill %d", k, i), func() (err error) {
				first, err = w.since(conns[k])
				return err
			})
			took = append(took, first.Sub(killed))
		}
		if err := gone(pid); err != nil {
			t.Error(err)
		}
		select {
		case err := <-published:
			t.Fatalf("the publisher ended after kill %d: %v", i, err)
		default:
		}
	}
	slices.Sort(took)
	most := took[int(recoveryMost*float64(len(took)-1)+0.5)]
	t.Logf("%d kills: pictures again after %v (median), %v (p95), %v (max)", kills,
		took[len(took)/2].Round(time.Millisecond), most.Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	if most > busyMachine*recoveryUsual {
		t.Errorf("95 %% of the recoveries took up to %v, want %v", most, recoveryUsual)
	}
	if last := took[len(took)-1]; last > busyMachine*recoveryLimit {
		t.Errorf("a recovery took %v, want at most %v", last, recoveryLimit)
	}
	for k, w := range targets {
		if _, _, _, faults := w.state(); len(faults) > 0 {
			t.Errorf("target %d: %d pictures that a decoder cannot go on with: %q", k, len(faults), faults[:min(5, len(faults))])
		}
	}

	// The target of the other plugin has one session, and every picture.
	now, err := g.target("studio", "disk")
	if err != nil {
		t.Fatal(err)
	}
	if now.Attempt != undisturbed.Attempt || !now.Since.Equal(undisturbed.Since) || len(now.UnitsDropped) > 0 {
		t.Errorf("the target of another plugin was %+v, is %+v", undisturbed, now)
	}
	peers.Wait(t, 60*time.Second, "everything as before the kills", func() error {
		if n := len(children(t, g.PID())); n != processes {
			return fmt.Errorf("%d processes, were %d", n, processes)
		}
		for what, n := range g.footprint(t) {
			if n > before[what]+5 {
				return fmt.Errorf("%s: %d, were %d", what, n, before[what])
			}
		}
		for k, w := range targets {
			if _, _, open, _ := w.state(); open != 1 {
				return fmt.Errorf("target %d has %d connections", k, open)
			}
		}
		return nil
	})
	stop()
	if err := <-published; err != nil {
		t.Errorf("publishing: %v", err)
	}
	if err := p.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	g.waitTarget(t, 30*time.Second, "studio", "disk", status.TargetIdle)
	videos, err := filepath.Glob(filepath.Join(disk, "*.h264"))
	if err != nil || len(videos) != 1 {
		t.Fatalf("videos on disk %q, error %v", videos, err)
	}
	checkWhole(t, videos[0], p.Stats().VideoUnits)
}

// killPause is how long the process lives before kill i: mostly long enough to count
// as healthy, so that the next one comes at once, and a random part of a group of
// pictures; now and then only a moment, but no more often than five times a minute,
// which opens the circuit.
func killPause(i int) time.Duration {
	early := slices.Contains([]int{1, 2, 4, 5, 7}, i)
	if early || i > 12 && i%3 == 1 {
		return time.Duration(rand.Int64N(int64(2 * time.Second)))
	}
	return 10*time.Second + time.Duration(rand.Int64N(int64(2*time.Second)))
}

// checkWhole fails unless every picture from the first one in the file to the last
// one sent is there. One may be on its way when the publisher ends.
func checkWhole(t *testing.T, file string, sent uint64) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	for {
		timing, at, found := whipclient.NextTiming(b)
		if !found {
			break
		}
		b = b[at:]
		if last != 0 && timing.Frame != last+1 {
			t.Errorf("on disk picture %d follows %d", timing.Frame, last)
		}
		last = timing.Frame
	}
	if last+1 < sent {
		t.Errorf("on disk the last picture is %d of %d", last, sent)
	}
}
