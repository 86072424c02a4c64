// Package webrtc is the ingest for publishers who speak WHIP: browsers, OBS,
// FFmpeg, GStreamer. Its parts are whip (HTTP), negotiate (session
// descriptions), session (peer connections), reorder, depack and clock (from
// packets to access units) and page (the publish page).
//
// This package knows how the parts fit together and what the options are, and
// nothing else.
package webrtc

import (
	"context"
	"fmt"
	"net/http"

	"github.com/headgate/gateway/plugins/ingest-webrtc/page"
	"github.com/headgate/gateway/plugins/ingest-webrtc/session"
	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

// DefaultUDP is the address of the UDP port where the options name none.
const DefaultUDP = "127.0.0.1:8189"

// Options are the plugin's options.
type Options struct {
	// UDP is the address of the one port on which all media arrive.
	UDP string `json:"udp,omitempty" jsonschema:"description=Address of the UDP port on which all media arrive; the host of listen and port 8189 if absent"`
	// PublicIPs are announced to publishers instead of the machine's own addresses.
	PublicIPs []string `json:"public_ips,omitempty" jsonschema:"description=Addresses to announce where the gateway stands behind a NAT that forwards the UDP port"`
}

// Plugin returns the plugin ingest-webrtc.
func Plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:    "ingest-webrtc",
		Version: sdk.Version,
		Options: &Options{},
		Ingest: &sdk.IngestPlugin{
			Ingest: ingest{},
			Codecs: []media.Codec{media.H264, media.Opus},
			Mounts: []string{whip.Prefix, page.Prefix},
		},
	}
}

// ingest has no state: what lives, lives in Serve.
type ingest struct{}

// Serve opens the port and serves publishers until ctx ends.
func (ingest) Serve(ctx context.Context, h *sdk.IngestHost) error {
	var o Options
	if err := h.Options(&o); err != nil {
		return err
	}
	if o.UDP == "" {
		o.UDP = DefaultUDP
	}
	server, err := session.Listen(session.Config{UDP: o.UDP, PublicIPs: o.PublicIPs, Log: sdk.Logger()}, host{h})
	if err != nil {
		return &sdk.Error{Cause: sdk.CauseConfig, Err: fmt.Errorf("opening the media port: %w", err)}
	}
	sdk.Logger().Info("waiting for WebRTC publishers", "udp", server.Addr().String())
	h.HandleHTTP(handler(server))
	return server.Run(ctx)
}

// handler serves the mounts.
func handler(sessions whip.Sessions) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(whip.Prefix, whip.NewHandler(sessions, sdk.Logger()))
	mux.Handle(page.Prefix, page.Handler())
	return mux
}

// host is the gateway as session wants to see it.
type host struct{ *sdk.IngestHost }

// Offer implements [session.Host].
func (h host) Offer(ctx context.Context, o sdk.Offer) (session.Publication, error) {
	p, err := h.IngestHost.Offer(ctx, o)
	if err != nil {
		return nil, err
	}
	return p, nil
}
