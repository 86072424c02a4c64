// Command bench measures what the gateway must reach, with real processes: WHIP
// publishers in Go send 720p H.264 and Opus, RTMP receivers look at what arrives
// and when. It prints what was asked beside what was measured. Its own work is
// not counted in the gateway's; the machine should have nothing else to do.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.gateway, "gateway", "bin/gateway", "binary to measure")
	flag.IntVar(&o.streams, "n", 1, "number of streams in the steady part")
	flag.IntVar(&o.targets, "targets", 2, "targets per stream")
	flag.IntVar(&o.runs, "runs", 20, "publications for the time to the first picture")
	flag.DurationVar(&o.idle, "idle", 10*time.Second, "length of the idle part")
	flag.DurationVar(&o.steady, "steady", 20*time.Second, "length of the steady part")
	flag.StringVar(&o.pprof, "pprof", "", "folder for a CPU profile of the core during the steady part")
	flag.BoolVar(&o.verbose, "v", false, "show what the gateway logs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := o.run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	gateway, pprof         string
	streams, targets, runs int
	idle, steady           time.Duration
	verbose                bool
}

// What is asked of one stream to two targets.
const (
	askedSetup   = 300 * time.Millisecond
	askedLatency = 5 * time.Millisecond
	askedCPU     = 8.0 // percent of one core
	askedRSS     = 130 // MB
	askedIdle    = 0.5 // percent of one core
)

func (o options) run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "headgate-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b := &bench{options: o, dir: dir}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	recv, err := startReceivers(ctx, o.targets)
	if err != nil {
		return err
	}
	defer recv.stop()
	b.recv = recv
	stop, err := b.startGateway(ctx)
	if err != nil {
		return err
	}
	defer stop()

	fmt.Fprintf(out, "%d x 720p30 2 Mb/s H.264 + Opus, to %d targets each as H.264 + AAC; %s\n", o.streams, o.targets, machine())
	fmt.Fprintln(out, "measuring: idle")
	idle, err := b.measureIdle(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "measuring: %d x POST to first picture\n", o.runs)
	setups, err := b.measureSetup(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "measuring: %v of %d streams\n", o.steady, o.streams)
	s, err := b.measureSteady(ctx)
	if err != nil {
		return err
	}
	perStream := s.cpu / float64(o.streams)
	fmt.Fprintln(out)
	row := func(what, asked, measured string, ok bool) {
		verdict := "ok"
		if !ok {
			verdict = "MISSED"
		}
		if asked == "" {
			verdict = ""
		}
		fmt.Fprintf(out, "%-42s %-12s %-50s %s\n", what, asked, measured, verdict)
	}
	single := o.streams == 1 && o.targets == 2
	asked := func(text string) string {
		if single {
			return text
		}
		return ""
	}
	fmt.Fprintf(out, "%-42s %-12s %s\n", "", "asked", "measured")
	row("idle gateway, % of a core", fmt.Sprintf("<= %.1f", askedIdle), fmt.Sprintf("%.2f", idle), idle <= askedIdle)
	row("POST to first RTMP picture, median", "<= "+ms(askedSetup), fmt.Sprintf("%s (max %s)", ms(quantile(setups, 0.5)), ms(quantile(setups, 1))), quantile(setups, 0.5) <= askedSetup)
	row("picture, send to parsed arrival, p50", asked("<= "+ms(askedLatency)), fmt.Sprintf("%s (p95 %s, p99 %s, max %s)", ms(quantile(s.latency, 0.5)), ms(quantile(s.latency, 0.95)), ms(quantile(s.latency, 0.99)), ms(quantile(s.latency, 1))), quantile(s.latency, 0.5) <= askedLatency)
	row("all processes, % of a core", asked(fmt.Sprintf("<= %.0f", askedCPU)), fmt.Sprintf("%.1f (%.2f CPU-s per stream-minute)", s.cpu, perStream*0.6), s.cpu <= askedCPU)
	for _, name := range slices.Sorted(keys(s.cpuOf)) {
		row("  "+name, "", fmt.Sprintf("%.1f %%, %d MB", s.cpuOf[name], s.rssOf[name]>>20), true)
	}
	row("all processes, resident MB", asked(fmt.Sprintf("<= %d", askedRSS)), fmt.Sprintf("%d", s.rss>>20), s.rss>>20 <= askedRSS)
	row("pictures received / lost / out of order", "", fmt.Sprintf("%d / %d / %d", s.pictures, s.lost, s.disordered), true)
	row("audio units per picture", "", fmt.Sprintf("%.2f (46.9/30 = 1.56 is whole)", float64(s.audio)/float64(max(s.pictures, 1))), true)
	row("pictures that the publisher sent late", "", fmt.Sprint(s.late), true)
	row("UDP packets dropped by the kernel", "", fmt.Sprint(s.udpDrops), true)
	return nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// quantile returns the q-quantile of d; 0 if d is empty.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

