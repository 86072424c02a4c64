// Command bench measures what the gateway must reach, with real processes: WHIP or
// RTMP publishers in Go send 720p H.264 and Opus, RTMP receivers look at what arrives
// and when. It prints what was asked beside what was measured, then what one, ten
// and more streams cost, and with -peer what they cost another server under the
// same load in the same run. Processor time and memory are those of all processes
// of a server as the system counts them; the work of publishers and receivers is
// not in them. The machine should have nothing else to do. Run it from the top of
// the repository.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
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

	"github.com/headgate/gateway/core/pluginhost"
)

func main() {
	var o options
	flag.StringVar(&o.gateway, "gateway", "bin/gateway", "binary to measure")
	flag.StringVar(&o.peer, "peer", "", "server to compare with: mediamtx")
	flag.StringVar(&o.in, "in", "whip", "what publishers speak: whip or rtmp")
	flag.Func("streams", "numbers of streams, 0 for none of the table (default 1,10,25,50)", list(&o.streams))
	flag.Func("fanout", "numbers of targets per stream (default 1,3)", list(&o.fanout))
	flag.IntVar(&o.runs, "runs", 20, "publications for the time to the first picture; 0 leaves out what is asked")
	flag.DurationVar(&o.idle, "idle", 10*time.Second, "length of the idle part")
	flag.DurationVar(&o.steady, "steady", 20*time.Second, "length of each steady part")
	flag.StringVar(&o.pprof, "pprof", "", "folder for a CPU profile of the core during the first steady part")
	flag.BoolVar(&o.verbose, "v", false, "show what the servers log")
	flag.Parse()
	if o.streams == nil {
		o.streams = []int{1, 10, 25, 50}
	}
	if o.fanout == nil {
		o.fanout = []int{1, 3}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := o.run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// list parses numbers with commas between them.
func list(into *[]int) func(string) error {
	return func(s string) error {
		*into = []int{}
		for f := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(f)
			if err != nil || n < 0 {
				return fmt.Errorf("%q is no number", f)
			}
			if n > 0 {
				*into = append(*into, n)
			}
		}
		return nil
	}
}

type options struct {
	gateway, peer, pprof string
	in                   string
	streams, fanout      []int
	runs                 int
	idle, steady         time.Duration
	verbose              bool
}

// What is asked of one stream to two targets, and of a plugin that has nothing to do.
const (
	askedSetup   = 300 * time.Millisecond
	askedLatency = 5 * time.Millisecond
	askedRTMP    = 3 * time.Millisecond // of RTMP in
	askedCPU     = 8.0                  // percent of one core
	askedRSS     = 130                  // MB
	askedIdle    = 0.5                  // percent of one core
	askedAtRest  = 12                   // MB of its own
	askedReady   = 100 * time.Millisecond
)

func (o options) run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "headgate-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b := &bench{options: o, dir: dir, out: out}
	if b.peer != "" && b.peer != "mediamtx" {
		return fmt.Errorf("-peer %s: want mediamtx", b.peer)
	}
	if b.in != "whip" && (b.in != "rtmp" || b.peer != "") {
		return fmt.Errorf("-in %s: want whip, or rtmp without -peer", b.in)
	}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if b.recv, err = startReceivers(ctx, slices.Max(append(o.fanout, 2))); err != nil {
		return err
	}
	defer b.recv.stop()
	fmt.Fprintf(out, "720p30 2 Mb/s H.264 and Opus 64 kb/s by %s, RTMP out; %s\n", strings.ToUpper(b.in), machine())
	if o.runs > 0 {
		if err := b.asked(ctx); err != nil {
			return err
		}
	}
	return b.table(ctx)
}

