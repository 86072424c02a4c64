package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// rtmpIn is the entry under plugins of an ingest at two addresses.
func rtmpIn(t *testing.T) (entry, rtmp, rtmps string) {
	t.Helper()
	cert, key := peers.NewCA(t).Issue(t, "127.0.0.1")
	rtmp, rtmps = peers.FreeAddr(t), peers.FreeAddr(t)
	return fmt.Sprintf("  ingest-rtmp: {options: {listen: %q, tls: {listen: %q, cert: %q, key: %q}}}\n", rtmp, rtmps, cert, key),
		"rtmp://" + rtmp, "rtmps://" + rtmps
}

// hashes are what ffmpeg says of each packet or picture of a file: when it is shown
// after the first one, and a hash of its bytes.
func hashes(t *testing.T, file string, args ...string) (list []string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), peers.Find(t, "ffmpeg"), slices.Concat([]string{"-nostdin", "-v", "error", "-i", file}, args, []string{"-f", "framemd5", "-"})...).Output()
	if err != nil {
		t.Fatalf("ffmpeg: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		if fields := strings.Split(line, ","); len(fields) == 6 && line[0] != '#' {
			list = append(list, strings.TrimSpace(fields[5]))
		}
	}
	return list
}

// checkSame: every slice and SEI unit, every sound and every decoded picture of source
// is in got, in its order, to the last one. Sound may be missing at the beginning: what was
// before the first picture.
func checkSame(t *testing.T, source, got string) {
	t.Helper()
	const most = 3
	for what, args := range map[string][]string{
		"slices and SEI":   {"-map", "0:v", "-c", "copy", "-bsf:v", "filter_units=remove_types=7-9|12"},
		"decoded pictures": {"-map", "0:v", "-fps_mode", "passthrough"},
		"sound":            {"-map", "0:a", "-c", "copy"},
	} {
		want, have := hashes(t, source, args...), hashes(t, got, args...)
		missing := len(want) - len(have)
		t.Logf("%s: %d of %d, from %d", what, len(have), len(want), slices.Index(want, have[0]))
		same := missing == 0 && slices.Equal(want, have)
		if what == "sound" && missing > 0 && missing <= most {
			from := slices.Index(want, have[0])
			same = from >= 0 && slices.Equal(want[from:], have)
		}
		if !same {
			t.Errorf("%s: %d arrived of %d, or not as they were", what, len(have), len(want))
		}
	}
	if err := peers.CheckMonotonic(peers.Packets(t, got)); err != nil {
		t.Error(err)
	}
}

// TestRTMPIn: what ffmpeg publishes by RTMP and RTMPS arrives at RTMP servers as it
// was, with B-frames in closed and in open groups.
func TestRTMPIn(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe", "nginx")
	entry, rtmp, rtmps := rtmpIn(t)
	nginx := peers.StartNginx(t)
	cdn := startCDN(t)
	g := startGatewayWith(t, entry, route("closed", fmt.Sprintf("cdn: {url: %q}", "rtmp://"+cdn.addr+"/live/key"))+
		route("open", fmt.Sprintf("nginx: {url: %q}", nginx.URL("a", "open"))))
	sources := map[string]string{}
	publishers := map[string]*peers.Process{}
	for _, s := range []struct{ name, gop, url string }{{"closed", "0", rtmp + "/closed/" + token}, {"open", "1", rtmps + "/open?token=" + token}} {
		file := filepath.Join(t.TempDir(), s.name+".flv")
		peers.FFmpeg(t, "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", "4", "-pix_fmt", "yuv420p",
			"-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-g", "30", "-x264-params", "aud=1:repeat-headers=1:open-gop="+s.gop, "-c:a", "aac", "-ac", "2", file)
		sources[s.name] = file
		publishers[s.name] = peers.Start(t, peers.Command{Name: "ffmpeg " + s.name, Path: peers.Find(t, "ffmpeg"),
			Args: []string{"-nostdin", "-v", "error", "-re", "-i", file, "-c", "copy", "-f", "flv", s.url}})
	}
	for name, p := range publishers {
		if code := p.ExitCode(t, time.Minute); code != 0 {
			t.Fatalf("publishing %s: exit code %d\n%s", name, code, p.Output())
		}
		g.waitTarget(t, 30*time.Second, name, map[string]string{"closed": "cdn", "open": "nginx"}[name], status.TargetIdle)
	}
	peers.Wait(t, 30*time.Second, "the servers to have closed their files", func() error {
		if all := cdn.Stats(); len(all) != 1 || all[0].Ended.IsZero() {
			return fmt.Errorf("%d publications, or not ended", len(all))
		}
		return nginx.Unpublished("open")
	})
	checkSame(t, sources["closed"], cdn.Stats()[0].Recording)
	files := nginx.Recordings(t, "a")
	if len(files) != 1 {
		t.Fatalf("nginx recorded %q", files)
	}
	checkSame(t, sources["open"], files[0])
}

