package main

import (
	"context"
	"fmt"
	"runtime"
)

// peerStreamsPerCore is how many streams with sound a peer gets per core of the
// machine: with an ffmpeg for each, more of them only measure the machine.
const peerStreamsPerCore = 8

// table measures the grid of loads and prints one line for each.
func (b *bench) table(ctx context.Context) error {
	if len(b.streams) == 0 {
		return nil
	}
	fmt.Fprintf(b.out, "\nCPU and memory of all processes; %v each, %v after the last first picture\n", b.steady, settle)
	fmt.Fprintf(b.out, "%3s %2s %-5s %-9s %9s %9s %7s %9s %17s %22s %6s %5s %5s\n", "N", "to", "sound", "",
		"CPU-s per", "% of a", "MB", "MB per", "POST to picture", "latency, ms", "lost", "late", "UDP")
	fmt.Fprintf(b.out, "%3s %2s %-5s %-9s %9s %9s %7s %9s %17s %22s %6s %5s %5s\n", "", "", "", "",
		"stream-min", "core", "", "stream", "p50 / max, ms", "p50 / p95 / p99", "", "", "drops")
	for _, sound := range []bool{true, false} {
		for _, targets := range b.fanout {
			for _, streams := range b.streams {
				if err := b.line(ctx, load{streams, targets, sound}); err != nil {
					return err
				}
			}
		}
	}
	fmt.Fprintln(b.out, "lost: pictures that did not arrive. late: pictures that the publisher was late to send: if many, the machine was too busy.")
	return nil
}

// line measures one load, with the peer if there is one, and prints it.
func (b *bench) line(ctx context.Context, l load) error {
	s, err := b.startGateway(ctx, l)
	if err != nil {
		return err
	}
	ours, err := b.measureSteady(ctx, s, l)
	s.stop()
	if err != nil {
		return fmt.Errorf("gateway, %+v: %w", l, err)
	}
	b.print(l, "gateway", ours)
	if b.peer == "" {
		return nil
	}
	if l.sound && l.streams > peerStreamsPerCore*runtime.NumCPU() {
		fmt.Fprintf(b.out, "%12s %-9s not run: an ffmpeg per stream fills the machine\n", "", b.peer)
		return nil
	}
	if s, err = b.startMediaMTX(ctx, l); err != nil {
		return err
	}
	theirs, err := b.measureSteady(ctx, s, l)
	s.stop()
	if err != nil {
		fmt.Fprintf(b.out, "%12s %-9s failed: %v\n", "", b.peer, err)
		return nil
	}
	b.print(l, b.peer, theirs)
	ratio := func(a, b float64) string { return fmt.Sprintf("x%.2f", a/max(b, 1e-9)) }
	fmt.Fprintf(b.out, "%12s %-9s %9s %9s %7s %9s %17s %22s\n", "", "ratio",
		ratio(ours.cpu, theirs.cpu), "", ratio(float64(ours.rss), float64(theirs.rss)), ratio(float64(ours.rssPer), float64(theirs.rssPer)),
		ratio(float64(quantile(ours.setups, 0.5)), float64(quantile(theirs.setups, 0.5))),
		ratio(float64(quantile(ours.latency, 0.5)), float64(quantile(theirs.latency, 0.5))))
	return nil
}

func (b *bench) print(l load, name string, s steady) {
	sound := "no"
	if l.sound {
		sound = "AAC"
	}
	f := func(q float64) float64 { return float64(quantile(s.latency, q)) / 1e6 }
	fmt.Fprintf(b.out, "%3d %2d %-5s %-9s %9.2f %9.1f %7d %9.1f %17s %22s %6d %5d %5d\n", l.streams, l.targets, sound, name,
		s.cpu*0.6/float64(l.streams), s.cpu, s.rss>>20, float64(s.rssPer)/(1<<20),
		fmt.Sprintf("%.0f / %.0f", float64(quantile(s.setups, 0.5))/1e6, float64(quantile(s.setups, 1))/1e6),
		fmt.Sprintf("%.1f / %.1f / %.1f", f(0.5), f(0.95), f(0.99)), s.lost, s.late, s.udpDrops)
}
