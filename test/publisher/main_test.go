package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/whipclient"
	"github.com/headgate/gateway/test/peers"
)

func TestLoadFiles(t *testing.T) {
	ffmpeg := peers.Find(t, "ffmpeg")
	dir := t.TempDir()
	video, audio := filepath.Join(dir, "v.h264"), filepath.Join(dir, "a.ogg")
	for _, args := range []string{
		"-f lavfi -i testsrc2=size=320x180:rate=30 -t 20.5 -pix_fmt yuv420p -c:v libx264 -profile:v baseline -tune zerolatency -g 30 -x264-params repeat-headers=1:sliced-threads=0:slices=1 -f h264 " + video,
		"-f lavfi -i sine=frequency=1000:sample_rate=48000 -t 20.5 -ac 2 -c:a libopus -frame_duration 20 -page_duration 20000 " + audio,
	} {
		if out, err := exec.Command(ffmpeg, append([]string{"-nostdin", "-v", "error"}, strings.Fields(args)...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	var cfg whipclient.Config
	if err := loadFiles(&cfg, video, audio); err != nil {
		t.Fatal(err)
	}
	if cfg.Length != 20*time.Second || len(cfg.Video.Units) != 600 || len(cfg.Audio.Units) != 1000 {
		t.Errorf("length %v, %d pictures, %d packets; want 20s, 600, 1000", cfg.Length, len(cfg.Video.Units), len(cfg.Audio.Units))
	}
	for i, u := range cfg.Video.Units {
		if u.RandomAccess != (i%30 == 0) || len(u.Payload) == 0 {
			t.Errorf("picture %d: random access %v, %d bytes", i, u.RandomAccess, len(u.Payload))
		}
	}
	if len(cfg.Video.Track.DecoderConfig) == 0 {
		t.Error("no decoder config")
	}
}