// TestGStreamerIn: GStreamer publishes with its own RTMP and with librtmp, which OBS has,
// and ends without a complaint: what arrives is what was sent. Pictures that change their
// size go on.
func TestGStreamerIn(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe", "nginx", "gst-launch-1.0")
	entry, rtmp, _ := rtmpIn(t)
	nginx := peers.StartNginx(t)
	file := filepath.Join(t.TempDir(), "in.flv")
	peers.FFmpeg(t, "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", "3", "-pix_fmt", "yuv420p",
		"-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-g", "30", "-c:a", "aac", "-ac", "2", file)
	const sizes = "sizes"
	pipelines := map[string]string{
		"own":     "filesrc location=" + file + " ! flvdemux name=d  d.video ! queue ! h264parse ! m.video  d.audio ! queue ! aacparse ! m.audio  flvmux name=m streamable=true ! rtmp2sink sync=true location=" + rtmp + "/own/" + token,
		"librtmp": "filesrc location=" + file + " ! flvdemux name=d  d.video ! queue ! h264parse ! m.video  d.audio ! queue ! aacparse ! m.audio  flvmux name=m streamable=true ! rtmpsink sync=true location=" + rtmp + "/librtmp?token=" + token,
		sizes: "concat name=c ! x264enc key-int-max=25 bframes=2 speed-preset=ultrafast ! h264parse ! flvmux streamable=true ! rtmp2sink sync=true location=" + rtmp + "/" + sizes + "/" + token +
			"  videotestsrc num-buffers=50 ! video/x-raw,width=320,height=180,framerate=25/1 ! c.  videotestsrc num-buffers=50 ! video/x-raw,width=640,height=360,framerate=25/1 ! c.",
	}
	var routes string
	for name := range pipelines {
		routes += route(name, fmt.Sprintf("nginx: {url: %q}", nginx.URL("a", name)))
	}
	startGatewayWith(t, entry, routes)
	publishers := map[string]*peers.Process{}
	for name, pipeline := range pipelines {
		publishers[name] = peers.Start(t, peers.Command{Name: "gst-launch " + name, Path: peers.Find(t, "gst-launch-1.0"), Args: append([]string{"-q"}, strings.Fields(pipeline)...)})
	}
	for name, p := range publishers {
		if code := p.ExitCode(t, time.Minute); code != 0 || strings.Contains(p.Output(), "ERROR") {
			t.Errorf("publishing %s: exit code %d\n%s", name, code, p.Output())
		}
		waitUnpublished(t, 30*time.Second, nginx, "a", name)
	}
	recording := map[string]string{}
	for _, f := range nginx.Recordings(t, "a") {
		name, _, _ := strings.Cut(filepath.Base(f), "-")
		recording[name] = f
	}
	if len(recording) != len(pipelines) {
		t.Fatalf("nginx recorded %q", recording)
	}
	checkSame(t, file, recording["own"])
	checkSame(t, file, recording["librtmp"])
	out, err := exec.CommandContext(t.Context(), peers.Find(t, "ffprobe"), "-v", "error", "-select_streams", "v", "-show_entries", "frame=width", "-of", "default=nw=1:nk=1", recording[sizes]).Output()
	must(t, err)
	if want := strings.Repeat("320\n", 50) + strings.Repeat("640\n", 50); string(out) != want {
		t.Errorf("the widths of the pictures are %q", strings.Fields(string(out)))
	}
}

