package main

import (
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
	ok, skips, err := report(strings.NewReader(in), &out)
	if err != nil || ok {
		t.Fatalf("ok %v, err %v; want a failure and no error", ok, err)
	}
	if want := []string{"TestB: needs the Debian package nginx-light"}; !slices.Equal(skips, want) {
		t.Errorf("skips %q, want %q", skips, want)
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
	ok, _, err := report(strings.NewReader("# pkg\nvet: broken\n"), &out)
	if err != nil || !ok {
		t.Fatalf("ok %v, err %v", ok, err)
	}
	if !strings.HasPrefix(out.String(), "# pkg\nvet: broken\n") {
		t.Errorf("got %q", out.String())
	}
}
