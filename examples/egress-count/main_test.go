// Package count holds the test of egress-count, a plugin in Python: whether it keeps
// the contract, which is all that a gateway needs to know. It knows nothing of Python
// but that it must be there.
package count

import (
	"os"
	"os/exec"
	"testing"

	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/wire"
)

func TestConformance(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", "import grpc, google.protobuf").CombinedOutput(); err != nil {
		const packages = "needs python3-grpcio and python3-protobuf, Debian packages of these names"
		if os.Getenv("HEADGATE_TEST_PEERS") == "required" {
			t.Fatalf("%s: %s", packages, out)
		}
		t.Skip(packages)
	}
	plugintest.EgressSuite(plugintest.Program("./egress-count"), plugintest.EgressOptions{
		NewTarget: func(plugintest.T) *wire.Target {
			return &wire.Target{Name: "count", Url: "count://anything", OptionsJson: []byte(`{"label": "tally"}`)}
		},
		BadTarget:      &wire.Target{Name: "count", Url: "rtmp://somewhere/else"},
		BadIsPermanent: true,
	}).Test(t)
}
