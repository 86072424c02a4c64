package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// RTMPS: with the right authority the stream arrives; with another one, or for
// another host name, nothing is sent and the API says why.
func TestRTMPS(t *testing.T) {
	peers.Need(t, "nginx", "stunnel", "ffmpeg", "ffprobe")
	cdn := peers.StartNginx(t)
	ca, other := peers.NewCA(t), peers.NewCA(t)
	cert, key := ca.Issue(t, "localhost", "127.0.0.1")
	addr, _ := peers.StartStunnel(t, cert, key, cdn.RTMPAddr)
	cert, key = ca.Issue(t, "elsewhere.example")
	elsewhere, _ := peers.StartStunnel(t, cert, key, cdn.RTMPAddr)
	port := addr[strings.LastIndexByte(addr, ':'):]
	g := startGateway(t, route("studio",
		fmt.Sprintf(`right: {url: "rtmps://localhost%s/a/right", ca: "%s"}`, port, ca.File),
		fmt.Sprintf(`wrong: {url: "rtmps://localhost%s/b/wrong", ca: "%s"}`, port, other.File),
		fmt.Sprintf(`system: {url: "rtmps://localhost%s/b/system"}`, port),
		fmt.Sprintf(`host: {url: "rtmps://%s/b/host", ca: "%s"}`, elsewhere, ca.File)))
	p := g.publish(t, "studio")
	cdn.WaitPublisher(t, 30*time.Second, "a", "right")
	record(t, cdn, "a", "right", 5*time.Second)
	for _, name := range []string{"wrong", "system", "host"} {
		var got status.Target
		peers.Wait(t, 30*time.Second, "target "+name+" to be refused", func() error {
			var err error
			if got, err = g.target("studio", name); err == nil && (got.LastError == nil || got.State == status.TargetLive) {
				err = fmt.Errorf("it is %s with error %+v", got.State, got.LastError)
			}
			return err
		})
		if m := strings.ToLower(got.LastError.Message); !strings.Contains(m, "certificate") {
			t.Errorf("target %s: last error %q does not speak of the certificate", name, got.LastError.Message)
		}
		if got.BytesSent > 0 {
			t.Errorf("target %s: %d bytes sent", name, got.BytesSent)
		}
	}
	if code := p.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("the publisher ended with %d", code)
	}
	waitUnpublished(t, 30*time.Second, cdn, "a", "right")
	if err := checkUnbroken(checkRecording(t, oneRecording(t, cdn, "a"))); err != nil {
		t.Error(err)
	}
	if files := cdn.Recordings(t, "b"); len(files) != 0 {
		t.Errorf("without a trusted certificate the stream was sent: %q", files)
	}
}

// One target is down from the start, one stops reading for 10 s: the third loses
// nothing. Both come back by themselves at a key frame.
func TestBadTargetsHurtNobody(t *testing.T) {
	peers.Need(t, "nginx", "ffmpeg", "ffprobe")
	healthy, stalled, down := peers.StartNginx(t), peers.StartNginx(t), peers.NewNginx(t)
	g := startGateway(t, route("studio",
		fmt.Sprintf(`healthy: {url: "%s"}`, healthy.URL("a", "x")),
		fmt.Sprintf(`stalled: {url: "%s"}`, stalled.URL("a", "x")),
		fmt.Sprintf(`down: {url: "%s"}`, down.URL("a", "x"))))
	p := g.publish(t, "studio")
	healthy.WaitPublisher(t, 30*time.Second, "a", "x")
	stalled.WaitPublisher(t, 30*time.Second, "a", "x")
	g.waitTarget(t, 30*time.Second, "studio", "down", status.TargetWaiting)
	record(t, healthy, "a", "x", 3*time.Second)

	stalled.Pause(t)
	record(t, healthy, "a", "x", 10*time.Second)
	got, err := g.target("studio", "stalled")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("stalled for 10 s: %+v", got)
	// At a bit rate that fits into the sockets' buffers a stall may pass unseen;
	// what counts is that its lag stays bounded.
	if got.LagSeconds > 4 {
		t.Errorf("the stalled target lags by %.1f s", got.LagSeconds)
	}
	stalled.Resume(t)
	down.Start(t)
	stalled.WaitPublisher(t, 30*time.Second, "a", "x")
	down.WaitPublisher(t, 30*time.Second, "a", "x")
	g.waitTarget(t, 30*time.Second, "studio", "stalled", status.TargetLive)
	g.waitTarget(t, 30*time.Second, "studio", "down", status.TargetLive)
	record(t, stalled, "a", "x", 3*time.Second)
	record(t, down, "a", "x", 3*time.Second)
	if err := p.healthy(); err != nil {
		t.Error(err)
	}
	if code := p.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("the publisher ended with %d", code)
	}
	for _, n := range []*peers.Nginx{healthy, stalled, down} {
		waitUnpublished(t, 30*time.Second, n, "a", "x")
	}
	if err := checkUnbroken(checkRecording(t, oneRecording(t, healthy, "a"))); err != nil {
		t.Errorf("healthy target: %v", err)
	}
	for _, n := range []*peers.Nginx{stalled, down} {
		for _, file := range n.Recordings(t, "a") {
			checkRecording(t, file)
		}
	}
}

