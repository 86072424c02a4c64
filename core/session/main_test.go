package session

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/headgate/gateway/sdk"
)

// The test binary is a plugin too ("plugin pace").
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "plugin" {
		sdk.Serve(pacePlugin())
		return
	}
	goleak.VerifyTestMain(m)
}
