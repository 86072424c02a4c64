package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// Targets that need sound, by their service or by their settings, get silence of a
// publisher who sends none, beside every picture of his; the sound of one who takes
// over follows it on the same connection.
func TestSilenceForTargetsThatNeedSound(t *testing.T) {
	peers.Need(t, "nginx", "ffmpeg", "ffprobe")
	video := filepath.Join(t.TempDir(), "mute.h264")
	peers.FFmpeg(t, "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30:duration=20", "-c:v", "libx264", "-preset", "ultrafast", "-profile:v", "baseline",
		"-g", "60", "-keyint_min", "60", "-sc_threshold", "0", "-f", "h264", video)
	audio := filepath.Join(t.TempDir(), "tone.ogg")
	peers.FFmpeg(t, "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=20", "-ac", "2", "-c:a", "libopus", "-frame_duration", "20", "-page_duration", "20000", audio)
	cdn := peers.StartNginx(t)
	g := startGateway(t, route("studio",
		fmt.Sprintf(`service: {preset: facebook, url: "rtmp://%s/a", key: x}`, cdn.RTMPAddr),
		fmt.Sprintf(`own: {url: "rtmp://%s/b", key: x, audio: {codec: aac}}`, cdn.RTMPAddr)))
	mute := g.publish(t, "studio", "-video", video)
	cdn.WaitPublisher(t, 30*time.Second, "a", "x")
	cdn.WaitPublisher(t, 30*time.Second, "b", "x")
	record(t, cdn, "a", "x", 6*time.Second)

	s, err := g.stream("studio")
	if err != nil {
		t.Fatal(err)
	}
	silent, original := 0, uint32(0)
	for _, tr := range s.Tracks {
		if tr.Silent {
			silent++
			if tr.Codec != "aac" || tr.Channels != 2 || tr.DerivedFrom != original || tr.Values["silent_seconds_total"] < 3 {
				t.Errorf("track %+v of %+v", tr, s.Tracks)
			}
		} else {
			original = tr.ID
		}
	}
	if silent != 1 || len(s.Tracks) != 2 {
		t.Errorf("tracks %+v: want one of silence for both targets, beside the picture", s.Tracks)
	}
	for _, target := range s.Targets {
		if target.State != status.TargetLive || target.AudioBPS == 0 {
			t.Errorf("target %+v", target)
		}
		for _, w := range target.Warnings {
			if w.Kind == "no_audio" {
				t.Errorf("%s: %s", target.Name, w.Finding)
			}
		}
	}

	sounding := g.publish(t, "studio", "-video", video, "-audio", audio)
	peers.Wait(t, 30*time.Second, "the sound of the second publisher", func() error {
		s, err := g.stream("studio")
		if err != nil {
			return err
		}
		aac := 0
		for _, tr := range s.Tracks {
			if tr.Silent {
				return fmt.Errorf("there is silence still: %+v", s.Tracks)
			}
			if tr.DerivedFrom != 0 && tr.Codec == "aac" {
				aac++
			}
		}
		if aac != 1 {
			return fmt.Errorf("tracks %+v", s.Tracks)
		}
		return nil
	})
	record(t, cdn, "a", "x", 5*time.Second)
	if code := sounding.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("the publisher ended with %d", code)
	}
	_ = mute.Interrupt(t, 30*time.Second) // it was told that it is superseded
	waitUnpublished(t, 30*time.Second, cdn, "a", "x")
	waitUnpublished(t, 30*time.Second, cdn, "b", "x")

	for _, app := range []string{"a", "b"} {
		file := oneRecording(t, cdn, app)
		packets := checkRecording(t, file)
		if v, a := length(packets, "video"), length(packets, "audio"); (v-a).Abs() > 150*time.Millisecond || v < 10*time.Second {
			t.Errorf("%s: %v of picture and %v of sound", file, v, a)
		}
		// Between the publishers there may be neither.
		dark, _ := peers.LargestGap(packets, "video")
		if gap, at := peers.LargestGap(packets, "audio"); gap > dark+200*time.Millisecond {
			t.Errorf("%s: no sound for %v at %v, no picture for %v", file, gap, at, dark)
		}
		part := func(name string, args ...string) string {
			out := filepath.Join(t.TempDir(), name)
			peers.FFmpeg(t, append(append([]string{"-i", file}, args...), "-vn", "-c", "copy", out)...)
			return out
		}
		if v := peers.MeanVolume(t, part("head.flv", "-t", "4")); v > -80 {
			t.Errorf("%s: the silence is %.1f dB", file, v)
		}
		if v := peers.MeanVolume(t, part("tail.flv", "-ss", "9")); v < -40 {
			t.Errorf("%s: the sound after the silence is %.1f dB", file, v)
		}
	}
}

// The same over SRT: a publisher without sound, to a target that wants some.
func TestSilenceOverSRT(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	dir := t.TempDir()
	video, file := filepath.Join(dir, "mute.h264"), filepath.Join(dir, "out.ts")
	peers.FFmpeg(t, "-f", "lavfi", "-i", "testsrc2=size=160x90:rate=30:duration=20", "-c:v", "libx264", "-preset", "ultrafast", "-profile:v", "baseline",
		"-g", "30", "-keyint_min", "30", "-sc_threshold", "0", "-f", "h264", video)
	addr := peers.FreeAddr(t)
	receiver := peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{
		"-nostdin", "-v", "error", "-y", "-i", "srt://" + addr + "?mode=listener", "-map", "0", "-c", "copy", file}})
	g := startGateway(t, route("studio", fmt.Sprintf(`player: {url: "srt://%s", audio: {codec: aac}}`, addr)))
	mute := g.publish(t, "studio", "-video", video)
	g.waitTarget(t, 30*time.Second, "studio", "player", status.TargetLive)
	peers.Run(t, 5*time.Second)
	if code := mute.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("the publisher ended with %d", code)
	}
	receiver.ExitCode(t, 30*time.Second)
	packets := peers.Packets(t, file)
	if v, a := length(packets, "video"), length(packets, "audio"); (v-a).Abs() > 150*time.Millisecond || v < 3*time.Second {
		t.Errorf("%v of picture and %v of sound", v, a)
	}
	if gap, at := peers.LargestGap(packets, "audio"); gap > 200*time.Millisecond {
		t.Errorf("no sound for %v at %v", gap, at)
	}
	if err := peers.CheckDecodes(t, file); err != nil {
		t.Error(err)
	}
	if v := peers.MeanVolume(t, file); v > -80 {
		t.Errorf("the silence is %.1f dB", v)
	}
}
