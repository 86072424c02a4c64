package egresssrt

import (
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/test/peers"
)

// BenchmarkCost sends twenty seconds of 3 Mb/s in real time, and lets ffmpeg with
// libsrt send the same: what both cost of a core. Run it alone, with -benchtime 1x.
func BenchmarkCost(b *testing.B) {
	peers.Need(b, "ffmpeg", "srt-live-transmit")
	in := filepath.Join(b.TempDir(), "in.ts")
	peers.FFmpeg(b, "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30,noise=alls=20:allf=t", "-t", "20", "-pix_fmt", "yuv420p",
		"-c:v", "libx264", "-preset", "ultrafast", "-g", "60", "-b:v", "3M", "-maxrate", "3M", "-bufsize", "1M", in)
	track, units := read(b, in)
	span := units[len(units)-1].DTS - units[0].DTS
	bytes := 0
	for _, u := range units {
		bytes += len(u.Payload)
	}
	for b.Loop() {
		addr, _, _ := listen(b, "srt-live-transmit", "")
		m := testMedia{tracks: []media.Track{track}, units: units}
		s := connect(b, "srt://"+addr, Options{}, m)
		before := spent(b)
		play(b, s, units)
		ours := spent(b) - before

		addr, _, _ = listen(b, "srt-live-transmit", "")
		var cmd *exec.Cmd
		peers.Wait(b, time.Minute, "ffmpeg sends it", func() error {
			cmd = exec.CommandContext(b.Context(), peers.Find(b, "ffmpeg"), "-nostdin", "-v", "error", "-re", "-i", in, "-c", "copy", "-f", "mpegts", "srt://"+addr)
			return cmd.Run()
		})
		theirs := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		b.ReportMetric(float64(bytes)*8/span.Seconds()/1e6, "Mb/s")
		b.ReportMetric(100*ours.Seconds()/span.Seconds(), "%core")
		b.ReportMetric(100*theirs.Seconds()/span.Seconds(), "%core-ffmpeg")
	}
}

// spent is the processor time of this process.
func spent(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
