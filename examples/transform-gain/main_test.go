package main

import (
	"testing"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.TestTransform(t, plugin(), plugintest.TransformOptions{
		In: media.Track{ID: 2, Codec: media.PCMU, SampleRateHz: 8000, Channels: 1}, To: media.PCMA,
	})
}

// Silence stays silence, 6 dB double a sample, and what is too loud is cut off.
func TestGain(t *testing.T) {
	f := func(muLaw, want byte) {
		t.Helper()
		if got := table(6)[muLaw]; got != want {
			t.Errorf("%#x becomes %#x, want %#x", muLaw, got, want)
		}
	}
	f(0xff, 0xd5)           // 0
	f(0x00, toALaw(-1<<15)) // the loudest below 0
	f(0x80, toALaw(1<<15-1))
	f(0xaf, toALaw(8165)) // of 4092
	if a, b := fromMuLaw(0xaf), fromMuLaw(0x2f); a != 4092 || a != -b {
		t.Errorf("mu-law 0xaf is %d, 0x2f is %d", a, b)
	}
}