func machine() string {
	load, _ := os.ReadFile("/proc/loadavg")
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	return fmt.Sprintf("%d cores, load before %s", strings.Count(string(cpus), "processor\t"), strings.Join(strings.Fields(string(load))[:1], ""))
}

// A bench holds what one run works with.
type bench struct {
	options
	dir               string
	publisher         string // its program
	video, audio      string // its media
	recv              *receivers
	listen, adminAddr string
	pid               int // of the gateway
}

// prepare builds the publisher and makes the media.
func (b *bench) prepare(ctx context.Context) error {
	b.publisher = filepath.Join(b.dir, "publisher")
	b.video, b.audio = filepath.Join(b.dir, "video.h264"), filepath.Join(b.dir, "audio.ogg")
	for _, c := range [][]string{
		{"go", "build", "-o", b.publisher, "github.com/headgate/gateway/test/publisher"},
		strings.Fields("ffmpeg -nostdin -hide_banner -v error -f lavfi -i testsrc2=size=1280x720:rate=30 -t 20 -pix_fmt yuv420p" +
			" -c:v libx264 -profile:v baseline -tune zerolatency -g 60 -sc_threshold 0 -b:v 2000k -maxrate 2000k -bufsize 1000k" +
			" -x264-params repeat-headers=1:sliced-threads=0:slices=1 -f h264 " + b.video),
		strings.Fields("ffmpeg -nostdin -hide_banner -v error -f lavfi -i sine=frequency=1000:sample_rate=48000 -t 20 -ac 2" +
			" -c:a libopus -b:a 64k -frame_duration 20 -page_duration 20000 " + b.audio),
	} {
		out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("preparing with %s: %w\n%s", c[0], err, out)
		}
	}
	return nil
}

func (b *bench) startGateway(ctx context.Context) (stop func(), err error) {
	if b.listen, err = freeAddr(); err != nil {
		return nil, err
	}
	if b.adminAddr, err = freeAddr(); err != nil {
		return nil, err
	}
	udp, err := freeAddr()
	if err != nil {
		return nil, err
	}
	var y strings.Builder
	fmt.Fprintf(&y, "listen: %s\nadmin: %s\nplugins:\n  ingest-webrtc: {options: {udp: %q}}\nroutes:\n  bench/*:\n    to:\n", b.listen, b.adminAddr, udp)
	for i, addr := range b.recv.addrs {
		fmt.Fprintf(&y, "      target%d: {url: \"rtmp://%s/live\", key: \"${stream}\", interleave: low}\n", i, addr)
	}
	file := filepath.Join(b.dir, "gateway.yaml")
	if err := os.WriteFile(file, []byte(y.String()), 0o600); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(b.gateway)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "run", file)
	logs := filepath.Join(b.dir, "gateway.log")
	log, err := os.Create(logs)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	if b.verbose {
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the gateway: %w", err)
	}
	b.pid = cmd.Process.Pid
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	err = until(ctx, 15*time.Second, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.listen+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %s", resp.Status)
		}
		return nil
	})
	if err != nil {
		stop()
		text, _ := os.ReadFile(logs)
		return nil, fmt.Errorf("starting the gateway: %w\n%s", err, text)
	}
	return stop, nil
}