// asked measures one stream to two targets and prints it beside what is asked.
func (b *bench) asked(ctx context.Context) error {
	one := load{streams: 1, targets: 2, sound: true}
	ready, err := b.measureReady(ctx)
	if err != nil {
		return err
	}
	s, err := b.startGateway(ctx, one)
	if err != nil {
		return err
	}
	defer s.stop()
	fmt.Fprintln(b.out, "measuring: idle")
	idle, private, err := b.measureIdle(ctx, s)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "measuring: %d x POST to first picture\n", b.runs)
	setups, err := b.measureSetup(ctx, s)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "measuring: %v of one stream to two targets\n\n", b.steady)
	m, err := b.measureSteady(ctx, s, one)
	if err != nil {
		return err
	}
	row := func(what, asked, measured string, ok bool) {
		verdict := "ok"
		switch {
		case asked == "":
			verdict = ""
		case !ok:
			verdict = "MISSED"
		}
		fmt.Fprintf(b.out, "%-42s %-12s %-50s %s\n", what, asked, measured, verdict)
	}
	fmt.Fprintf(b.out, "%-42s %-12s %s\n", "", "asked", "measured")
	row("idle gateway, % of a core", fmt.Sprintf("<= %.1f", askedIdle), fmt.Sprintf("%.2f", idle), idle <= askedIdle)
	row("plugin at rest, MB of its own, largest", fmt.Sprintf("<= %d", askedAtRest), fmt.Sprintf("%.1f", float64(private)/(1<<20)), private <= askedAtRest<<20)
	row("plugin, start to described and gone, median", "<= "+ms(askedReady), fmt.Sprintf("%s (max %s)", ms(quantile(ready, 0.5)), ms(quantile(ready, 1))), quantile(ready, 0.5) <= askedReady)
	latency, posted := askedLatency, "POST"
	if b.in == "rtmp" {
		latency, posted = askedRTMP, "connect"
	}
	row(posted+" to first RTMP picture, median", "<= "+ms(askedSetup), fmt.Sprintf("%s (max %s)", ms(quantile(setups, 0.5)), ms(quantile(setups, 1))), quantile(setups, 0.5) <= askedSetup)
	row("picture, send to parsed arrival, p50", "<= "+ms(latency), fmt.Sprintf("%s (p95 %s, p99 %s, max %s)", ms(quantile(m.latency, 0.5)), ms(quantile(m.latency, 0.95)), ms(quantile(m.latency, 0.99)), ms(quantile(m.latency, 1))), quantile(m.latency, 0.5) <= latency)
	row("all processes, % of a core", fmt.Sprintf("<= %.0f", askedCPU), fmt.Sprintf("%.1f (%.2f CPU-s per stream-minute)", m.cpu, m.cpu*0.6), m.cpu <= askedCPU)
	for _, name := range slices.Sorted(keys(m.cpuOf)) {
		row("  "+name, "", fmt.Sprintf("%.1f %%, %d MB", m.cpuOf[name], m.rssOf[name]>>20), true)
	}
	row("all processes, resident MB", fmt.Sprintf("<= %d", askedRSS), fmt.Sprintf("%d", m.rss>>20), m.rss>>20 <= askedRSS)
	row("pictures received / lost / out of order", "", fmt.Sprintf("%d / %d / %d", m.pictures, m.lost, m.disordered), true)
	row("audio units per picture", "", fmt.Sprintf("%.2f (46.9/30 = 1.56 is whole)", float64(m.audio)/float64(max(m.pictures, 1))), true)
	row("pictures that the publisher sent late", "", fmt.Sprint(m.late), true)
	row("UDP packets dropped by the kernel", "", fmt.Sprint(m.udpDrops), true)
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
	out          io.Writer
	dir          string
	publisher    string // its program
	video, audio string // its media
	recv         *receivers
}

