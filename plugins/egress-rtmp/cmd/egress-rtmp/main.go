// Command egress-rtmp is the RTMP egress as a plugin binary of its own. It knows
// the plugin and the SDK, and nothing of the gateway.
package main

import (
	egressrtmp "github.com/headgate/gateway/plugins/egress-rtmp"
	"github.com/headgate/gateway/sdk"
)

func main() { sdk.Serve(egressrtmp.Plugin()) }
