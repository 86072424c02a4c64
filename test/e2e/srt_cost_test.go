package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// BenchmarkSRTCost sends twenty seconds of 3 Mb/s through the gateway to a listener
// of SRT, while ffmpeg with libsrt sends the same file to another. It reports what the
// process of egress-srt and that of ffmpeg cost of a core: for the whole stream, the
// set-up of both with it, and for the part of it where it only runs. Run it alone, with
// -benchtime 1x.
func BenchmarkSRTCost(b *testing.B) {
	peers.Need(b, "ffmpeg", "srt-live-transmit")
	const length, settled, steady = 20 * time.Second, 3 * time.Second, 12 * time.Second
	in := filepath.Join(b.TempDir(), "in.ts")
	peers.FFmpeg(b, "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30,noise=alls=20:allf=t", "-f", "lavfi", "-i", "sine=sample_rate=48000",
		"-t", fmt.Sprint(length.Seconds()), "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-g", "60",
		"-b:v", "2900k", "-maxrate", "2900k", "-bufsize", "1M", "-c:a", "aac", "-b:a", "96k", in)
	for b.Loop() {
		ourPlayer, theirPlayer, rtmp := player(b), player(b), peers.FreeAddr(b)
		g := startGatewayOf(b, "gateway-plain", fmt.Sprintf("  ingest-rtmp: {options: {listen: %q}}\n", rtmp),
			route("studio", fmt.Sprintf("peer: {url: \"srt://%s\"}", ourPlayer)))
		send := func(format, url string) *exec.Cmd {
			cmd := exec.CommandContext(b.Context(), peers.Find(b, "ffmpeg"), "-nostdin", "-v", "error", "-re", "-i", in, "-c", "copy", "-f", format, url)
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			return cmd
		}
		egress := g.plugin(b, "egress-srt")
		ours := spent(b, egress)
		publisher := send("flv", "rtmp://"+rtmp+"/studio/"+token)
		g.waitTarget(b, 20*time.Second, "studio", "peer", status.TargetLive)
		peer := send("mpegts", "srt://"+theirPlayer)

		time.Sleep(settled)
		oursSteady, theirsSteady := spent(b, egress), spent(b, peer.Process.Pid)
		time.Sleep(steady)
		oursSteady, theirsSteady = spent(b, egress)-oursSteady, spent(b, peer.Process.Pid)-theirsSteady

		if err := errors.Join(publisher.Wait(), peer.Wait()); err != nil {
			b.Fatal(err)
		}
		got, err := g.target("studio", "peer")
		if err != nil {
			b.Fatal(err)
		}
		ours = spent(b, egress) - ours
		theirs := peer.ProcessState.UserTime() + peer.ProcessState.SystemTime()
		share := func(d, of time.Duration) float64 { return 100 * d.Seconds() / of.Seconds() }
		b.ReportMetric(float64(got.BytesSent)*8/1e6/length.Seconds(), "Mb/s")
		b.ReportMetric(share(ours, length), "%core")
		b.ReportMetric(share(theirs, length), "%core-ffmpeg")
		b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x-ffmpeg")
		b.ReportMetric(share(oursSteady, steady), "%core-steady")
		b.ReportMetric(share(theirsSteady, steady), "%core-ffmpeg-steady")
	}
}

// player starts a listener of SRT that throws away what comes.
func player(b *testing.B) (addr string) {
	b.Helper()
	addr = peers.FreeAddr(b)
	peers.Start(b, peers.Command{Name: "srt-live-transmit", Path: "/bin/sh", Args: []string{
		"-c", `exec "$0" -q -a:no "$1" file://con >/dev/null`, peers.Find(b, "srt-live-transmit"), "srt://" + addr + "?mode=listener"}})
	return addr
}

// spent is the processor time of a process, in steps of 10 ms.
func spent(b *testing.B, pid int) (sum time.Duration) {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	for _, f := range strings.Fields(rest)[11:13] { // user and system, in hundredths of a second
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}
