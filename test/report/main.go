// Command report turns the output of `go test -json` on its standard input into
// what a person wants to read: one line per package, the whole output of what
// failed, how many passed, a list of what was skipped and why, and a list of the
// failed tests that may be run once more. It knows the test2json format and nothing
// of the tests.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	skipped := flag.String("skipped", "", "append the skipped tests to this file")
	again := flag.String("again", "", "append the failed tests to this file, a package and a test a line, if all that failed may be chance")
	flag.Parse()
	r, err := report(os.Stdin, os.Stdout)
	for name, lines := range map[string][]string{*skipped: r.skips, *again: r.again()} {
		if err == nil && name != "" {
			err = appendLines(name, lines)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	if !r.ok {
		os.Exit(1)
	}
}

// An event is one line of test2json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// slow is the time from which on a test gets a line of its own.
const slow = 3 * time.Second

// A test is a test function, or a package where name is empty.
type test struct{ pkg, name string }

// function is the test function that t is a part of.
func (t test) function() test {
	name, _, _ := strings.Cut(t.name, "/")
	return test{t.pkg, name}
}

// A result is what a run came to.
type result struct {
	ok     bool     // nothing failed
	skips  []string // a line per skipped test
	failed []test   // functions and packages
	grave  bool     // something failed that is never chance
}

// again returns the functions that failed, a package and a name a line: if a test
// that measures time on a busy machine can have failed so. A package that failed as
// a whole (it did not build, leaked a goroutine or ran out of its time), a data race
// and a panic are none of these: nothing is returned then.
func (r *result) again() []string {
	var out []string
	for _, t := range r.failed {
		if t.name != "" {
			out = append(out, t.pkg+" "+t.name)
		} else if !slices.ContainsFunc(r.failed, func(f test) bool { return f.name != "" && f.pkg == t.pkg }) {
			return nil
		}
	}
	if r.grave {
		return nil
	}
	return out
}

// report reads events from in and writes to out until in ends.
func report(in io.Reader, out io.Writer) (r result, err error) {
	output := make(map[test][]string)
	passed, failed := 0, 0
	r.ok = true
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				// go vet and the linker speak plain text.
				fmt.Fprintf(out, "%s", line)
			} else {
				k := test{e.Package, e.Test}
				took := time.Duration(e.Elapsed * float64(time.Second))
				switch e.Action {
				case "output":
					output[k] = append(output[k], e.Output)
					r.grave = r.grave || grave(e.Output)
				case "build-output":
					fmt.Fprint(out, e.Output)
				case "build-fail":
					r.ok, r.grave = false, true
				case "skip":
					if e.Test != "" {
						r.skips = append(r.skips, e.Test+": "+reason(output[k]))
					}
					delete(output, k)
				case "pass":
					if e.Test != "" {
						passed++
					}
					if e.Test == "" {
						fmt.Fprintf(out, "ok    %-50s %6.1fs\n", short(e.Package), e.Elapsed)
					} else if took >= slow && !strings.Contains(e.Test, "/") {
						fmt.Fprintf(out, "      %-50s %6.1fs\n", e.Test, e.Elapsed)
					}
					delete(output, k)
				case "fail":
					r.ok = false
					if f := k.function(); !slices.Contains(r.failed, f) {
						r.failed = append(r.failed, f)
					}
					name := short(e.Package)
					if e.Test != "" {
						failed++
						name += " " + e.Test
					}
					fmt.Fprintf(out, "FAIL  %-50s %6.1fs\n", name, e.Elapsed)
					for _, l := range output[k] {
						fmt.Fprint(out, "      ", l)
					}
					delete(output, k)
				}
			}
		}
		if err == io.EOF {
			fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", passed, failed, len(r.skips))
			return r, nil
		}
		if err != nil {
			return result{}, fmt.Errorf("reading events: %w", err)
		}
	}
}

// grave reports whether a line of a test's output tells of what is never chance.
func grave(line string) bool {
	return strings.Contains(line, "WARNING: DATA RACE") || strings.Contains(line, "found unexpected goroutines") || strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ")
}

// short leaves the module's name out of an import path.
func short(pkg string) string {
	return strings.TrimPrefix(pkg, "github.com/headgate/gateway/")
}

// reason finds the message of t.Skip in the output of a test.
func reason(lines []string) string {
	var parts []string
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "===") || strings.HasPrefix(l, "---") {
			continue
		}
		if file, text, found := strings.Cut(l, ": "); found && strings.Contains(file, ".go:") {
			l = text
		}
		parts = append(parts, l)
	}
	if len(parts) == 0 {
		return "no reason given"
	}
	return parts[len(parts)-1]
}

func appendLines(name string, lines []string) error {
	f, err := os.OpenFile(filepath.Clean(name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("noting tests: %w", err)
	}
	for _, l := range lines {
		if _, err := fmt.Fprintln(f, l); err != nil {
			_ = f.Close()
			return fmt.Errorf("noting tests: %w", err)
		}
	}
	return f.Close()
}
