package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// TestPublishersVanish: publishers by RTMP, RTSP and SRT whose host is gone without a word
// are let go within the times that the plugins' pages state, while their streams are held;
// and others take their places.
func TestPublishersVanish(t *testing.T) {
	peers.Need(t, "ffmpeg")
	away := newNetwork(t)
	sink := receive(t)
	file := filepath.Join(t.TempDir(), "in.mkv")
	peers.FFmpeg(t, "-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", "4",
		"-pix_fmt", "yuv420p", "-c:v", "libx264", "-g", "25", "-c:a", "aac", file)
	listen := map[string]string{}
	for _, protocol := range []string{"rtmp", "rtsp", "srt"} {
		listen[protocol] = fmt.Sprintf("%s:%d", away.here, peers.FreePort(t))
	}
	// A publication ends so long after its publisher is gone.
	within := map[string]time.Duration{"rtmp": 10 * time.Second, "rtsp": 5 * time.Second, "srt": 5 * time.Second}
	urls := map[string][]string{
		"rtmp": {"-c", "copy", "-f", "flv", "rtmp://" + listen["rtmp"] + "/rtmp?token=" + token},
		"rtsp": {"-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", "rtsp://" + listen["rtsp"] + "/rtsp?token=" + token},
		"srt":  {"-c", "copy", "-f", "mpegts", "srt://" + listen["srt"] + "?streamid=publish:srt?token=" + token},
	}
	var plugins, routes string
	for protocol, addr := range listen {
		plugins += fmt.Sprintf("  ingest-%s: {options: {listen: %q}}\n", protocol, addr)
		routes += route(protocol, fmt.Sprintf(`cdn: {url: "rtmp://%s/live/%s", interleave: low}`, sink.addr, protocol))
	}
	g := startGatewayWith(t, plugins, routes)
	publish := func(protocol string, by ...string) {
		args := slices.Concat(by, []string{peers.Find(t, "ffmpeg"), "-nostdin", "-v", "error", "-stream_loop", "-1", "-re", "-i", file}, urls[protocol])
		peers.Start(t, peers.Command{Name: "ffmpeg " + protocol, Path: args[0], Args: args[1:]})
	}
	for protocol := range urls {
		publish(protocol, peers.Find(t, "ip"), "netns", "exec", away.name)
	}
	for protocol := range urls {
		g.waitTarget(t, 30*time.Second, protocol, "cdn", status.TargetLive)
	}
	away.down(t)
	from := time.Now()
	for _, protocol := range []string{"srt", "rtsp", "rtmp"} {
		peers.Wait(t, within[protocol]+30*time.Second, "the publisher by "+protocol+" to be let go", func() error {
			s, err := g.stream(protocol)
			if err == nil && s.Publisher != nil {
				err = errors.New("it is still there")
			}
			return err
		})
		took := time.Since(from)
		t.Logf("%s: gone for the gateway after %v (at most %v)", protocol, took.Round(time.Millisecond), within[protocol])
		if took > within[protocol]+busyMachine*time.Second {
			t.Errorf("%s: it took %v", protocol, took)
		}
		g.waitTarget(t, 30*time.Second, protocol, "cdn", status.TargetWaiting)
	}
	for protocol := range urls {
		publish(protocol)
	}
	for protocol := range urls {
		g.waitTarget(t, 30*time.Second, protocol, "cdn", status.TargetLive)
	}
	if _, sessions := sink.since(time.Time{}); sessions != len(urls) {
		t.Errorf("the targets had %d sessions, want one each", sessions)
	}
}
