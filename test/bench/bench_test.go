package main

import (
	"os"
	"testing"
	"time"
)

func TestTreeSeesOwnProcess(t *testing.T) {
	before := tree(os.Getpid())
	own, ok := before[os.Getpid()]
	if !ok || own.rss < 1<<20 || own.name != "core" {
		t.Fatalf("own process: %+v", own)
	}
	for start := time.Now(); time.Since(start) < 50*time.Millisecond; {
		// Uses the processor.
	}
	cpu, _ := tree(os.Getpid()).since(before)
	if cpu < 20*time.Millisecond || cpu > 10*time.Second {
		t.Errorf("50 ms of work counted as %v", cpu)
	}
}

func TestQuantile(t *testing.T) {
	d := []time.Duration{4, 1, 3, 2}
	if quantile(d, 0.5) != 3 || quantile(d, 1) != 4 || quantile(d, 0) != 1 || quantile(nil, 0.5) != 0 {
		t.Errorf("quantiles %v %v %v", quantile(d, 0), quantile(d, 0.5), quantile(d, 1))
	}
}