// freeAddr returns an address of 127.0.0.1 on which nobody listens over TCP.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// until calls f until it returns nil, ctx ends or d is over.
func until(ctx context.Context, d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", d, err)
		case <-tick.C:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// measureIdle returns the CPU of a gateway that nobody publishes to, in percent
// of a core.
func (b *bench) measureIdle(ctx context.Context) (float64, error) {
	if err := sleep(ctx, 3*time.Second); err != nil {
		return 0, err
	}
	before, at := tree(b.pid), time.Now()
	if err := sleep(ctx, b.idle); err != nil {
		return 0, err
	}
	cpu, _ := tree(b.pid).since(before)
	return percent(cpu, time.Since(at)), nil
}

// publish starts the publisher with n streams; stop ends it and returns what it
// said.
func (b *bench) publish(ctx context.Context, name string, n int) (stop func() (string, error), err error) {
	var said strings.Builder
	cmd := exec.CommandContext(ctx, b.publisher, "-url", "http://"+b.listen+"/whip/bench/"+name, "-n", strconv.Itoa(n), "-timing", "-video", b.video, "-audio", b.audio)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the publisher: %w", err)
	}
	return func() (string, error) {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			return said.String(), fmt.Errorf("publishing: %w\n%s", err, said.String())
		}
		return said.String(), nil
	}, nil
}

// measureSetup publishes again and again and returns the times from the POST to
// the first picture, of all targets.
func (b *bench) measureSetup(ctx context.Context) ([]time.Duration, error) {
	var all []time.Duration
	for i := range b.runs {
		b.recv.reset()
		stop, err := b.publish(ctx, fmt.Sprintf("setup-%d", i), 1)
		if err != nil {
			return nil, err
		}
		err = until(ctx, 10*time.Second, func() error {
			if n := len(b.recv.setups()); n < b.targets {
				return fmt.Errorf("%d of %d targets have a picture", n, b.targets)
			}
			return nil
		})
		said, stopErr := stop()
		if err != nil {
			return nil, fmt.Errorf("run %d: %w\n%s", i, err, said)
		}
		if stopErr != nil {
			return nil, stopErr
		}
		all = append(all, b.recv.setups()...)
	}
	return all, nil
}

// steady is what the steady part has shown.
type steady struct {
	cpu                        float64 // percent of a core
	cpuOf                      map[string]float64
	rss                        int64
	rssOf                      map[string]int64
	latency                    []time.Duration
	pictures, lost, disordered int
	audio, late                int
	udpDrops                   int
}

func (b *bench) measureSteady(ctx context.Context) (steady, error) {
	b.recv.reset()
	dropped := udpDrops()
	stop, err := b.publish(ctx, "steady-%d", b.streams)
	if err != nil {
		return steady{}, err
	}
	warm := 5*time.Second + time.Duration(b.streams)*40*time.Millisecond
	if err := sleep(ctx, warm); err != nil {
		return steady{}, err
	}
	b.recv.measure(true)
	profiled := b.profile(ctx)
	before, at := tree(b.pid), time.Now()
	if err := sleep(ctx, b.steady); err != nil {
		return steady{}, err
	}
	now := tree(b.pid)
	took := time.Since(at)
	b.recv.measure(false)
	if err := <-profiled; err != nil {
		return steady{}, err
	}
	said, err := stop()
	if err != nil {
		return steady{}, err
	}
	s := steady{cpuOf: map[string]float64{}, rssOf: map[string]int64{}, udpDrops: udpDrops() - dropped}
	cpu, of := now.since(before)
	s.cpu = percent(cpu, took)
	for name, c := range of {
		s.cpuOf[name] = percent(c, took)
	}
	for _, p := range now {
		s.rss += p.rss
		s.rssOf[p.name] += p.rss
	}
	b.recv.fill(&s)
	for _, part := range strings.Split(said, `"late":`)[1:] {
		n, _ := strconv.Atoi(part[:strings.IndexAny(part, ",}")])
		s.late = max(s.late, n)
	}
	return s, nil
}

// profile takes a CPU profile of the core while the steady part lasts, if asked.
func (b *bench) profile(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	if b.pprof == "" {
		done <- nil
		return done
	}
	go func() {
		done <- func() error {
			url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", b.adminAddr, int(b.steady.Seconds()))
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return fmt.Errorf("profiling: %w", err)
			}
			defer func() { _ = resp.Body.Close() }()
			f, err := os.Create(filepath.Join(b.pprof, "core.pprof"))
			if err != nil {
				return err
			}
			if _, err := io.Copy(f, resp.Body); err != nil {
				return fmt.Errorf("profiling: %w", err)
			}
			return f.Close()
		}()
	}()
	return done
}
