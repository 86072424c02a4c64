package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/gateway/core"
	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/secret"
)

const demoStream = "demo"

// demoTargets stand for two CDNs.
var demoTargets = [...]string{"cdn-a", "cdn-b"}

func newDemo(a *app) *cobra.Command {
	var testSource bool
	var duration time.Duration
	var ad addresses
	cmd := &cobra.Command{
		Use: "demo", GroupID: groupRun, ValidArgsFunction: cobra.NoFileCompletions,
		Short: "Show it: a publish page, and two RTMP servers that say what arrives",
		Long: "Run a gateway with a publish page and two RTMP servers that stand for two CDNs.\n" +
			"Every second they say what really arrives: codecs, size, pictures per second,\n" +
			"bits per second, how much later than its picture sound arrives (a player puts\n" +
			"them together by their timestamps), and lag.",
		Example: "  gateway demo\n  gateway demo --test-source\n  gateway demo --test-source --duration 10s | tee demo.txt",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if duration < 0 {
				return fmt.Errorf("--duration %s: want a positive duration such as 10s", duration)
			}
			if duration > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, duration)
				defer cancel()
			}
			return a.demo(ctx, testSource, ad.overrides(cmd), cmd.Flags().Changed("log-level"))
		},
	}
	cmd.Flags().BoolVar(&testSource, "test-source", false, "publish a built-in test card instead of waiting for a browser")
	cmd.Flags().DurationVar(&duration, "duration", 0, "end after so long (default: never)")
	ad.flags(cmd)
	return cmd
}

func (a *app) demo(ctx context.Context, testSource bool, overrides []config.Override, levelGiven bool) error {
	run := config.Run{Stream: demoStream, Token: secret.New(rand.Text())}
	if testSource {
		run.Token, run.From = secret.String{}, "clip:"
	}
	var servers [len(demoTargets)]*rtmp.Server
	for i, name := range demoTargets {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return failed(fmt.Errorf("opening the RTMP server %s: %w", name, err))
		}
		defer func() { _ = l.Close() }() // its server has closed it, unless it was never run
		servers[i] = &rtmp.Server{Listener: l, Log: a.log.With("server", name)}
		run.Targets = append(run.Targets, config.RunTarget{Name: name, URL: "rtmp://" + l.Addr().String() + "/live/" + demoStream})
	}
	cfg, err := a.checked(config.ForRun(ctx, run, a.configOptions(overrides)))
	if err != nil {
		return err
	}
	screen := newDisplay(a.out)
	if screen.tty {
		a.logTo(screen)
		if !levelGiven {
			a.level.Set(max(a.level.Level(), slog.LevelWarn)) // the table says the rest
		}
	}
	// The servers end after the gateway, which says goodbye to them.
	serverCtx, stopServers := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	for i, s := range servers {
		running.Go(func() {
			if err := s.Run(serverCtx); err != nil {
				a.log.Error("the RTMP server ended", "target", demoTargets[i], "error", err)
			}
		})
	}
	defer running.Wait()
	defer stopServers()
	err = a.serve(ctx, cfg, banner{token: run.Token, demo: true}, func(ctx context.Context, g *core.Gateway) error {
		return watch(ctx, screen, func() []row {
			rows := make([]row, len(demoTargets))
			for i, name := range demoTargets {
				rows[i] = demoRow(g.Streams(), name, servers[i].Stats())
			}
			return rows
		})
	})
	return failed(err)
}

// watch shows rows every second until ctx ends.
func watch(ctx context.Context, screen *display, rows func() []row) error {
	started := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := screen.show(time.Since(started), rows()); err != nil {
			return fmt.Errorf("writing to standard output: %w", err)
		}
	}
}

