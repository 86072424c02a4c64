package plugintest

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// Each check finds the plugin that breaks its sentence of the contract, and no
// other check takes offence at it.
func TestEachFaultOfAnEgress(t *testing.T) {
	each(t, func(fault string, patience time.Duration) Suite {
		return EgressSuite(inTest(fault), fakeOptions(patience))
	})
}

// each checks that a suite passes, and that the fault of each of its checks fails that
// check alone: one without a plugin that breaks its sentence fails here.
// How long a wait may be is for the suite to say: the check whose fault is that nothing
// comes need not wait long, and no other may be held up by a busy machine.
func each(t *testing.T, suite func(fault string, patience time.Duration) Suite) {
	t.Helper()
	whole := suite("", patience)
	for _, c := range whole.LeftOut {
		t.Errorf("%s: nothing shows what it finds; it needs %s", c.Name, c.Needs)
	}
	if failed, skipped := failures(t, whole); len(failed)+len(skipped) > 0 {
		t.Fatalf("a plugin without fault: failed %v, left out %v", failed, skipped)
	}
	for _, c := range whole.Checks {
		t.Run(c.Name, func(t *testing.T) {
			s := suite(c.Name, patience)
			i := slices.IndexFunc(s.Checks, func(o Check) bool { return o.Name == c.Name })
			s.Checks[i] = suite(c.Name, 2*time.Second).Checks[i]
			switch {
			case ofThisProcess(c):
				s.Checks = quick(s.Checks, c.Name)
			case c.Name == "lost Attach": // it holds up the end of every check
				t.Parallel()
				s.Checks = slices.DeleteFunc(s.Checks, func(o Check) bool { return o.Name != c.Name && o.Name != "describe" && o.Name != "options" })
			default:
				t.Parallel()
				s.Checks = slices.DeleteFunc(quick(s.Checks, c.Name), ofThisProcess)
			}
			if failed, _ := failures(t, s); !slices.Equal(failed, []string{c.Name}) {
				t.Errorf("failed: %v", failed)
			}
		})
	}
}

// ofThisProcess reports whether a check looks at this very process, of which the faults
// of others may be running: it runs while nothing else does.
func ofThisProcess(c Check) bool { return c.Name == "goroutines" || c.Name == "standard output" }

// quick returns the checks without those that take their time, save the one of the
// fault.
func quick(checks []Check, fault string) []Check {
	slow := []string{"large unit", "closed while blocked", "slow neighbour", "lost Attach", "attach again"}
	return slices.DeleteFunc(slices.Clone(checks), func(c Check) bool { return c.Name != fault && slices.Contains(slow, c.Name) })
}

// misbehave is what a plugin can do to this process: print, and leave a goroutine.
func misbehave(fault string) {
	switch fault {
	case "standard output":
		fmt.Println("a line of chatter")
	case "goroutines":
		go func() { select {} }()
	}
}

// rude is an egress of package sdk that changes what it is given.
type rude struct{ fault bool }

func (r rude) Open(context.Context, sdk.Target, []media.Track) (sdk.Sink, error) { return r, nil }

func (r rude) WriteAccessUnit(_ context.Context, u *media.AccessUnit) error {
	if r.fault && u.Track == 2 { // no two sessions of the checks share its units
		u.Payload[0]++
	}
	return nil
}
func (rude) Close(context.Context) error { return nil }

// The check that only an egress of package sdk has.
func TestSharedPayload(t *testing.T) {
	o := EgressOptions{NewTarget: func(T) *wire.Target { return &wire.Target{Url: "rude://x"} }}
	for fault, want := range map[bool][]string{false: nil, true: {"payload"}} {
		s := EgressSuite(InProcess(sdk.EgressOf("rude", "1", []string{"rude"}, rude{fault})), o)
		if failed, _ := failures(t, s); !slices.Equal(failed, want) {
			t.Errorf("failed %v, want %v", failed, want)
		}
	}
}

