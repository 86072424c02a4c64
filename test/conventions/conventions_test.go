package conventions

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/headgate/gateway"

// A file is one Go file of the module.
type file struct {
	name string // from the root, with slashes
	dir  string
	test bool
	ast  *ast.File
	fset *token.FileSet
	text string
}

// root returns the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
}

// walk calls f with every file of the repository that is not generated into bin
// or hidden.
func walk(t *testing.T, f func(name string)) {
	t.Helper()
	top := root(t)
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel == "bin" || rel == "dist" || rel == ".git" || d.Name() == "node_modules" {
				return filepath.SkipDir
			}
			return nil
		}
		f(rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sources parses every Go file of the module.
func sources(t *testing.T) []file {
	t.Helper()
	top := root(t)
	var list []file
	walk(t, func(name string) {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "/testdata/") {
			return
		}
		text, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("parsing: %v", err)
			return
		}
		list = append(list, file{name, path.Dir(name), strings.HasSuffix(name, "_test.go"), parsed, fset, string(text)})
	})
	return list
}

// within reports whether dir is folder or below it.
func within(dir, folder string) bool { return dir == folder || strings.HasPrefix(dir, folder+"/") }

func withinAny(dir string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return within(dir, f) })
}

// allowed says whether code in dir may import the package in the folder imported
// of this module. Tests may also use what is made for tests.
func allowed(dir, imported string, test bool) bool {
	if dir == imported {
		return true // a test of the package from outside
	}
	if test && withinAny(imported, "test/peers", "test/badrtmp", "test/camera", "test/faultlab", "test/intake", "test/testcard") && withinAny(dir, "plugins", "internal") {
		return true // what is at the other end of a wire, and the wire
	}
	switch {
	case within(dir, "cmd"), within(dir, "test"):
		return true
	case within(dir, "core/router"):
		return within(imported, "sdk/media")
	case within(dir, "core"):
		if test && within(imported, "internal") {
			return true
		}
		return withinAny(imported, "core", "sdk/media", "sdk/wire", "sdk/secret") || (test && within(imported, "sdk"))
	case within(dir, "plugins"):
		// A plugin is plugins/NAME with all below it.
		parts := strings.SplitN(dir, "/", 3)
		own := strings.Join(parts[:min(2, len(parts))], "/")
		return withinAny(imported, own, "sdk", "internal")
	case within(dir, "examples"):
		return within(imported, "sdk") || within(imported, "examples")
	case within(dir, "sdk/media"):
		return within(imported, "sdk/media")
	case within(dir, "sdk"):
		return within(imported, "sdk") || (test && within(imported, "internal"))
	case within(dir, "internal"):
		return withinAny(imported, "internal", "sdk/media", "sdk/secret", "sdk/quickio")
	default:
		return false
	}
}

func TestImportsRunOneWay(t *testing.T) {
	for _, f := range sources(t) {
		for _, spec := range f.ast.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			own, found := strings.CutPrefix(name, module+"/")
			if found && !allowed(f.dir, own, f.test) {
				t.Errorf("%s: %s must not import %s", f.fset.Position(spec.Pos()), f.dir, own)
			}
			// The normal form stands on the standard library alone; tests compare it
			// with independent parsers.
			if !found && within(f.dir, "sdk/media") && !f.test && strings.Contains(name, ".") {
				t.Errorf("%s: sdk/media must not import %s", f.fset.Position(spec.Pos()), name)
			}
			if name == "C" {
				t.Errorf("%s: no cgo", f.fset.Position(spec.Pos()))
			}
		}
	}
}

func TestRulesOfImports(t *testing.T) {
	for _, c := range []struct {
		dir, imported string
		want          bool
	}{
		{"core/router", "sdk/media", true},
		{"core/router", "sdk/media/h264", true},
		{"core/router", "sdk/wire", false},
		{"core/router", "core/config", false},
		{"core/push", "plugins/egress-rtmp", false},
		{"core/push", "internal/rtmp", false},
		{"core/push", "sdk", false},
		{"core/config", "sdk/secret", true},
		{"plugins/egress-rtmp", "internal/rtmp", true},
		{"plugins/egress-rtmp/cmd/egress-rtmp", "plugins/egress-rtmp", true},
		{"plugins/egress-rtmp", "plugins/ingest-clip", false},
		{"plugins/egress-rtmp", "core/config", false},
		{"examples/egress-file", "internal/rtmp", false},
		{"examples/egress-file", "sdk", true},
		{"sdk", "core/pluginhost", false},
		{"sdk/media", "sdk/wire", false},
		{"internal/rtmp", "sdk", false},
		{"cmd/gateway", "plugins/egress-rtmp", true},
	} {
		if got := allowed(c.dir, c.imported, false); got != c.want {
			t.Errorf("%s importing %s: allowed %v, want %v", c.dir, c.imported, got, c.want)
		}
	}
}

