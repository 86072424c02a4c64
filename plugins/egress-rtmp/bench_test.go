package egressrtmp

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
)

// receiverEnv makes the test binary a receiver: what a benchmark sends must not be
// received at the cost of its own process.
const receiverEnv = "EGRESS_RTMP_TEST_RECEIVER"

// runReceiver receives and throws away until its standard input ends.
func runReceiver() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		cancel()
	}()
	if err := (&rtmp.Server{Listener: l}).Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// receiveElsewhere runs a receiver in another process.
func receiveElsewhere(b *testing.B) (addr string) {
	b.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), receiverEnv+"=1")
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = in.Close(); _ = c.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// spent returns the CPU time that this process has used.
func spent(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTargets writes pictures of 8 KB to 1, 2 and 50 targets over loopback TCP
// and reports the CPU time of this process for each picture. It must reach 12 us
// for one target, 10 us for each further one, and 4 allocations however many there
// are.
func BenchmarkTargets(b *testing.B) {
	addr := receiveElsewhere(b)
	for _, targets := range []int{1, 2, 50} {
		b.Run(fmt.Sprint(targets), func(b *testing.B) {
			var sinks []*sink
			for i := range targets {
				s, err := (&egress{}).open(b.Context(), target(fmt.Sprintf("rtmp://%s/app/key%d-%d", addr, targets, i)), Options{}, []media.Track{h264A})
				if err != nil {
					b.Fatal(err)
				}
				sinks = append(sinks, s.(*sink))
			}
			payload := make([]byte, 8<<10)
			at := time.Duration(0)
			b.ReportAllocs()
			before := spent(b)
			for b.Loop() {
				at += 33 * time.Millisecond
				u := &media.AccessUnit{Track: 1, PTS: at, DTS: at, RandomAccess: true, Payload: payload}
				for _, s := range sinks {
					if err := s.WriteAccessUnit(b.Context(), u); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.StopTimer()
			cpu := float64(spent(b)-before) / float64(time.Microsecond) / float64(b.N)
			b.ReportMetric(cpu, "cpu-us/unit")
			b.ReportMetric(cpu/float64(targets), "cpu-us/unit/target")
			for _, s := range sinks {
				_ = s.Close(b.Context())
			}
		})
	}
}