// TestRTMPRefusals: who may not publish is told why in words, and who talks nonsense
// costs nothing.
func TestRTMPRefusals(t *testing.T) {
	peers.Need(t, "ffmpeg")
	entry, rtmp, rtmps := rtmpIn(t)
	g := startGatewayWith(t, entry, route("studio", `srt: {url: "srt://127.0.0.1:9"}`))
	refused := func(url, want string) {
		t.Helper()
		p := peers.Start(t, peers.Command{Name: "ffmpeg", Path: peers.Find(t, "ffmpeg"), Args: []string{"-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25",
			"-t", "20", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-f", "flv", url}})
		if code := p.ExitCode(t, 30*time.Second); code == 0 || !strings.Contains(p.Output(), want) {
			t.Errorf("exit code %d, want a refusal with %q:\n%s", code, want, p.Output())
		}
	}
	refused(rtmp+"/studio/canary-wrong", "the token is wrong")
	refused(rtmps+"/studio?token=canary-wrong", "the token is wrong")
	refused(rtmp+"/studio", "a token is needed")
	refused(rtmp+"/nobody/canary-token", "no route has the name nobody; the last part of the URL is taken for the token")
	refused(rtmp+"/?token=canary-token", "names no stream")
	for _, nonsense := range []string{"GET / HTTP/1.1\r\n\r\n", "\x03" + strings.Repeat("\xff", 5000), "\x16\x03\x01\x02\x00\x01"} {
		c, err := net.Dial("tcp", strings.TrimPrefix(rtmp, "rtmp://"))
		must(t, err)
		_, err = c.Write([]byte(nonsense))
		must(t, err)
		must(t, c.Close())
	}
	g.Match(t, 30*time.Second, `the client speaks rtmps where rtmp is awaited.*remote=127\.0\.0\.1:\d`)
	c, err := net.Dial("tcp", strings.TrimPrefix(rtmps, "rtmps://"))
	must(t, err)
	_, err = c.Write([]byte("\x03" + strings.Repeat("\x00", 1536)))
	must(t, err)
	must(t, c.Close())
	g.Match(t, 30*time.Second, `a client speaks rtmp where rtmps is awaited.*remote=127\.0\.0\.1:\d`)
	if _, err := g.stream("studio"); err != nil {
		t.Error(err)
	}

	second := filepath.Join(t.TempDir(), "second.yaml")
	must(t, os.WriteFile(second, fmt.Appendf(nil, "listen: %s\nadmin: %s\nplugins:\n  ingest-webrtc: {options: {udp: \"127.0.0.1:%d\"}}\n  ingest-rtmp: {options: {listen: %q}}\nroutes:\n%s",
		peers.FreeAddr(t), peers.FreeAddr(t), peers.FreePort(t), strings.TrimPrefix(rtmp, "rtmp://"), route("studio", `srt: {url: "srt://127.0.0.1:9"}`)), 0o600))
	p := startBinary(t, "run", second)
	if code := p.ExitCode(t, 30*time.Second); code != 1 || !strings.Contains(p.Output(), "plugins.ingest-rtmp.options.listen: "+strings.TrimPrefix(rtmp, "rtmp://")+" is used by another program") {
		t.Errorf("with a port in use: exit code %d\n%s", code, p.Output())
	}
}

// TestRTMPTakeover: who comes last has the stream, the target's connection stays, and
// the other one is told.
func TestRTMPTakeover(t *testing.T) {
	entry, rtmp, _ := rtmpIn(t)
	cdn := startCDN(t)
	g := startGatewayWith(t, entry, route("studio", fmt.Sprintf("cdn: {url: %q}", "rtmp://"+cdn.addr+"/live/key")))
	publish := func() publisher {
		p := publisher{peers.Start(t, peers.Command{Path: filepath.Join(bin, "publisher"), Args: []string{"-url", rtmp + "/studio", "-token-env", "STUDIO_TOKEN"}, Env: []string{"STUDIO_TOKEN=" + token}})}
		p.Match(t, 30*time.Second, `"event":"published"`)
		return p
	}
	first := publish()
	cdn.live(t)
	second := publish()
	first.Match(t, 30*time.Second, `"event":"lost".*another publisher took over`)
	if err := second.healthy(); err != nil {
		t.Error(err)
	}
	g.waitTarget(t, 30*time.Second, "studio", "cdn", status.TargetLive)
	second.Kill() // and a half-open publisher is one who comes again
	third := publish()
	pictures := cdn.pictures.Load()
	peers.Wait(t, 30*time.Second, "more pictures", func() error {
		if n := cdn.pictures.Load(); n < pictures+10 {
			return fmt.Errorf("%d", n-pictures)
		}
		return third.healthy()
	})
	if n := len(cdn.Stats()); n != 1 {
		t.Errorf("the target had %d connections", n)
	}
}
