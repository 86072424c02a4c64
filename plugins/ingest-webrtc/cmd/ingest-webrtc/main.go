// Command ingest-webrtc is the plugin as an executable of its own. The gateway
// has it built in; this one proves that it needs nothing of the gateway.
package main

import (
	"github.com/headgate/gateway/sdk"

	webrtc "github.com/headgate/gateway/plugins/ingest-webrtc"
)

func main() { sdk.Serve(webrtc.Plugin()) }
