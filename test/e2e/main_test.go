package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// bin is the folder of the programs under test, built once.
//
//nolint:gochecknoglobals // TestMain has no other way to hand it over
var bin string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "headgate-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin = dir
	build := func(name, pkg string, flags ...string) bool {
		args := append([]string{"build", "-o", filepath.Join(dir, name)}, flags...)
		out, err := exec.Command("go", append(args, "github.com/headgate/gateway/"+pkg)...).CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "building %s: %v\n%s", pkg, err, out)
		}
		return err == nil
	}
	var flags []string
	if raceFlag != "" {
		flags = append(flags, raceFlag)
	}
	if !build("gateway", "cmd/gateway", flags...) || !build("gateway-plain", "cmd/gateway") ||
		!build("publisher", "test/publisher") || !build("egress-file", "examples/egress-file") {
		return 1
	}
	return m.Run()
}
