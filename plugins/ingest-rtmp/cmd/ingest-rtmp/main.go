// Command ingest-rtmp is the RTMP ingest as a plugin binary of its own. It knows the
// plugin and the SDK, and nothing of the gateway.
package main

import (
	ingestrtmp "github.com/headgate/gateway/plugins/ingest-rtmp"
	"github.com/headgate/gateway/sdk"
)

func main() { sdk.Serve(ingestrtmp.Plugin()) }
