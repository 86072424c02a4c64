// Command egress-srt is the SRT egress as a plugin binary of its own. It knows the
// plugin and the SDK, and nothing of the gateway.
package main

import (
	egresssrt "github.com/headgate/gateway/plugins/egress-srt"
	"github.com/headgate/gateway/sdk"
)

func main() { sdk.Serve(egresssrt.Plugin()) }