// The same suite with a process, and what only a process can do wrong.
func TestProgram(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range []string{"", "started by hand", "standard output", "lost Attach", "attach again"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			s := EgressSuite(Program(exe, "plugin", fault, filepath.Join(t.TempDir(), "lock")), fakeOptions(patience))
			want := []string{fault}
			if fault == "" {
				want = nil
			} else {
				keep := []string{"stream", "started by hand", "standard output", "lost Attach", "attach again"}
				if fault == "attach again" { // after it nothing starts any more
					keep = []string{"stream", fault}
				}
				s.Checks = slices.DeleteFunc(s.Checks, func(c Check) bool { return !slices.Contains(keep, c.Name) })
			}
			if failed, _ := failures(t, s); !slices.Equal(failed, want) {
				t.Errorf("failed: %v", failed)
			}
		})
	}
}

// A program that cannot be talked to says why, whatever the check.
func TestProgramThatCannotStart(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	find := func(want string, p Plugin) {
		t.Helper()
		s := EgressSuite(p, fakeOptions(patience))
		s.Checks = s.Checks[:1]
		s.Report(t.Context(), func(r Result) {
			if r.Outcome != Failed || !strings.Contains(strings.Join(r.Findings, "\n"), want) {
				t.Errorf("%s: %s", r.Outcome, strings.Join(r.Findings, "\n"))
			}
		})
	}
	find("it speaks version 99 of the wire, want 1", Program(exe, "plugin", "version"))
	find("starting the plugin", Program(filepath.Join(t.TempDir(), "nothing")))
	find("before its handshake (exit status 3) its standard error:\nno camera", Program("/bin/sh", "-c", "echo no camera >&2; exit 3"))
	find(`its first line on standard output is "hello\n", want 1|1|unix|`, Program("/bin/sh", "-c", "echo hello; sleep 60"))
}

// The comment of each check is its sentence of the contract, word for word, so
// that neither can say something else than the other.
func TestCommentsAreTheContract(t *testing.T) {
	comments := map[string]string{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	contracts := map[string]string{} // by the name of the method
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				comments[n.Name.Name] += strings.Join(strings.Fields(n.Doc.Text()), " ") + "\n"
			case *ast.CompositeLit: // {"name", "sentence", k.method}
				if len(n.Elts) == 3 {
					sentence, ok1 := n.Elts[1].(*ast.BasicLit)
					method, ok2 := n.Elts[2].(*ast.SelectorExpr)
					if ok1 && ok2 && sentence.Kind == token.STRING {
						contracts[method.Sel.Name+" "+sentence.Value] = method.Sel.Name
					}
				}
			}
			return true
		})
	}
	if len(contracts) < 20 {
		t.Errorf("only %d checks were found", len(contracts))
	}
	for c, method := range contracts {
		sentence := strings.Trim(strings.TrimPrefix(c, method+" "), `"`)
		if !slices.Contains(strings.Split(comments[method], "\n"), sentence) {
			t.Errorf("%s is about %q\nbut its comment says %q", method, sentence, comments[method])
		}
	}
}

// A reporter is a test as far as checks are concerned.
func TestReporter(t *testing.T) {
	var order []string
	var mu sync.Mutex
	note := func(s string) { mu.Lock(); order = append(order, s); mu.Unlock() }
	run := func(f func(t T)) Result {
		var got Result
		Suite{Kind: "egress", Checks: []Check{{"x", "y", f}}}.Report(t.Context(), func(r Result) { got = r })
		return got
	}
	dir := ""
	r := run(func(t T) {
		dir = t.TempDir()
		t.Cleanup(func() { note("first") })
		t.Cleanup(func() { note("second"); t.Fatalf("in a cleanup") })
		t.Errorf("one")
		if t.Fatalf("two"); dir != "" {
			note("never")
		}
	})
	if r.Outcome != Failed || fmt.Sprint(r.Findings) != "[one two in a cleanup]" || fmt.Sprint(order) != "[second first]" {
		t.Errorf("%+v, %v", r, order)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the temporary directory is still there")
	}
	if r := run(func(t T) { t.Skipf("not here") }); r.Outcome != Skipped {
		t.Errorf("%+v", r)
	}
	if r := run(func(T) { panic("oops") }); r.Outcome != Failed || !strings.Contains(r.Findings[0], "oops") {
		t.Errorf("%+v", r)
	}
	if r := run(func(T) {}); r.Outcome != Passed || r.Took > time.Minute {
		t.Errorf("%+v", r)
	}
}
