package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// guide returns the code blocks of docs/writing-a-plugin.md in a language.
func guide(t *testing.T, language string) []string {
	t.Helper()
	b, err := os.ReadFile("../../docs/writing-a-plugin.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(b), -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

func save(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func runGo(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// The guide for authors, done as it says: the program, its test, the check of the
// binary, and the mistake in the YAML that is reported at its line.
func TestGuideForAuthors(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	code, commands, yaml, text := guide(t, "go"), guide(t, "sh"), guide(t, "yaml"), guide(t, "text")
	if len(code) != 2 || len(commands) != 1 || len(yaml) != 1 || len(text) != 1 {
		t.Fatalf("%d programs, %d commands, %d configurations, %d findings", len(code), len(commands), len(yaml), len(text))
	}
	save(t, file("main.go"), code[0])
	save(t, file("main_test.go"), code[1])
	runGo(t, "test", file("main.go"), file("main_test.go"))
	runGo(t, "build", "-o", file("egress-null"), file("main.go"))

	_, line, ok := strings.Cut(commands[0], "\ngateway plugins check ")
	if !ok {
		t.Fatalf("the guide does not check what it builds: %s", commands[0])
	}
	check := append([]string{"plugins", "check"}, strings.Fields(line)...)
	check[2] = file("egress-null")
	var out, errs strings.Builder
	if code := execute(t.Context(), streams{out: &out, err: &errs}, check); code != exitOK || !strings.Contains(out.String(), "0 failed, 3 left out") {
		t.Errorf("exit code %d\n%s%s", code, out.String(), errs.String())
	}

	save(t, file("gateway.yaml"), yaml[0])
	t.Chdir(dir)
	errs.Reset()
	if code := execute(t.Context(), streams{out: &out, err: &errs}, []string{"validate", "gateway.yaml"}); code != exitUsage || !strings.Contains(errs.String(), text[0]) {
		t.Errorf("exit code %d\n%s", code, errs.String())
	}
}

// What breaks the contract is named, with the sentence and the finding, and the exit
// code is 1.
func TestCheckThatFails(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "egress-file")
	runGo(t, "build", "-o", exe, "../../examples/egress-file")
	media := t.TempDir()
	args := []string{"plugins", "check", exe, "--files", media, "--target", "file://" + media, "--bad-target", "file://" + media}
	var out, errs strings.Builder
	if code := execute(t.Context(), streams{out: &out, err: &errs}, args); code != exitFailure {
		t.Errorf("exit code %d\n%s", code, errs.String())
	}
	for _, want := range []string{
		"fail  egress: bad target",
		"      the contract: A target that cannot work is an error",
		"      the session is ",
		"20 checks passed, 1 failed, 3 left out",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestCheckAsJSON(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "transform-gain")
	runGo(t, "build", "-o", exe, "../../examples/transform-gain")
	var out, errs strings.Builder
	if code := execute(t.Context(), streams{out: &out, err: &errs}, []string{"plugins", "check", exe, "-o", "json"}); code != exitOK {
		t.Errorf("exit code %d\n%s", code, errs.String())
	}
	var r checkReport
	if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
		t.Fatal(err)
	}
	if r.Plugin != "transform-gain" || r.Passed < 13 || r.Failed != 0 || len(r.Checks) != r.Passed+r.LeftOut {
		t.Errorf("%+v", r)
	}
}

func TestCheckOfWhatIsNoPlugin(t *testing.T) {
	f := func(code int, want string, args ...string) {
		t.Helper()
		var errs strings.Builder
		got := execute(context.Background(), streams{out: &strings.Builder{}, err: &errs}, append([]string{"plugins", "check"}, args...))
		if got != code || !strings.Contains(errs.String(), want) {
			t.Errorf("exit code %d: %s", got, errs.String())
		}
	}
	f(exitUsage, "finding the plugin", filepath.Join(t.TempDir(), "nothing"))
	f(exitFailure, "exit status", "/bin/false")
	f(exitUsage, "want text or json", "/bin/false", "-o", "xml")
}
