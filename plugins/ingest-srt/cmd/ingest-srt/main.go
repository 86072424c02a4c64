// Command ingest-srt is the SRT ingest as a plugin binary of its own. It knows the
// plugin and the SDK, and nothing of the gateway.
package main

import (
	ingestsrt "github.com/headgate/gateway/plugins/ingest-srt"
	"github.com/headgate/gateway/sdk"
)

func main() { sdk.Serve(ingestsrt.Plugin()) }
