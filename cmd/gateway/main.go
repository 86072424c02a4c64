// Command gateway is Headgate: the gateway, its first-party plugins and its
// tools in one file.
//
// It holds the commands and the table of built-in plugins, and wires the parts
// together. It knows all of them and does nothing itself: what a stream is, how
// plugins run and what a configuration means is decided elsewhere.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/headgate/gateway/internal/cores"
	"github.com/headgate/gateway/sdk"
)

// version is set by the linker.
var version = ""

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1 // something went wrong while running
	exitUsage   = 2 // wrong arguments, or a configuration with errors
)

func main() {
	stopAdapting := cores.Start()
	if len(os.Args) == 3 && os.Args[1] == pluginCommand {
		for _, b := range builtIns() {
			if b.name == os.Args[2] {
				sdk.Serve(b.plugin())
				stopAdapting()
				return
			}
		}
		fmt.Fprintf(os.Stderr, "gateway: there is no built-in plugin %q\n", os.Args[2])
		os.Exit(exitUsage)
	}
	ctx, stop := untilSignal(context.Background(), os.Stderr)
	code := execute(ctx, streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}, os.Args[1:])
	stop()
	stopAdapting()
	os.Exit(code)
}

// streams are what a command reads and writes.
type streams struct {
	in  io.Reader
	out io.Writer
	err io.Writer
}

// sameSignal is the time within which a second signal is the same wish: one that
// went to the process and, by whoever started it, to its group too.
const sameSignal = 300 * time.Millisecond

// untilSignal ends the context at the first Ctrl-C or SIGTERM, for an orderly
// end. A second one ends the process at once.
func untilSignal(parent context.Context, stderr io.Writer) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	got := make(chan os.Signal, 2)
	signal.Notify(got, os.Interrupt, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-got:
		case <-ctx.Done():
			return
		}
		cancel()
		first := time.Now()
		for s := range got {
			if time.Since(first) > sameSignal {
				fmt.Fprintf(stderr, "gateway: second %v, ending at once\n", s)
				os.Exit(exitFailure)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(got)
		close(got)
		cancel()
		<-ended
	}
}

// A coded error carries the exit code.
type coded struct {
	code int
	err  error
}

func (c coded) Error() string { return c.err.Error() }
func (c coded) Unwrap() error { return c.err }

// failed marks an error of running, as opposed to one of usage.
func failed(err error) error {
	var c coded
	if err == nil || errors.As(err, &c) {
		return err
	}
	return coded{exitFailure, err}
}

// errReported is an error that was shown already, as findings.
var errReported = errors.New("the configuration has errors")

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, s streams, args []string) int {
	root := newRoot(s)
	root.SetArgs(append([]string{}, args...)) // none at all cobra would take from the process
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitUsage
	var c coded
	if errors.As(err, &c) {
		code = c.code
	}
	if errors.Is(err, errReported) {
		return code
	}
	fmt.Fprintf(s.err, "gateway: %v\n", err)
	if !errors.As(err, &c) {
		fmt.Fprintln(s.err, "gateway --help, or --help after a command, says how it is used")
	}
	return code
}
