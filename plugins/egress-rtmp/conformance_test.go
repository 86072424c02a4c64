package egressrtmp

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/wire"
	"github.com/headgate/gateway/test/badrtmp"
)

// TestConformance: the plugin keeps the contract that everybody's has to keep, as an
// egress and as a transform.
func TestConformance(t *testing.T) {
	good := receive(t)
	refusing := receive(t, func(s *rtmp.Server) {
		s.Check = func(p *rtmp.Publish) error {
			return &rtmp.StatusError{Code: "NetStream.Publish.Unauthorized", Description: "no stream " + p.Key.Reveal()}
		}
	})
	cases := badrtmp.Cases("")
	i := slices.IndexFunc(cases, func(c badrtmp.Case) bool { return c.Name == "stops reading" })
	deaf := badrtmp.Start(t, cases[i])
	var n atomic.Int32
	target := func(addr string) func(plugintest.T) *wire.Target {
		return func(plugintest.T) *wire.Target {
			return &wire.Target{Name: "x", Url: fmt.Sprintf("rtmp://%s/app/key%d", addr, n.Add(1))}
		}
	}
	plugintest.TestEgress(t, Plugin(), plugintest.EgressOptions{
		NewTarget:      target(good.addr),
		StalledTarget:  target(deaf.Addr),
		BadTarget:      &wire.Target{Name: "x", Url: "rtmp://me:SECRETPASS@" + refusing.addr + "/app?SECRETQUERY", Key: "SECRETKEY"},
		Secrets:        []string{"SECRETPASS", "SECRETQUERY"},
		BadIsPermanent: true,
	})
}

func TestConformanceOfTransform(t *testing.T) {
	plugintest.TestTransform(t, Plugin(), plugintest.TransformOptions{
		In: media.Track{Codec: media.Opus, SampleRateHz: 48000, Channels: 2, DecoderConfig: []byte("OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00")},
		To: media.AAC,
	})
}
