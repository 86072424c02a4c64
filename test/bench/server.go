package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A server is one that runs, with all its processes.
type server struct {
	pid   int    // the parent of the others
	url   string // to publish to, with NAME in it
	udp   string // host:port where media comes in
	admin string // host:port of the gateway's pages; empty for a peer
	stop  func()
}

// start starts a server and waits until ready, a URL, answers.
func (b *bench) start(ctx context.Context, ready, program string, args ...string) (*server, error) {
	cmd := exec.Command(program, args...)
	name := filepath.Join(b.dir, filepath.Base(program)+".log")
	log, err := os.Create(name)
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
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	s := &server{pid: cmd.Process.Pid, stop: func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}}
	err = until(ctx, 15*time.Second, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, ready, nil)
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
		s.stop()
		text, _ := os.ReadFile(name)
		return nil, fmt.Errorf("starting %s: %w\n%s", program, err, text)
	}
	return s, nil
}

// startGateway starts the gateway with what it needs for the load.
func (b *bench) startGateway(ctx context.Context, l load) (*server, error) {
	listen, err := freeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	udp, err := freeAddr()
	if err != nil {
		return nil, err
	}
	rtmp, err := freeAddr()
	if err != nil {
		return nil, err
	}
	var y strings.Builder
	fmt.Fprintf(&y, "listen: %s\nadmin: %s\nplugins:\n  ingest-webrtc: {options: {udp: %q}}\n", listen, admin, udp)
	if b.in == "rtmp" {
		fmt.Fprintf(&y, "  ingest-rtmp: {options: {listen: %q}}\n", rtmp)
	}
	y.WriteString("routes:\n  bench/*:\n    to:\n")
	for i, addr := range b.recv.addrs[:l.targets] {
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
	s, err := b.start(ctx, "http://"+listen+"/readyz", path, "run", file)
	if err != nil {
		return nil, err
	}
	s.url, s.udp, s.admin = "http://"+listen+"/whip/bench/NAME", udp, admin
	if b.in == "rtmp" {
		s.url = "rtmp://" + rtmp + "/bench/NAME?token="
	}
	return s, nil
}

// startMediaMTX starts MediaMTX: it forwards by itself what needs no transcoding, and
// has one ffmpeg per stream for sound, as its documentation says.
func (b *bench) startMediaMTX(ctx context.Context, l load) (*server, error) {
	program := filepath.Join("bin", "mediamtx")
	build := exec.CommandContext(ctx, filepath.Join("test", "bench", "mediamtx", "build.sh"), program)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("building MediaMTX: %w", err)
	}
	var at [4]string
	for i := range at {
		var err error
		if at[i], err = freeAddr(); err != nil {
			return nil, err
		}
	}
	api, rtsp, whip, udp := at[0], at[1], at[2], at[3]
	var y strings.Builder
	fmt.Fprintf(&y, "logLevel: warn\napi: true\napiAddress: %s\nrtsp: true\nrtspTransports: [tcp]\nrtspAddress: %s\n", api, rtsp)
	y.WriteString("rtmp: false\nhls: false\nmoq: false\nsrt: false\n")
	fmt.Fprintf(&y, "webrtc: true\nwebrtcAddress: %s\nwebrtcLocalUDPAddress: %s\nwebrtcIPsFromInterfaces: false\nwebrtcAdditionalHosts: [127.0.0.1]\n", whip, udp)
	y.WriteString("paths:\n  \"~^bench-(.*)$\":\n")
	to := b.recv.addrs[:l.targets]
	if l.sound {
		var outputs []string
		for _, addr := range to {
			outputs = append(outputs, "[f=flv]rtmp://"+addr+"/live/$G1")
		}
		fmt.Fprintf(&y, "    runOnAvailableRestart: yes\n    runOnAvailable: >-\n      ffmpeg -nostdin -hide_banner -loglevel error -rtsp_transport tcp -i rtsp://%s/$MTX_PATH"+
			" -map 0:v -map 0:a -c:v copy -c:a aac -b:a 128k -f tee \"%s\"\n", rtsp, strings.Join(outputs, "|"))
	} else {
		y.WriteString("    forward:\n")
		for _, addr := range to {
			fmt.Fprintf(&y, "      - dest: rtmp://%s/live#$G1\n", addr)
		}
	}
	file := filepath.Join(b.dir, "mediamtx.yml")
	if err := os.WriteFile(file, []byte(y.String()), 0o600); err != nil {
		return nil, err
	}
	s, err := b.start(ctx, "http://"+api+"/v3/paths/list", program, file)
	if err != nil {
		return nil, err
	}
	s.url, s.udp = "http://"+whip+"/bench-NAME/whip", udp
	return s, nil
}
