// Command ingest-rtsp is the RTSP ingest as a plugin binary of its own. It knows the
// plugin and the SDK, and nothing of the gateway.
package main

import (
	ingestrtsp "github.com/headgate/gateway/plugins/ingest-rtsp"
	"github.com/headgate/gateway/sdk"
)

func main() { sdk.Serve(ingestrtsp.Plugin()) }
