package e2e

import (
	"testing"

	"github.com/headgate/gateway/plugins/ingest-webrtc/whip/whiptest"
)

// WHIP is RFC 9725's through the whole gateway: the listener, the plugin's process, the
// decision of the core.
func TestWHIPConformance(t *testing.T) {
	g := startGateway(t, route("studio", `none: {url: "rtmp://127.0.0.1:9/live/x"}`))
	whiptest.Run(t, whiptest.Target{URL: g.whip("studio"), Token: token, Ours: true})
}
