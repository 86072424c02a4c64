// Package cores fits the number of processor cores that a process runs Go code on
// to the work it has. It knows how much time the process spends and how many cores
// there are; it does not know what for.
//
// A media process with little to do wakes some hundred times a second for a few
// microseconds. With more than one core allowed the Go scheduler wakes a second
// thread each time to look for work that is not there, which costs more than the
// work: a stream's share of three processes was 10.1 % of a core with two cores
// allowed and 8.4 % with one. So a process starts with one and takes all of them
// when it needs them.
package cores

import (
	"context"
	"os"
	"runtime"
	"sync"
	"time"
)

const (
	// interval is how often the load is looked at: work that grows waits that long
	// for the other cores.
	interval = 500 * time.Millisecond
	// busy is the share of one core from which on all are allowed, idle that below
	// which one is enough, if it stays so for calm.
	busy = 0.5
	idle = 0.25
	calm = 10 * time.Second
)

// Start runs [Adapt] until stop is called, which waits for its end.
func Start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { Adapt(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// Adapt sets GOMAXPROCS until ctx ends, and to what it was then. It does nothing
// where the user has set the environment variable GOMAXPROCS, or where the
// process's time cannot be read.
func Adapt(ctx context.Context) {
	all := runtime.GOMAXPROCS(0)
	last, ok := spent()
	if os.Getenv("GOMAXPROCS") != "" || all == 1 || !ok {
		return
	}
	runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(all)
	f := fit{}
	at := time.Now()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		used, _ := spent()
		if changed := f.look(float64(used-last)/float64(now.Sub(at)), now); changed {
			if f.wide {
				runtime.GOMAXPROCS(all)
			} else {
				runtime.GOMAXPROCS(1)
			}
		}
		last, at = used, now
	}
}

// fit decides between one core and all.
type fit struct {
	wide  bool
	quiet time.Time // since when one core would do; zero if it would not
}

// look takes in the load since the last look, in cores, and reports whether wide
// changed.
func (f *fit) look(load float64, now time.Time) bool {
	if !f.wide {
		f.wide = load > busy
		f.quiet = time.Time{}
		return f.wide
	}
	switch {
	case load >= idle:
		f.quiet = time.Time{}
	case f.quiet.IsZero():
		f.quiet = now
	case now.Sub(f.quiet) >= calm:
		f.wide = false
		return true
	}
	return false
}
