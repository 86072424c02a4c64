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
	for codec, second := range map[media.Codec]byte{media.MP2: 0xfd, media.MP3: 0xfb} {
		frame := make([]byte, 96) // 48 kHz, mono, 32 kb/s, with nothing in it
		copy(frame, []byte{0xff, second, 0x14, 0xc0})
		t.Run(string(codec), func(t *testing.T) {
			plugintest.TestTransform(t, p, plugintest.TransformOptions{
				In: media.Track{ID: 2, Codec: codec, SampleRateHz: 48000, Channels: 1}, To: media.AAC,
				Payload: func(int) []byte { return frame }, BadPayload: frame[:50],
			})
		})
	}
	t.Run("silence", func(t *testing.T) {
		plugintest.TestTransform(t, p, plugintest.TransformOptions{In: media.Track{ID: 2, Codec: media.VP8}, To: media.AAC})
	})
}
