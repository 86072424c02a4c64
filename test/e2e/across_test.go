package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/test/peers"
)

// TestPicturesAcross sends B-frames in closed and open groups by RTMP and RTSP to an RTMP
// server and to a peer by SRT each, and those of H.265 by Enhanced RTMP to a peer by SRT.
// What is decoded there is the source, picture by picture, from the first to the last.
// TestRTMPIn and TestSRTPictures do the rest.
func TestPicturesAcross(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe", "nginx")
	n := peers.StartNginx(t)
	dir := t.TempDir()
	rtmp, rtsp := peers.FreeAddr(t), peers.FreeAddr(t)
	type path struct {
		name, source, srt string
		publish           []string // arguments of ffmpeg; nil: gortmplib publishes
		peer              *peers.Process
	}
	source := map[string]string{}
	for _, gop := range []string{"closed", "open"} {
		open := map[string]string{"closed": "open-gop=0", "open": "open-gop=1"}[gop]
		source["h265-"+gop] = filepath.Join(dir, gop+".mp4")
		peers.FFmpeg(t, "-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25", "-t", "4", "-pix_fmt", "yuv420p",
			"-c:v", "libx265", "-x265-params", fmt.Sprintf("bframes=3:keyint=%d:log-level=none:", group)+open, source["h265-"+gop])
		source[gop] = filepath.Join(dir, gop+".mkv")
		peers.FFmpeg(t, "-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25", "-t", "4", "-pix_fmt", "yuv420p", "-g", fmt.Sprint(group),
			"-c:v", "libx264", "-bf", "3", "-x264-params", open, source[gop])
	}
	var paths []*path
	var routes strings.Builder
	add := func(name, gop string, publish ...string) {
		addr, file := peers.FreeAddr(t), filepath.Join(dir, name+".ts")
		p := &path{name: name, source: source[gop], srt: file, publish: publish}
		p.peer = peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{
			"-nostdin", "-v", "error", "-y", "-i", "srt://" + addr + "?mode=listener", "-map", "0", "-c", "copy", "-copyts", file}})
		targets := []string{fmt.Sprintf("peer: {url: \"srt://%s\"}", addr)}
		if publish != nil {
			targets = append(targets, fmt.Sprintf("cdn: {url: %q}", n.URL("a", name)))
		}
		routes.WriteString(route(name, targets...))
		paths = append(paths, p)
	}
	add("rtmp-closed", "closed", "-f", "flv", "rtmp://"+rtmp+"/rtmp-closed/"+token)
	add("rtmp-open", "open", "-f", "flv", "rtmp://"+rtmp+"/rtmp-open/"+token)
	add("rtsp-closed", "closed", "-f", "rtsp", "-rtsp_transport", "tcp", "rtsp://"+rtsp+"/rtsp-closed?token="+token)
	add("rtsp-open", "open", "-f", "rtsp", "-rtsp_transport", "tcp", "rtsp://"+rtsp+"/rtsp-open?token="+token)
	add("rtmp-h265-closed", "h265-closed")
	add("rtmp-h265-open", "h265-open")
	startGatewayWith(t, fmt.Sprintf("  ingest-rtmp: {options: {listen: %q}}\n  ingest-rtsp: {options: {listen: %q}}\n", rtmp, rtsp), routes.String())
	for _, p := range paths {
		if p.publish == nil {
			peers.PublishRTMP(t, "rtmp://"+rtmp+"/"+p.name+"#"+token, p.source, 1)
			continue
		}
		peers.Start(t, peers.Command{Name: "ffmpeg " + p.name, Path: peers.Find(t, "ffmpeg"),
			Args: slices.Concat([]string{"-nostdin", "-v", "error", "-re", "-i", p.source, "-c", "copy"}, p.publish)})
	}
	for _, p := range paths {
		p.peer.ExitCode(t, 60*time.Second)
		if p.publish != nil {
			waitUnpublished(t, 30*time.Second, n, "a", p.name)
		}
	}
	for _, p := range paths {
		files := []string{p.srt}
		for _, f := range n.Recordings(t, "a") {
			if strings.HasPrefix(filepath.Base(f), p.name+"-") {
				files = append(files, f)
			}
		}
		if p.publish != nil && len(files) != 2 {
			t.Errorf("%s: recorded %q", p.name, files)
		}
		want := peers.Pictures(t, p.source)
		for _, f := range files {
			if got := peers.Pictures(t, f); !slices.Equal(got, want) {
				t.Errorf("%s: %d pictures decode of %s, %d of the source, or they are others", p.name, len(got), filepath.Base(f), len(want))
			}
			if err := peers.CheckMonotonic(peers.Packets(t, f)); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
	}
}
