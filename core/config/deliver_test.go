package config_test

import (
	"strings"
	"testing"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/derive"
	"github.com/headgate/gateway/sdk/wire"
)

// deliveries have ingests and egresses that go together badly.
func deliveries() config.Options {
	egress := func(scheme string, codecs, optional []string) *wire.DescribeResponse {
		return &wire.DescribeResponse{Egress: &wire.EgressInfo{Schemes: []string{scheme}, Accepts: &wire.Accepts{
			Codecs: codecs, OptionalCodecs: optional, VideoTracks: 1, AudioTracks: 1}}}
	}
	cdn := egress("rtmp", []string{"h264", "aac"}, []string{"h265", "opus"})
	cdn.Transforms = []*wire.TransformInfo{{From: "opus", To: "aac"}}
	ingest := func(scheme string, codecs ...string) *wire.DescribeResponse {
		return &wire.DescribeResponse{Ingest: &wire.IngestInfo{Schemes: []string{scheme}, Codecs: codecs}}
	}
	return config.Options{
		Environ: []string{},
		Lost:    derive.LostOf,
		Made:    derive.MadeOf,
		Catalog: config.Catalog{
			"egress-rtmp":   cdn,
			"egress-radio":  egress("radio", []string{"mp3"}, nil),
			"egress-song":   egress("song", []string{"aac"}, nil),
			"egress-any":    {Egress: &wire.EgressInfo{Schemes: []string{"any"}}},
			"ingest-webrtc": ingest("", "h264", "opus"),
			"ingest-old":    ingest("old", "vp8", "pcmu"),
			"ingest-file":   ingest("file", "h264", "aac"),
			"ingest-dark":   ingest("dark", "opus"),
		},
	}
}

// TestWhatCanNeverBeDelivered: a target that nothing of the stream can ever reach is
// refused before anything starts, with the place and what to do.
func TestWhatCanNeverBeDelivered(t *testing.T) {
	f := func(from, target, want string) {
		t.Helper()
		text := "routes:\n  studio:\n    " + from + "\n    to:\n      cdn: " + target + "\n"
		_, ds := config.Parse(t.Context(), "gateway.yaml", []byte(text), deliveries())
		if got := strings.TrimSpace(ds.String()); got != want {
			t.Errorf("%s to %s:\n got %s\nwant %s", from, target, got, want)
		}
	}
	const publish = `publish: {token: "0123456789abcdef"}`
	f(publish, `{url: "rtmp://host/app/key"}`, "")
	f(publish, `{url: "rtmp://host/app/key", audio: {codec: opus}}`, "")
	f(publish, `{url: "any://host"}`, "")
	f(`from: {url: "old://camera"}`, `{url: "any://host"}`, "")
	f(`from: {url: "file://clip"}`, `{url: "rtmp://host/app/key"}`, "")

	f(`from: {url: "old://camera"}`, `{url: "rtmp://host/app/key"}`,
		"gateway.yaml:5:7: routes.studio.to.cdn: nothing can ever go to this target: egress-rtmp takes h264, h265, ingest-old brings vp8; "+
			"egress-rtmp takes aac, opus, ingest-old brings pcmu; no plugin makes one of the other, send the stream elsewhere, or take it from elsewhere")
	f(`from: {url: "dark://radio"}`, `{url: "radio://host"}`,
		"gateway.yaml:5:7: routes.studio.to.cdn: nothing can ever go to this target: egress-radio takes mp3, ingest-dark brings opus; "+
			"no plugin makes one of the other, send the stream elsewhere, or take it from elsewhere")
	// A stream of sound alone would do: it is for the user to know.
	f(`from: {url: "file://clip"}`, `{url: "song://host"}`,
		"gateway.yaml:5:7: warning: routes.studio.to.cdn: a stream with video will be refused by this target: egress-song takes no video, ingest-file brings h264; "+
			"no plugin makes one of the other, publish without video, or send the stream elsewhere")
	// Settings for sound that is made where none ever will be.
	f(`from: {url: "file://clip"}`, `{url: "rtmp://host/app/key", audio: {bitrate: 64kbps, quality: fast}}`,
		"gateway.yaml:5:41: warning: routes.studio.to.cdn.audio: bitrate, quality will have no effect: they are for sound that is made, "+
			"and that of this target passes as it comes (ingest-file brings aac), remove them, and set the encoder of whoever publishes")
	f(publish, `{url: "rtmp://host/app/key", audio: {bitrate: 64kbps}}`, "")
	f(`from: {url: "dark://radio"}`, `{url: "rtmp://host/app/key", audio: {bitrate: 64kbps}}`, "")
	// Opus is made of nothing.
	f(`from: {url: "file://clip"}`, `{url: "rtmp://host/app/key", audio: {codec: opus}}`,
		"gateway.yaml:5:56: routes.studio.to.cdn.audio.codec: the sound of this target can never be opus: egress-rtmp takes aac, opus, ingest-file brings aac, "+
			"and nothing makes one of the other, remove codec")
	f(publish, `{url: "radio://host", enabled: false}`,
		"gateway.yaml:5:7: routes.studio.to.cdn: nothing can ever go to this target: egress-radio takes no video, publishers can bring h264, vp8; "+
			"egress-radio takes mp3, publishers can bring opus, aac, pcmu; no plugin makes one of the other, send the stream elsewhere, or take it from elsewhere")
}

// TestTargetOfTheAPIThatCanNeverBeDelivered: the same for a target that comes later.
func TestTargetOfTheAPIThatCanNeverBeDelivered(t *testing.T) {
	cfg, ds := config.Parse(t.Context(), "gateway.yaml", []byte(`routes: {studio: {from: {url: "old://camera"}, to: {all: {url: "any://host"}}}}`), deliveries())
	if cfg == nil {
		t.Fatal(ds)
	}
	if got, ds := cfg.Target("studio", "cdn", []byte(`{"url": "rtmp://host/app/key"}`), nil); got != nil || !strings.Contains(ds.String(), "nothing can ever go to this target") {
		t.Errorf("%v %v", got, ds)
	}
	if got, ds := cfg.Target("studio", "cdn", []byte(`{"url": "any://other"}`), nil); got == nil {
		t.Error(ds)
	}
}
