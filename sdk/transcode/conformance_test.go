package transcode

import (
	"testing"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
)

// All transforms keep the contract, over the wire that a plugin process uses.
func TestConformance(t *testing.T) {
	p := sdk.Plugin{Name: "transcode", Version: "1", Transforms: All()}
	t.Run("opus", func(t *testing.T) {
		packets := clipPackets(t)
		plugintest.TestTransform(t, p, plugintest.TransformOptions{
			In: opusTrack(), To: media.AAC, Payload: func(n int) []byte { return packets[n%len(packets)] }, BadPayload: []byte{0xff, 0},
		})
	})
	t.Run("g711", func(t *testing.T) {
		plugintest.TestTransform(t, p, plugintest.TransformOptions{
			In: media.Track{ID: 2, Codec: media.PCMA, SampleRateHz: 8000, Channels: 1}, To: media.AAC,
			Payload: func(int) []byte { return make([]byte, 160) }, BadPayload: make([]byte, 8*200), // 200 ms
		})
	})
	t.Run("silence", func(t *testing.T) {
		plugintest.TestTransform(t, p, plugintest.TransformOptions{In: media.Track{ID: 2, Codec: media.VP8}, To: media.AAC})
	})
}
