package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/internal/whipclient"
	"github.com/headgate/gateway/test/faultlab"
	"github.com/headgate/gateway/test/peers"
)

// A cdn is an RTMP receiver within the test, which records and keeps figures.
type cdn struct {
	*rtmp.Server
	addr     string
	pictures atomic.Int64

	mu    sync.Mutex // guards the field below
	units []arrival
}

// An arrival is when a picture or a piece of sound came that belongs to a time.
type arrival struct {
	publication uint64
	at          time.Time
	stamp       time.Duration // of its connection
	sound       bool
	frame       uint64 // of a picture, as its publisher counts; 0 if it says nothing
}

// arrivals are the units so far.
func (c *cdn) arrivals() []arrival {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.units)
}

// lag returns how much later than at its sibling any unit's last byte was acknowledged
// by the relay before c, whose marks are given. What the publisher and the machine are
// late by is late at both.
func (c *cdn) lag(t *testing.T, marks []faultlab.Mark, sibling *cdn) time.Duration {
	t.Helper()
	type unit struct {
		sound bool
		stamp time.Duration
	}
	there := map[unit]time.Time{}
	stamps := map[uint64]time.Duration{}
	for _, u := range sibling.arrivals() {
		there[unit{u.sound, u.stamp}] = u.at
		stamps[u.frame] = u.stamp
	}
	units := c.arrivals()
	// Each connection begins its time at 0; a picture that both have says how far apart
	// these are.
	first := slices.IndexFunc(units, func(u arrival) bool { return u.frame > 0 && stamps[u.frame] > 0 })
	if first < 0 {
		t.Fatal("the target and its sibling have no picture in common")
	}
	apart := stamps[units[first].frame] - units[first].stamp
	var worst time.Duration
	found := 0
	for _, u := range units {
		// How far the relay had read when the unit was whole, and when that arrived.
		n, _ := slices.BinarySearchFunc(marks, u.at, func(m faultlab.Mark, at time.Time) int { return m.At.Compare(at) })
		read := marks[max(n-1, 0)].Read
		n, _ = slices.BinarySearchFunc(marks, read, func(m faultlab.Mark, read int64) int { return cmp.Compare(m.Arrived, read) })
		arrived := marks[min(n, len(marks)-1)].At
		for rounded := -time.Millisecond; rounded <= time.Millisecond; rounded += time.Millisecond {
			if at, ok := there[unit{u.sound, u.stamp + apart + rounded}]; ok {
				worst = max(worst, arrived.Sub(at))
				found++
				break
			}
		}
	}
	if found < len(units)*9/10 {
		t.Errorf("of %d units of the target its sibling has only %d", len(units), found)
	}
	return worst
}

