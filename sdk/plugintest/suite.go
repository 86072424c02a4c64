package plugintest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Check is one row of a conformance suite.
type Check struct {
	// Name of the check, as a test shows it.
	Name string
	// Contract is the sentence of the contract that it checks.
	Contract string

	run func(t T)
}

// A Suite is the checks that apply to one plugin, in order.
type Suite struct {
	// Kind of plugin: egress, ingest or transform.
	Kind   string
	Checks []Check
	// LeftOut are the checks that need something which was not given.
	LeftOut []LeftOut
}

// A LeftOut is a check that needs something.
type LeftOut struct {
	Check
	Needs string
}

// needs returns checks with more, if what they need is given, and notes them as
// left out otherwise.
func (s *Suite) needs(checks, more []Check, given bool, what string) []Check {
	if given {
		return append(checks, more...)
	}
	for _, c := range more {
		s.LeftOut = append(s.LeftOut, LeftOut{c, what})
	}
	return checks
}

// Test runs each check as a subtest of t.
func (s Suite) Test(t *testing.T) {
	t.Helper()
	for _, c := range s.Checks {
		t.Run(c.Name, func(t *testing.T) { c.run(t) })
	}
}

// An Outcome is how a check ended.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "pass"
	Failed  Outcome = "fail"
	Skipped Outcome = "skip" // something was not given that the check needs
)

// A Result says what came out of one check.
type Result struct {
	Kind     string        `json:"kind"`
	Check    string        `json:"check"`
	Contract string        `json:"contract"`
	Outcome  Outcome       `json:"outcome"`
	Findings []string      `json:"findings,omitempty"`
	Took     time.Duration `json:"took_ns"`
}

// Report runs the checks without a Go test, one after the other, and calls each
// with every result as it comes. It stops early when ctx ends.
func (s Suite) Report(ctx context.Context, each func(Result)) {
	for _, c := range s.Checks {
		if ctx.Err() != nil {
			return
		}
		each(c.report(ctx, s.Kind))
	}
	for _, c := range s.LeftOut {
		each(Result{Kind: s.Kind, Check: c.Name, Contract: c.Contract, Outcome: Skipped, Findings: []string{"needs " + c.Needs}})
	}
}

func (c Check) report(ctx context.Context, kind string) Result {
	ctx, cancel := context.WithCancel(ctx)
	r := &reporter{ctx: ctx, result: Result{Kind: kind, Check: c.Name, Contract: c.Contract, Outcome: Passed}}
	began := time.Now()
	r.goroutine(func() { c.run(r) })
	cancel()
	for len(r.cleanups) > 0 {
		last := len(r.cleanups) - 1
		f := r.cleanups[last]
		r.cleanups = r.cleanups[:last]
		r.goroutine(f)
	}
	r.result.Took = time.Since(began)
	return r.result
}

// A reporter is a T that is no test.
type reporter struct {
	ctx      context.Context
	cleanups []func()

	mu     sync.Mutex // guards result
	result Result
}

// goroutine calls f on a goroutine that Fatalf and Skipf end, and waits for it. A
// panic is a finding.
func (r *reporter) goroutine(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				r.Errorf("the check panicked: %v", v)
			}
		}()
		f()
	}()
	<-done
}

func (r *reporter) Helper()                  {}
func (r *reporter) Logf(string, ...any)      {}
func (r *reporter) Context() context.Context { return r.ctx }
func (r *reporter) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }

func (r *reporter) TempDir() string {
	dir, err := os.MkdirTemp("", "plugin-check-")
	if err != nil {
		r.Fatalf("making a temporary directory: %v", err)
	}
	r.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (r *reporter) note(o Outcome, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Outcome = o
	r.result.Findings = append(r.result.Findings, fmt.Sprintf(format, args...))
}

func (r *reporter) Errorf(format string, args ...any) { r.note(Failed, format, args...) }

func (r *reporter) Fatalf(format string, args ...any) {
	r.note(Failed, format, args...)
	runtime.Goexit()
}

func (r *reporter) Skipf(format string, args ...any) {
	r.note(Skipped, format, args...)
	runtime.Goexit()
}

// goroutines returns the stacks of all goroutines by their number, but for those
// that run tests.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	all := make(map[string]string)
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(stack, "testing.(*T).Run") || strings.Contains(stack, "testing.tRunner(") {
			continue
		}
		if number, _, ok := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " "); ok {
			all[number] = stack
		}
	}
	return all
}

// newGoroutines waits up to d for the goroutines that are not in before to end,
// and returns the stack of one that does not.
func newGoroutines(before map[string]string, d time.Duration) error {
	deadline := time.Now().Add(d)
	for {
		left := ""
		own := make([]byte, 64)
		own = own[:runtime.Stack(own, false)]
		for number, stack := range goroutines() {
			if _, old := before[number]; !old && !strings.HasPrefix(string(own), "goroutine "+number+" ") {
				left = stack
			}
		}
		if left == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("a goroutine is left:\n" + left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