// A target that cannot go on reading loses whole groups of pictures, at a bound,
// and what it gets decodes.
func TestStalledTargetDropsToKeyframes(t *testing.T) {
	peers.Need(t, "nginx", "ffmpeg", "ffprobe")
	cdn := peers.StartNginx(t)
	g := startGateway(t, route("studio", fmt.Sprintf(`stalled: {url: "%s", max_lag: 1s}`, cdn.URL("a", "x"))))
	p := g.publish(t, "studio")
	cdn.WaitPublisher(t, 30*time.Second, "a", "x")
	record(t, cdn, "a", "x", 2*time.Second)
	cdn.Pause(t)
	peers.Wait(t, 60*time.Second, "units dropped for the stalled target", func() error {
		s, err := g.target("studio", "stalled")
		if err == nil && len(s.UnitsDropped) == 0 && s.Attempt < 2 {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	cdn.Resume(t)
	cdn.WaitPublisher(t, 30*time.Second, "a", "x")
	g.waitTarget(t, 30*time.Second, "studio", "stalled", status.TargetLive)
	record(t, cdn, "a", "x", 3*time.Second)
	if err := p.healthy(); err != nil {
		t.Error(err)
	}
	_ = p.Interrupt(t, 30*time.Second)
	waitUnpublished(t, 30*time.Second, cdn, "a", "x")
	for _, file := range cdn.Recordings(t, "a") {
		checkRecording(t, file)
	}
}

// An application that does not exist, and a server that closes: the API says
// whose fault it is, and the target comes back when it can.
func TestRefusedAndDroppedTarget(t *testing.T) {
	peers.Need(t, "nginx", "ffmpeg", "ffprobe")
	cdn := peers.StartNginx(t)
	g := startGateway(t, route("studio",
		fmt.Sprintf(`good: {url: "%s"}`, cdn.URL("a", "x")),
		fmt.Sprintf(`refused: {url: "%s"}`, cdn.URL("nothing", "x"))))
	p := g.publish(t, "studio")
	before, _ := cdn.WaitPublisher(t, 30*time.Second, "a", "x")
	peers.Wait(t, 30*time.Second, "the refusal of target refused", func() error {
		got, err := g.target("studio", "refused")
		if err == nil && (got.LastError == nil || got.LastError.Cause == "gateway" || got.State == status.TargetLive) {
			err = fmt.Errorf("state %s, error %+v", got.State, got.LastError)
		}
		return err
	})
	record(t, cdn, "a", "x", 2*time.Second) // what is cut off must hold sound, too
	if err := cdn.DropPublisher("a", "x"); err != nil {
		t.Fatal(err)
	}
	peers.Wait(t, 30*time.Second, "a new connection after the server's drop", func() error {
		c, _, err := cdn.Publisher("a", "x")
		if err == nil && c.ID == before.ID {
			err = fmt.Errorf("still connection %d", c.ID)
		}
		return err
	})
	record(t, cdn, "a", "x", 2*time.Second)
	if err := p.healthy(); err != nil {
		t.Error(err)
	}
	_ = p.Interrupt(t, 30*time.Second)
	waitUnpublished(t, 30*time.Second, cdn, "a", "x")
	for _, file := range cdn.Recordings(t, "a") {
		checkRecording(t, file)
	}
}
