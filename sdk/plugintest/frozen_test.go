package plugintest

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/headgate/gateway/sdk/wire"
)

// A plugin that was built when this version of the wire was new keeps the contract
// as it stands today: what was added since does not disturb it.
func TestPluginOfYesterday(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "frozen")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", exe, "../wire/testdata/frozen/egress").CombinedOutput()
	if err != nil {
		t.Fatalf("building the plugin: %v\n%s", err, out)
	}
	EgressSuite(Program(exe), EgressOptions{
		NewTarget: func(T) *wire.Target { return &wire.Target{Name: "frozen", Url: "frozen://x"} },
	}).Test(t)
}
