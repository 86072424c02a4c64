package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// A publisher whose keyframes are 4.1 s apart, at a service that wants them every
// 2 s: the log, the API, the metrics and gateway top say so, with what to do; and the
// stream goes on.
func TestBeyondTheLimitsOfAService(t *testing.T) {
	peers.Need(t, "nginx", "ffmpeg", "ffprobe")
	video := filepath.Join(t.TempDir(), "long.h264")
	peers.FFmpeg(t, "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30:duration=25", "-c:v", "libx264", "-preset", "ultrafast", "-profile:v", "baseline",
		"-g", "123", "-keyint_min", "123", "-sc_threshold", "0", "-f", "h264", video)
	audio := filepath.Join(t.TempDir(), "tone.ogg")
	peers.FFmpeg(t, "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=25", "-ac", "2", "-c:a", "libopus", "-frame_duration", "20", "-page_duration", "20000", audio)
	cdn := peers.StartNginx(t)
	g := startGateway(t, route("studio",
		fmt.Sprintf(`twitch: {preset: twitch, url: "rtmp://%s/a", key: x}`, cdn.RTMPAddr),
		fmt.Sprintf(`facebook: {preset: facebook, url: "rtmp://%s/b", key: x}`, cdn.RTMPAddr),
		fmt.Sprintf(`own: {url: "rtmp://%s/b", key: y}`, cdn.RTMPAddr)))
	g.Match(t, 30*time.Second, "Facebook Live wants rtmps, and the URL is rtmp") // from the start, warns it
	p := g.publish(t, "studio", "-video", video, "-audio", audio, "-ignore-keyframe-requests")
	const long = "twitch: keyframe interval 4.1 s, limit 2 s"
	var got status.Target
	peers.Wait(t, 40*time.Second, long, func() error {
		var err error
		if got, err = g.target("studio", "twitch"); err != nil {
			return err
		}
		for _, w := range got.Warnings {
			if w.Kind == "keyframe_interval" && w.Finding == long && strings.Contains(w.Remedy, "2 s") {
				return nil
			}
		}
		return fmt.Errorf("%+v", got)
	})
	if got.State != status.TargetLive || got.Preset != "twitch" {
		t.Errorf("%+v", got)
	}
	if got.FrameRate < 20 || got.FrameRate > 45 || got.VideoBPS == 0 {
		t.Errorf("measured %.1f pictures per second, %d b/s", got.FrameRate, got.VideoBPS)
	}
	peers.Wait(t, 30*time.Second, "the warning in the metrics", func() error {
		_, text, err := get("http://" + g.admin + "/metrics")
		if err == nil && !strings.Contains(text, `gateway_target_warning{kind="keyframe_interval",stream="studio",target="twitch"} 1`) {
			err = errors.New("it is not there")
		}
		return err
	})
	g.Match(t, 30*time.Second, "beyond the limits of the service.*twitch: keyframe interval")
	top := startBinary(t, "top", "--admin", g.admin, "--once")
	if code := top.ExitCode(t, 30*time.Second); code != 0 || !strings.Contains(top.Output(), "twitch: keyframe interval 4.1 s, limit 2 s") {
		t.Errorf("exit code %d: %s", code, top.Output())
	}
	if other, err := g.target("studio", "own"); err != nil || len(other.Warnings) > 0 {
		t.Errorf("a target without limits is warned of: %+v %v", other, err)
	}
	if err := p.healthy(); err != nil {
		t.Error(err)
	}
	_ = p.Interrupt(t, 30*time.Second)
}
