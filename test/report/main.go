// Command report turns the output of `go test -json` on its standard input into
// what a person wants to read: one line per package, the whole output of what
// failed, how many passed, and a list of what was skipped and why. It knows the test2json format
// and nothing of the tests.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	skipped := flag.String("skipped", "", "append the skipped tests to this file")
	flag.Parse()
	ok, skips, err := report(os.Stdin, os.Stdout)
	if err == nil && *skipped != "" {
		err = appendLines(*skipped, skips)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	if !ok {
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

// report reads events from in and writes to out until in ends. ok tells whether
// nothing failed; skips has one line per skipped test.
func report(in io.Reader, out io.Writer) (ok bool, skips []string, err error) {
	type key struct{ pkg, test string }
	output := make(map[key][]string)
	passed, failed := 0, 0
	ok = true
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				// go vet and the linker speak plain text.
				fmt.Fprintf(out, "%s", line)
			} else {
				k := key{e.Package, e.Test}
				took := time.Duration(e.Elapsed * float64(time.Second))
				switch e.Action {
				case "output":
					output[k] = append(output[k], e.Output)
				case "build-output":
					fmt.Fprint(out, e.Output)
				case "build-fail":
					ok = false
				case "skip":
					if e.Test != "" {
						skips = append(skips, e.Test+": "+reason(output[k]))
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
					ok = false
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
			fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", passed, failed, len(skips))
			return ok, skips, nil
		}
		if err != nil {
			return false, skips, fmt.Errorf("reading events: %w", err)
		}
	}
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
		return fmt.Errorf("noting skipped tests: %w", err)
	}
	for _, l := range lines {
		if _, err := fmt.Fprintln(f, l); err != nil {
			_ = f.Close()
			return fmt.Errorf("noting skipped tests: %w", err)
		}
	}
	return f.Close()
}