// demoRow joins what the gateway says of a target with what its server sees.
func demoRow(all []status.Stream, name string, seen []rtmp.StreamStats) row {
	r := row{name: name, state: string(status.TargetIdle), note: "waiting for a publisher"}
	for _, s := range all {
		if s.Name != demoStream {
			continue
		}
		for _, t := range s.Targets {
			if t.Name != name {
				continue
			}
			r.state = string(t.State)
			if t.State != status.TargetIdle {
				r.note = ""
			}
			switch {
			case s.State == status.StreamHolding && t.State == status.TargetWaiting:
				r.note = away
			case t.LastError != nil && t.State != status.TargetLive:
				r.note = printable(t.LastError.Message)
			}
		}
	}
	if r.note == away {
		return r
	}
	for i := range seen {
		if seen[i].Ended.IsZero() {
			r.got = &seen[i]
		}
	}
	return r
}

// away is the note of a target that is held for its publisher.
const away = "connected, waiting for the publisher to come back"

func newSink(a *app) *cobra.Command {
	var listen, record string
	rtmpCmd := &cobra.Command{
		Use:   "rtmp",
		Short: "Receive RTMP: accept any stream, print its figures, record it",
		Long: "Receive RTMP from any publisher under any app and key, and say every second what\n" +
			"arrives. With --record each publication becomes an FLV file.",
		Example: "  gateway sink rtmp --listen 127.0.0.1:1935\n  gateway sink rtmp --listen :1935 --record recordings",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("log-level") {
				a.level.Set(max(a.level.Level(), slog.LevelWarn)) // the lines on standard output say the rest
			}
			return failed(a.sinkRTMP(cmd.Context(), listen, record))
		},
	}
	rtmpCmd.Flags().StringVar(&listen, "listen", "127.0.0.1:1935", "address to listen on, host:port")
	rtmpCmd.Flags().StringVar(&record, "record", "", "folder to write FLV files to")
	return group(&cobra.Command{Use: "sink", GroupID: groupRun, Short: "Receive streams and say what arrives", Example: "  gateway sink rtmp"}, rtmpCmd)
}

func (a *app) sinkRTMP(ctx context.Context, listen, record string) error {
	if _, _, err := net.SplitHostPort(listen); err != nil {
		return coded{exitUsage, fmt.Errorf("--listen %q: want host:port, for example 127.0.0.1:1935", listen)}
	}
	l, err := listenOn(ctx, "--listen", listen, "choose another with --listen")
	if err != nil {
		return err
	}
	screen := newDisplay(a.out)
	if screen.tty {
		a.logTo(screen)
	}
	if record != "" {
		if err := os.MkdirAll(record, 0o750); err != nil {
			_ = l.Close() // nothing was served on it
			return fmt.Errorf("--record: %w", err)
		}
	}
	fmt.Fprintf(screen, "Receiving at rtmp://%s, any app and key. Ctrl-C ends.\n", l.Addr())
	server := &rtmp.Server{
		Listener: l, RecordDir: record, Log: a.log,
		OnPublish: func(p *rtmp.Publish) {
			line := fmt.Sprintf("#%d published by %s", p.ID, p.Remote)
			if p.Agent != "" {
				line += " (" + printable(p.Agent) + ")"
			}
			if p.Recording != "" {
				line += ", recorded to " + p.Recording
			}
			fmt.Fprintln(screen, line)
		},
		OnEnd: func(p *rtmp.Publish, err error) {
			why := "the publisher said goodbye"
			if err != nil {
				why = printable(err.Error())
			}
			fmt.Fprintf(screen, "#%d ended after %s: %s\n", p.ID, time.Since(p.Since).Round(100*time.Millisecond), why)
		},
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan error, 1)
	go func() {
		watched <- watch(ctx, screen, func() []row {
			var rows []row
			stats := server.Stats()
			for i := range stats {
				if stats[i].Ended.IsZero() {
					rows = append(rows, row{name: fmt.Sprintf("#%d", stats[i].ID), state: "live", got: &stats[i]})
				}
			}
			return rows
		})
		cancel()
	}()
	err = server.Run(ctx)
	cancel()
	return errors.Join(err, <-watched)
}