// A package says once what it knows and what it does not.
func TestEveryPackageSaysWhatItIs(t *testing.T) {
	comments := map[string][]string{}
	dirs := map[string]string{}
	for _, f := range sources(t) {
		if f.test || ast.IsGenerated(f.ast) {
			continue
		}
		dirs[f.dir] = f.ast.Name.Name
		if f.ast.Doc != nil {
			comments[f.dir] = append(comments[f.dir], f.name)
			text := f.ast.Doc.Text()
			start := "Package " + f.ast.Name.Name + " "
			command := f.ast.Name.Name == "main"
			if command {
				start = "Command "
			}
			switch {
			case !strings.HasPrefix(text, start):
				t.Errorf("%s: its comment starts with %q", f.name, start)
			case !command && len(strings.Fields(text)) < 15:
				t.Errorf("%s: the package comment says too little: what does %s know, and what not?", f.name, f.dir)
			}
		}
	}
	for dir := range dirs {
		if n := len(comments[dir]); n != 1 {
			t.Errorf("%s has %d package comments, want 1: %v", dir, n, comments[dir])
		}
	}
}

func TestNoInit(t *testing.T) {
	for _, f := range sources(t) {
		if ast.IsGenerated(f.ast) {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init; wiring is visible in main", f.fset.Position(fn.Pos()))
			}
		}
	}
}

// Tests wait for conditions: a sleep outside a loop that asks again is slow or
// fails by chance. Where time itself is what is tested, the line says so.
// testing/synctest makes time.Sleep exact: there it is allowed.
func TestTestsDoNotSleep(t *testing.T) {
	for _, f := range sources(t) {
		if !f.test || strings.Contains(f.text, `"testing/synctest"`) {
			continue
		}
		explained := map[int]bool{}
		for _, group := range f.ast.Comments {
			explained[f.fset.Position(group.Pos()).Line] = true
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if _, loop := n.(*ast.ForStmt); loop {
				return false
			}
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				at := f.fset.Position(call.Pos())
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && !explained[at.Line] {
					t.Errorf("%s: time.Sleep in a test: wait for a condition, use testing/synctest, or say on the line why time must pass", at)
				}
			}
			return true
		})
	}
}

// foreign are words of a machine on which the code was once written.
var foreign = regexp.MustCompile(`(^|[\s"'(=:])/(work|home|Users)/[A-Za-z]`)

func TestNoForeignPaths(t *testing.T) {
	top := root(t)
	walk(t, func(name string) {
		switch path.Ext(name) {
		case ".go", ".md", ".yaml", ".yml", ".sh", ".html", ".js", ".proto", ".json", "":
		default:
			return
		}
		text, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if foreign.MatchString(line) && !strings.Contains(line, "regexp.MustCompile") {
				t.Errorf("%s:%d: a path of somebody's machine: %s", name, i+1, strings.TrimSpace(line))
			}
		}
	})
}

// Each plugin is a folder with a page for its users and a program of its own,
// which proves that it needs nothing of the core.
func TestPluginsAreComplete(t *testing.T) {
	top := root(t)
	entries, err := os.ReadDir(filepath.Join(top, "plugins"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		for _, need := range []string{"README.md", "cmd/" + e.Name() + "/main.go"} {
			if _, err := os.Stat(filepath.Join(top, "plugins", e.Name(), need)); err != nil {
				t.Errorf("plugins/%s has no %s", e.Name(), need)
			}
		}
	}
}

var (
	makeTarget  = regexp.MustCompile(`(?m)^([a-z-]+):.*?## `)
	makeCommand = regexp.MustCompile(`(?m)(?:^|\x60|&& |; )make ([a-z-]+)\b`)
	codeBlock   = regexp.MustCompile("(?s)```[a-z]*\n(.*?)```|`([^`\n]+)`")
	link        = regexp.MustCompile(`\]\(([^)#]+)(?:#[^)]*)?\)`)
)

func TestMakeCommandsInDocsExist(t *testing.T) {
	top := root(t)
	text, err := os.ReadFile(filepath.Join(top, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range makeTarget.FindAllStringSubmatch(string(text), -1) {
		targets[m[1]] = true
	}
	for _, want := range []string{"build", "run", "test", "lint", "gen", "soak", "fuzz", "bench", "clean", "help"} {
		if !targets[want] {
			t.Errorf("Makefile has no documented target %s", want)
		}
	}
	walk(t, func(name string) {
		if path.Ext(name) != ".md" {
			return
		}
		text, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range codeBlock.FindAllStringSubmatch(string(text), -1) {
			for _, m := range makeCommand.FindAllStringSubmatch(block[1]+"\n"+block[2], -1) {
				if !targets[m[1]] {
					t.Errorf("%s: make %s: no such target", name, m[1])
				}
			}
		}
	})
}

func TestLinksInDocsLeadSomewhere(t *testing.T) {
	top := root(t)
	walk(t, func(name string) {
		if path.Ext(name) != ".md" {
			return
		}
		text, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			to := filepath.Join(top, path.Dir(name), strings.TrimSpace(m[1]))
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: link to %s leads nowhere", name, m[1])
			}
		}
	})
}

func TestModuleNeedsNoReplace(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "replace ") {
			t.Errorf("go.mod:%d: a replace breaks those who import sdk: %s", i+1, line)
		}
	}
	if strings.Contains(string(text), "pion/transport/v5") {
		t.Error("go.mod names pion/transport/v5, whose newest versions cannot be downloaded")
	}
}
