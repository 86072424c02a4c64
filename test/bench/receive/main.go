// Command receive measures what it costs to receive WebRTC: the CPU of the ingest's
// whole process per packet, boundary to the core included, beside that of a pion that
// has its stock interceptors and throws away what it reads. Both get the same packets,
// from a process of their own that is not counted; the machine should have nothing else
// to do.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	gateway string
	streams int
	warm    time.Duration
	steady  time.Duration
	role    string
	addr    string
}

func main() {
	var o options
	flag.StringVar(&o.gateway, "gateway", "bin/gateway", "binary to measure")
	flag.IntVar(&o.streams, "n", 50, "streams")
	flag.DurationVar(&o.warm, "warm", 5*time.Second, "how long to let it settle")
	flag.DurationVar(&o.steady, "steady", 20*time.Second, "how long to measure")
	flag.StringVar(&o.role, "role", "", "internal: send, stock")
	flag.StringVar(&o.addr, "addr", "", "internal: where the other process listens")
	flag.Parse()
	var err error
	switch o.role {
	case "send":
		err = send(o)
	case "stock":
		err = stock(o)
	default:
		err = measure(o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "receive:", err)
		os.Exit(1)
	}
}

// What is asked.
const (
	askedMicros = 13.0
	askedRatio  = 0.75
	askedMB     = 1.5
)

// A result is one receiver's.
type result struct {
	micros  float64 // of CPU per packet
	packets float64 // per second
	mb      float64 // resident, per session
	lost    float64 // share of the packets
}

func measure(o options, out io.Writer) error {
	ours, err := measureGateway(o)
	if err != nil {
		return fmt.Errorf("measuring the gateway: %w", err)
	}
	other, err := measureStock(o)
	if err != nil {
		return fmt.Errorf("measuring stock pion: %w", err)
	}
	row := func(what, asked, measured string, ok bool) {
		verdict := "ok"
		if !ok {
			verdict = "MISSED"
		}
		fmt.Fprintf(out, "%-46s %-10s %-40s %s\n", what, asked, measured, verdict)
	}
	fmt.Fprintf(out, "%d streams, %.0f packets/s (stock: %.0f)\n", o.streams, ours.packets, other.packets)
	row("CPU of the ingest process per packet, us", fmt.Sprintf("<= %.0f", askedMicros), fmt.Sprintf("%.2f", ours.micros), ours.micros <= askedMicros)
	row("the same of stock pion that discards", "", fmt.Sprintf("%.2f", other.micros), true)
	row("ratio", fmt.Sprintf("<= %.2f", askedRatio), fmt.Sprintf("%.2f", ours.micros/other.micros), ours.micros/other.micros <= askedRatio)
	row("resident MB per session", fmt.Sprintf("<= %.1f", askedMB), fmt.Sprintf("%.2f", ours.mb), ours.mb <= askedMB)
	row("packets given up", "", fmt.Sprintf("%.4f %%", 100*ours.lost), true)
	return nil
}

// usage reads CPU time and resident bytes of a process; of these its own, without
// the pages of its file.
func usage(pid int) (cpu time.Duration, rss int64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 22 {
		return 0, 0, errors.New("short /proc/PID/stat")
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(f[i], 10, 64); return n }
	const tick = 10 * time.Millisecond
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			rss, _ = strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
		}
	}
	return time.Duration(number(11)+number(12)) * tick, rss << 10, nil
}

// measure measures the process pid, whose packets count returns.
func (o options) measure(pid int, idle int64, count func() (packets, lost float64, err error)) (r result, err error) {
	time.Sleep(o.warm)
	n0, l0, err := count()
	if err != nil {
		return r, err
	}
	c0, _, err := usage(pid)
	if err != nil {
		return r, err
	}
	t0 := time.Now()
	time.Sleep(o.steady)
	n1, l1, err := count()
	if err != nil {
		return r, err
	}
	c1, rss, err := usage(pid)
	if err != nil {
		return r, err
	}
	if n1 <= n0 {
		return r, errors.New("no packets came")
	}
	r.packets = (n1 - n0) / time.Since(t0).Seconds()
	r.micros = float64((c1 - c0).Microseconds()) / (n1 - n0)
	r.mb = float64(rss-idle) / 1e6 / float64(o.streams)
	r.lost = (l1 - l0) / (n1 - n0)
	return r, nil
}

