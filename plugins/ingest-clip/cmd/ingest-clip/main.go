// Command ingest-clip is the test card ingest as a plugin binary of its own. It
// knows the plugin and the SDK, and nothing of the gateway.
package main

import (
	clip "github.com/headgate/gateway/plugins/ingest-clip"
	"github.com/headgate/gateway/sdk"
)

func main() { sdk.Serve(clip.Plugin()) }
