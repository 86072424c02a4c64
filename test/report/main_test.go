package main

import (
	"io"
	"slices"
	"strings"
	"testing"
)

func TestReportShowsFailuresAndSkips(t *testing.T) {
	in := strings.Join([]string{
		`{"Action":"output","Package":"github.com/headgate/gateway/sdk/media","Test":"TestA","Output":"    a_test.go:3: got 1, want 2\n"}`,
		`{"Action":"fail","Package":"github.com/headgate/gateway/sdk/media","Test":"TestA","Elapsed":0.1}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:9: needs the Debian package nginx-light\n"}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}`,
		`{"Action":"skip","Package":"p","Test":"TestB"}`,
		`{"Action":"pass","Package":"p","Elapsed":1.25}`,
		``,
	}, "\n")
	var out strings.Builder
	r, err := report(strings.NewReader(in), &out)
	if err != nil || r.ok {
		t.Fatalf("ok %v, err %v; want a failure and no error", r.ok, err)
	}
	if want := []string{"TestB: needs the Debian package nginx-light"}; !slices.Equal(r.skips, want) {
		t.Errorf("skips %q, want %q", r.skips, want)
	}
	for _, want := range []string{"FAIL  sdk/media TestA", "got 1, want 2", "ok    p", "\n0 passed, 1 failed, 1 skipped\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "nginx-light") {
		t.Errorf("output of a test that did not fail is shown:\n%s", out.String())
	}
}

func TestReportPassesPlainTextOn(t *testing.T) {
	var out strings.Builder
	r, err := report(strings.NewReader("# pkg\nvet: broken\n"), &out)
	if err != nil || !r.ok {
		t.Fatalf("ok %v, err %v", r.ok, err)
	}
	if !strings.HasPrefix(out.String(), "# pkg\nvet: broken\n") {
		t.Errorf("got %q", out.String())
	}
}

func TestAgain(t *testing.T) {
	const (
		failure = `{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}
`
		part    = `{"Action":"fail","Package":"p","Test":"TestA/one"}` + "\n"
		other   = `{"Action":"fail","Package":"q","Test":"TestB"}` + "\n"
		race    = `{"Action":"output","Package":"p","Test":"TestA","Output":"WARNING: DATA RACE\n"}` + "\n"
		panics  = `{"Action":"output","Package":"p","Test":"TestA","Output":"panic: runtime error\n"}` + "\n"
		leaks   = `{"Action":"output","Package":"p","Output":"goleak: Errors on successful test run: found unexpected goroutines:\n"}` + "\n"
		quoted  = `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: log of the plugin: panic: on purpose\n"}` + "\n"
		leak    = `{"Action":"fail","Package":"r"}` + "\n"
		unbuilt = `{"Action":"build-fail","ImportPath":"s"}` + "\n"
	)
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"nothing failed":       {`{"Action":"pass","Package":"p","Test":"TestA"}` + "\n", nil},
		"a test":               {failure, []string{"p TestA"}},
		"a part of a test":     {part + failure, []string{"p TestA"}},
		"two tests":            {failure + other, []string{"p TestA", "q TestB"}},
		"a data race":          {race + failure, nil},
		"a panic":              {panics + failure, nil},
		"a panic in its words": {quoted + failure, []string{"p TestA"}},
		"a leak":               {leaks + failure, nil},
		"a whole package":      {failure + leak, nil},
		"does not build":       {failure + unbuilt, nil},
	} {
		r, err := report(strings.NewReader(c.in), io.Discard)
		if err != nil || !slices.Equal(r.again(), c.want) {
			t.Errorf("%s: %q, error %v; want %q", name, r.again(), err, c.want)
		}
	}
}