// start runs a process that dies with this one.
func start(name string, args ...string) (*exec.Cmd, func(), error) {
	cmd := exec.Command(name, args...) // what goes wrong shows in what does not come
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return cmd, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}, nil
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// get reads a document, and waits for who serves it.
func get(url string, into any) error {
	var last error
	for range 200 {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil && res.StatusCode == http.StatusOK {
			b, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || into == nil {
				return err
			}
			return json.NewDecoder(bytes.NewReader(b)).Decode(into)
		}
		if err == nil {
			_ = res.Body.Close()
			err = errors.New(res.Status)
		}
		last = err
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("asking %s: %w", url, last)
}

func (o options) sender(endpoint string) (func(), error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	_, stop, err := start(self, "-role", "send", "-addr", endpoint, "-n", strconv.Itoa(o.streams))
	return stop, err
}

func measureGateway(o options) (result, error) {
	listen, err := freeAddr()
	if err != nil {
		return result{}, err
	}
	admin, err := freeAddr()
	if err != nil {
		return result{}, err
	}
	dir, err := os.MkdirTemp("", "headgate-receive-")
	if err != nil {
		return result{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "gateway.yaml")
	_, port, _ := net.SplitHostPort(listen)
	config := fmt.Sprintf("listen: %s\nadmin: %s\nplugins:\n  ingest-webrtc: {options: {udp: \"127.0.0.1:%s\", tcp: \"off\"}}\nroutes:\n  bench/*: {}\n", listen, admin, port)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return result{}, err
	}
	_, stop, err := start(o.gateway, "run", file)
	if err != nil {
		return result{}, err
	}
	defer stop()
	if err := get("http://"+listen+"/readyz", nil); err != nil {
		return result{}, err
	}
	var plugins struct {
		Plugins []struct {
			Name string
			PID  int
		}
	}
	if err := get("http://"+admin+"/v1/plugins", &plugins); err != nil {
		return result{}, err
	}
	pid := 0
	for _, p := range plugins.Plugins {
		if p.Name == "ingest-webrtc" {
			pid = p.PID
		}
	}
	_, idle, err := usage(pid)
	if err != nil {
		return result{}, err
	}
	stopSender, err := o.sender("http://" + listen + "/whip/bench/")
	if err != nil {
		return result{}, err
	}
	defer stopSender()
	if err := o.connected(func() (int, error) {
		_, _, live, err := gatewayPackets(admin)
		return live, err
	}); err != nil {
		return result{}, err
	}
	return o.measure(pid, idle, func() (float64, float64, error) {
		n, lost, _, err := gatewayPackets(admin)
		return n, lost, err
	})
}

// connected waits until all streams flow.
func (o options) connected(live func() (int, error)) error {
	for range 600 {
		n, err := live()
		if err != nil {
			return err
		}
		if n >= o.streams {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("the streams did not all connect within a minute")
}

// gatewayPackets sums the publishers' figures, which are up to a second old.
func gatewayPackets(admin string) (packets, lost float64, live int, err error) {
	var streams struct {
		Streams []struct {
			Publisher *struct{ Values map[string]float64 }
		}
	}
	if err := get("http://"+admin+"/v1/streams", &streams); err != nil {
		return 0, 0, 0, err
	}
	for _, s := range streams.Streams {
		if s.Publisher != nil && s.Publisher.Values["units"] > 0 {
			live++
			packets += s.Publisher.Values["rtp_packets"]
			lost += s.Publisher.Values["rtp_packets_lost"]
		}
	}
	return packets, lost, live, nil
}

func measureStock(o options) (result, error) {
	addr, err := freeAddr()
	if err != nil {
		return result{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	cmd, stop, err := start(self, "-role", "stock", "-addr", addr)
	if err != nil {
		return result{}, err
	}
	defer stop()
	var c counts
	if err := get("http://"+addr+"/counts", &c); err != nil {
		return result{}, err
	}
	_, idle, err := usage(cmd.Process.Pid)
	if err != nil {
		return result{}, err
	}
	stopSender, err := o.sender("http://" + addr + "/whip/")
	if err != nil {
		return result{}, err
	}
	defer stopSender()
	if err := o.connected(func() (int, error) {
		err := get("http://"+addr+"/counts", &c)
		return c.Tracks, err
	}); err != nil {
		return result{}, err
	}
	return o.measure(cmd.Process.Pid, idle, func() (float64, float64, error) {
		err := get("http://"+addr+"/counts", &c)
		return float64(c.Packets), 0, err
	})
}