// A load is what a server has to carry.
type load struct {
	streams, targets int
	sound            bool // Opus that has to arrive as AAC, or none
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

// measureReady returns how long a plugin process takes from its start until it has
// said what it is and was ended again.
func (b *bench) measureReady(ctx context.Context) ([]time.Duration, error) {
	path, err := filepath.Abs(b.gateway)
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for range 10 {
		began := time.Now()
		spec := pluginhost.Spec{Name: "egress-rtmp", Command: []string{path, "plugin", "egress-rtmp"}}
		if _, err := pluginhost.Describe(ctx, spec, slog.New(slog.DiscardHandler)); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

// measureIdle returns the CPU of a gateway that nobody publishes to, in percent
// of a core, and the most memory that one of its plugins has for itself.
func (b *bench) measureIdle(ctx context.Context, s *server) (cpu float64, private int64, err error) {
	if err := sleep(ctx, 3*time.Second); err != nil {
		return 0, 0, err
	}
	before, at := tree(s.pid), time.Now()
	if err := sleep(ctx, b.idle); err != nil {
		return 0, 0, err
	}
	now := tree(s.pid)
	used, _ := now.since(before)
	for pid := range now {
		if pid != s.pid {
			private = max(private, privateBytes(pid))
		}
	}
	return percent(used, time.Since(at)), private, nil
}

// publish starts the publisher with n streams; stop ends it and returns what it
// said.
func (b *bench) publish(ctx context.Context, s *server, name string, n int, sound bool) (stop func() (string, error), err error) {
	var said strings.Builder
	args := []string{"-url", strings.ReplaceAll(s.url, "NAME", name), "-n", strconv.Itoa(n), "-timing", "-video", b.video}
	if sound {
		args = append(args, "-audio", b.audio)
	}
	cmd := exec.CommandContext(ctx, b.publisher, args...)
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
func (b *bench) measureSetup(ctx context.Context, s *server) ([]time.Duration, error) {
	var all []time.Duration
	for i := range b.runs {
		b.recv.reset()
		stop, err := b.publish(ctx, s, fmt.Sprintf("setup-%d", i), 1, true)
		if err != nil {
			return nil, err
		}
		err = until(ctx, 10*time.Second, func() error {
			if n := len(b.recv.setups()); n < 2 {
				return fmt.Errorf("%d of 2 targets have a picture", n)
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

// settle is how long a load runs before it is looked at.
const settle = 5 * time.Second

// steady is what the steady part has shown.
type steady struct {
	cpu                        float64 // percent of a core
	cpuOf                      map[string]float64
	rss                        int64
	rssPer                     int64 // more than at rest, per stream
	setups                     []time.Duration
	rssOf                      map[string]int64
	latency                    []time.Duration
	pictures, lost, disordered int
	audio, late                int
	udpDrops                   int
}

// measureSteady publishes and looks at the server once everything has arrived.
func (b *bench) measureSteady(ctx context.Context, srv *server, l load) (steady, error) {
	b.recv.reset()
	dropped, atRest := udpDrops(srv.udp), tree(srv.pid)
	stop, err := b.publish(ctx, srv, "steady-%d", l.streams, l.sound)
	if err != nil {
		return steady{}, err
	}
	err = until(ctx, 20*time.Second+time.Duration(l.streams)*200*time.Millisecond, func() error {
		if n := len(b.recv.setups()); n < l.streams*l.targets {
			return fmt.Errorf("%d of %d targets have a picture", n, l.streams*l.targets)
		}
		return nil
	})
	if err == nil {
		err = sleep(ctx, settle)
	}
	if err != nil {
		said, _ := stop()
		return steady{}, fmt.Errorf("%w\n%s", err, said)
	}
	b.recv.measure(true)
	profiled := b.profile(ctx, srv)
	before, at := tree(srv.pid), time.Now()
	if err := sleep(ctx, b.steady); err != nil {
		return steady{}, err
	}
	now := tree(srv.pid)
	took := time.Since(at)
	b.recv.measure(false)
	if err := <-profiled; err != nil {
		return steady{}, err
	}
	drops := udpDrops(srv.udp)
	said, err := stop()
	if err != nil {
		return steady{}, err
	}
	s := steady{cpuOf: map[string]float64{}, rssOf: map[string]int64{}, udpDrops: drops - dropped}
	cpu, of := now.since(before)
	s.cpu = percent(cpu, took)
	for name, c := range of {
		s.cpuOf[name] = percent(c, took)
	}
	for _, p := range now {
		s.rss += p.rss
		s.rssOf[p.name] += p.rss
	}
	s.rssPer = s.rss
	for _, p := range atRest {
		s.rssPer -= p.rss
	}
	s.rssPer /= int64(l.streams)
	s.setups = b.recv.setups()
	b.recv.fill(&s)
	for _, part := range strings.Split(said, `"late":`)[1:] {
		n, _ := strconv.Atoi(part[:strings.IndexAny(part, ",}")])
		s.late = max(s.late, n)
	}
	return s, nil
}

// profile takes a CPU profile of the core while the steady part lasts, if asked.
func (b *bench) profile(ctx context.Context, s *server) <-chan error {
	done := make(chan error, 1)
	if b.pprof == "" || s.admin == "" {
		done <- nil
		return done
	}
	go func() {
		done <- func() error {
			url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.admin, int(b.steady.Seconds()))
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