func startCDN(t *testing.T) *cdn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cdn{Server: &rtmp.Server{Listener: l, RecordDir: t.TempDir()}, addr: l.Addr().String()}
	c.OnMessage = func(p *rtmp.Publish, m rtmp.Message, at time.Time) {
		if m.Type == rtmp.TypeVideo {
			c.pictures.Add(1)
		}
		if len(m.Body) < 2 || m.Body[1] != 1 || m.Type != rtmp.TypeVideo && m.Type != rtmp.TypeAudio {
			return // a decoder config, or something else
		}
		timing, _ := whipclient.FindTiming(m.Body)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.units = append(c.units, arrival{p.ID, at, time.Duration(m.TimestampMS) * time.Millisecond, m.Type == rtmp.TypeAudio, timing.Frame})
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

// stream returns the figures of the newest publication.
func (c *cdn) stream(t *testing.T) rtmp.StreamStats {
	t.Helper()
	all := c.Stats()
	if len(all) == 0 {
		t.Fatal("nothing was published")
	}
	return all[len(all)-1]
}

// live waits until a publication brings pictures.
func (c *cdn) live(t *testing.T) {
	t.Helper()
	peers.Wait(t, 30*time.Second, "pictures at a receiver", func() error {
		if c.pictures.Load() == 0 {
			return errors.New("none came")
		}
		return nil
	})
}

// unbroken checks that a stream of the test card that was never hindered lost nothing,
// in the one publication that it had.
func (c *cdn) unbroken(t *testing.T, name string) {
	t.Helper()
	all := c.Stats()
	if len(all) != 1 {
		t.Errorf("%s: %d publications", name, len(all))
	}
	checkComplete(t, name, all[len(all)-1])
}

// checkComplete checks that every picture and sound of the test card came, from the
// first to the last one.
func checkComplete(t *testing.T, name string, st rtmp.StreamStats) {
	t.Helper()
	missing := func(track rtmp.TrackStats, step time.Duration) bool {
		want := int((track.Last-track.First)/step) + 1
		return track.MaxGap > 2*step-step/4 || int(track.Units) < want-1
	}
	if missing(st.Video, time.Second/30) || missing(st.Audio, 1024*time.Second/48000) ||
		st.Video.Backward+st.Audio.Backward+st.Video.UnitsBeforeHeader+st.Audio.UnitsBeforeHeader+st.Malformed+st.ExtendedFaults > 0 {
		t.Errorf("%s: %+v", name, st)
	}
}

// TestSlowReader: a target that reads at 60 % of the stream's rate lags behind its
// sibling, measured where its bytes arrive, by no more than max_lag and half a second;
// every part of what it got decodes, and its sibling loses nothing.
func TestSlowReader(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	slow, healthy := startCDN(t), startCDN(t)
	// A kernel opens the window of a full buffer only when much of it is empty: a larger
	// one would take in bursts of half a second.
	relay, err := faultlab.NewTCP(slow.addr, 0, 8192)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = relay.Close() }()
	const maxLag = 2 * time.Second
	g := startPlainGateway(t, route("studio",
		fmt.Sprintf(`slow: {url: "rtmp://%s/live/x", max_lag: %v}`, relay.Addr(), maxLag),
		fmt.Sprintf(`healthy: {url: "rtmp://%s/live/x"}`, healthy.addr)))
	p := g.publish(t, "studio", "-timing")
	slow.live(t)
	healthy.live(t)
	// The rate of the stream, over whole groups of pictures.
	before := healthy.stream(t)
	peers.Wait(t, 30*time.Second, "4 s of media", func() error {
		if d := healthy.stream(t).Video.Last - before.Video.Last; d < 4*time.Second {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
	after := healthy.stream(t)
	rate := float64(after.Bytes-before.Bytes) / (after.Video.Last - before.Video.Last).Seconds()
	relay.SetRate(int(0.6 * rate))
	peers.Wait(t, 60*time.Second, "15 s more", func() error {
		if d := healthy.stream(t).Video.Last - after.Video.Last; d < 15*time.Second {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
	worst := slow.lag(t, relay.Marks(), healthy)
	got, err := g.target("studio", "slow")
	if err != nil {
		t.Fatal(err)
	}
	// While the relay did not run it read nothing: that is the machine's.
	limit := maxLag + 500*time.Millisecond + relay.Stalled()
	t.Logf("%.0f kb/s read at 60 %%: lag %v at most, stalled for %v, %+v", rate*8/1000, worst, relay.Stalled(), got.UnitsDropped)
	if worst > limit {
		t.Errorf("the lag at the receiver was %v, more than %v", worst, limit)
	}
	if got.State != status.TargetLive || got.UnitsDropped["lag"]+got.UnitsDropped["disposable"] == 0 && len(got.UnitsDropped) == 0 {
		t.Errorf("%+v", got)
	}
	if len(slow.Stats()) != 1 {
		t.Errorf("%d publications, want 1: it is slow, not gone", len(slow.Stats()))
	}
	relay.SetRate(0)
	if err := p.healthy(); err != nil {
		t.Error(err)
	}
	_ = p.Interrupt(t, 30*time.Second)
	waitEnded(t, slow, healthy)
	healthy.unbroken(t, "the sibling")
	for _, file := range recordings(t, slow, healthy) {
		if err := peers.CheckDecodes(t, file); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// waitEnded waits until no publication is under way.
func waitEnded(t *testing.T, all ...*cdn) {
	t.Helper()
	peers.Wait(t, 60*time.Second, "the publications to end", func() error {
		for _, c := range all {
			for _, st := range c.Stats() {
				if st.Ended.IsZero() {
					return fmt.Errorf("#%d is under way", st.ID)
				}
			}
		}
		return nil
	})
}

func recordings(t *testing.T, all ...*cdn) (files []string) {
	t.Helper()
	for _, c := range all {
		list, err := filepath.Glob(filepath.Join(c.RecordDir, "*.flv"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, list...)
	}
	return files
}

// TestFiftyTargets: fifty targets of one stream get all of it.
func TestFiftyTargets(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	c := startCDN(t)
	var lines []string
	const targets = 50
	for i := range targets {
		lines = append(lines, fmt.Sprintf(`t%d: {url: "rtmp://%s/live/key%d"}`, i, c.addr, i))
	}
	g := startPlainGateway(t, route("studio", lines...))
	p := g.publish(t, "studio", "-timing")
	peers.Wait(t, 60*time.Second, "6 s at fifty targets", func() error {
		all := c.Stats()
		if len(all) != targets {
			return fmt.Errorf("%d publications", len(all))
		}
		for _, st := range all {
			if d := st.Video.Last - st.Video.First; d < 6*time.Second {
				return fmt.Errorf("#%d has %v", st.ID, d)
			}
		}
		return nil
	})
	s, err := g.stream("studio")
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range s.Targets {
		if target.State != status.TargetLive || len(target.UnitsDropped) > 0 || target.Attempt != 1 {
			t.Errorf("%+v", target)
		}
	}
	_ = p.Interrupt(t, 30*time.Second)
	waitEnded(t, c)
	last := map[uint64]uint64{} // picture of each publication
	for _, u := range c.arrivals() {
		last[u.publication] = max(last[u.publication], u.frame)
	}
	all := c.Stats()
	for _, st := range all {
		checkComplete(t, fmt.Sprintf("#%d", st.ID), st)
		if st.EndedBy != "" {
			t.Errorf("#%d ended by %s", st.ID, st.EndedBy)
		}
		if end := last[st.ID]; end != last[all[0].ID] {
			t.Errorf("#%d ends with picture %d, another one with %d", st.ID, end, last[all[0].ID])
		}
	}
}

// TestStoppedAndVanished: a target that is stopped for 12 s, and one whose host is
// gone for 12 s, have pictures again within 3 s of living.
func TestStoppedAndVanished(t *testing.T) {
	away := newNetwork(t)
	sinks := []*peers.Process{
		startBinaryWith(t, peers.Command{Path: filepath.Join(bin, "gateway-plain"), Args: []string{"sink", "rtmp", "--listen", "127.0.0.1:0"}}),
		startBinaryWith(t, peers.Command{Path: "ip", Args: []string{"netns", "exec", away.name, filepath.Join(bin, "gateway-plain"), "sink", "rtmp", "--listen", away.there + ":0"}}),
	}
	var addrs []string
	for _, s := range sinks {
		addrs = append(addrs, s.Match(t, 30*time.Second, `Receiving at rtmp://([0-9.:]+),`)[1])
	}
	g := startPlainGateway(t, route("studio",
		fmt.Sprintf(`stopped: {url: "rtmp://%s/live/x"}`, addrs[0]),
		fmt.Sprintf(`vanished: {url: "rtmp://%s/live/x"}`, addrs[1])))
	p := g.publish(t, "studio")
	for _, name := range []string{"stopped", "vanished"} {
		g.waitTarget(t, 30*time.Second, "studio", name, status.TargetLive)
	}
	noticed := func(name string, from time.Time) time.Duration {
		peers.Wait(t, 30*time.Second, name+" to be noticed", func() error {
			got, err := g.target("studio", name)
			if err == nil && got.State == status.TargetLive {
				err = errors.New("it is said to be live")
			}
			return err
		})
		return time.Since(from)
	}
	pictures := func(i int) int {
		return strings.Count(sinks[i].Output(), " live: video h264")
	}
	outage := func(i int, name string, begin, end func()) {
		begin()
		start := time.Now()
		if i == 1 { // a kernel that lives takes a while to be full
			t.Logf("%s: noticed after %v", name, noticed(name, start).Round(10*time.Millisecond))
		}
		peers.Wait(t, 30*time.Second, "12 s", func() error {
			if d := time.Since(start); d < 12*time.Second {
				return fmt.Errorf("%v", d)
			}
			return nil
		})
		seen := pictures(i)
		end()
		lives := time.Now()
		peers.Wait(t, 30*time.Second, "pictures at "+name, func() error {
			if pictures(i) <= seen {
				return errors.New("none")
			}
			return nil
		})
		// The sink says each second what came in it; when the first picture was there
		// the gateway knows.
		var d time.Duration
		peers.Wait(t, 30*time.Second, name+" to be live", func() error {
			got, err := g.target("studio", name)
			if d = got.Since.Sub(lives); err == nil && (got.State != status.TargetLive || d < 0) {
				err = fmt.Errorf("%s since %v", got.State, d)
			}
			return err
		})
		t.Logf("%s: pictures %v after it lives again", name, d.Round(10*time.Millisecond))
		if d > 3*time.Second {
			t.Errorf("%s: pictures only after %v", name, d)
		}
	}
	outage(0, "stopped", func() { must(t, sinks[0].Signal(syscall.SIGSTOP)) }, func() { must(t, sinks[0].Signal(syscall.SIGCONT)) })
	outage(1, "vanished", func() { away.down(t) }, func() { away.up(t) })
	if err := p.healthy(); err != nil {
		t.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A network is a namespace joined to ours by a pair of interfaces, which can be cut.
type network struct{ name, here, there, link string }

func newNetwork(t *testing.T) *network {
	t.Helper()
	peers.Need(t, "ip")
	if os.Geteuid() != 0 {
		if os.Getenv("HEADGATE_TEST_PEERS") == "required" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	id := os.Getpid() % 60000
	n := &network{
		name: fmt.Sprintf("hg%d", id), link: fmt.Sprintf("hg%d", id),
		here: fmt.Sprintf("198.18.%d.%d", id/250, id%250+1), there: fmt.Sprintf("198.19.%d.%d", id/250, id%250+1),
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	run("netns", "add", n.name)
	t.Cleanup(func() {
		// With the namespace alone the link goes some time later, in the way of the next.
		_ = exec.Command("ip", "link", "del", n.link).Run()
		_ = exec.Command("ip", "netns", "del", n.name).Run()
	})
	run("link", "add", n.link, "type", "veth", "peer", "name", "eth0", "netns", n.name)
	run("addr", "add", n.here, "peer", n.there, "dev", n.link)
	run("link", "set", n.link, "up")
	run("-n", n.name, "addr", "add", n.there, "peer", n.here, "dev", "eth0")
	run("-n", n.name, "link", "set", "eth0", "up")
	run("-n", n.name, "link", "set", "lo", "up")
	return n
}

// down cuts the host off without a word: what is sent to it is lost.
func (n *network) down(t *testing.T) { n.set(t, "down") }
func (n *network) up(t *testing.T)   { n.set(t, "up") }

func (n *network) set(t *testing.T, to string) {
	t.Helper()
	// The far end is cut, so that ours goes on sending as to a host that is gone.
	if out, err := exec.Command("ip", "-n", n.name, "link", "set", "eth0", to).CombinedOutput(); err != nil {
		t.Fatalf("ip link set: %v: %s", err, out)
	}
}
