package transcode

import (
	"fmt"

	"github.com/headgate/gateway/sdk/transcode/aaclc"
)

// aacEncoder is an [AACEncoder] made of our own encoder.
type aacEncoder struct{ *aaclc.Encoder }

func newAACEncoder(channels, bitsPerSecond int) (AACEncoder, error) {
	enc, err := aaclc.New(aaclc.Config{SampleRate: sampleRateHz, Channels: channels, Bitrate: bitsPerSecond})
	if err != nil {
		return nil, fmt.Errorf("making an AAC encoder: %w", err)
	}
	return aacEncoder{enc}, nil
}

// Reset never fails.
func (e aacEncoder) Reset() error {
	e.Encoder.Reset()
	return nil
}
