package cores

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestFit(t *testing.T) {
	var f fit
	start := time.Unix(1000, 0)
	look := func(second, load float64, wide bool) {
		t.Helper()
		before := f.wide
		changed := f.look(load, start.Add(time.Duration(second*float64(time.Second))))
		if f.wide != wide || changed != (before != wide) {
			t.Errorf("at %v s, load %v: wide %v, changed %v", second, load, f.wide, changed)
		}
	}
	look(0, 0.1, false)
	look(1, 0.5, false)
	look(2, 0.6, true)
	look(3, 1.7, true)
	look(4, 0.2, true)
	look(13, 0.3, true) // not calm for ten seconds
	look(14, 0.1, true)
	look(23.5, 0.1, true)
	look(24, 0.1, false)
	look(25, 0.9, true)
}

// TestAdapt: a process that works hard gets its cores, and they are given back.
func TestAdapt(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two cores")
	}
	t.Setenv("GOMAXPROCS", "")
	before := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(before)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { Adapt(ctx) })
	await := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); runtime.GOMAXPROCS(0) != n; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("GOMAXPROCS %d, want %d", runtime.GOMAXPROCS(0), n)
			}
		}
	}
	await(1)
	await(2) // waiting is hard work
	cancel()
	running.Wait()
	if n := runtime.GOMAXPROCS(0); n != 2 {
		t.Errorf("GOMAXPROCS %d at the end, want 2", n)
	}
}

func TestAdaptLeavesTheUsersChoice(t *testing.T) {
	t.Setenv("GOMAXPROCS", "2")
	Adapt(t.Context())
}
