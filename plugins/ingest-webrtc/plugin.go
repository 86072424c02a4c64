// Package webrtc is the ingest for publishers who speak WHIP: browsers, OBS,
// FFmpeg, GStreamer. Its parts are whip (HTTP), negotiate (session
// descriptions), session (peer connections), reorder, depack and clock (from
// packets to access units), relay (a TURN server) and page (the publish page).
//
// This package knows how the parts fit together and what the options are, and
// nothing else.
package webrtc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"

	"github.com/invopop/jsonschema"

	"github.com/headgate/gateway/internal/endpoint"
	"github.com/headgate/gateway/plugins/ingest-webrtc/page"
	"github.com/headgate/gateway/plugins/ingest-webrtc/session"
	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// leastMaxBPS is the least that max_bitrate can be: less carries no picture.
const leastMaxBPS = 100_000

// DefaultUDP is the address of the UDP port where the options name none.
const DefaultUDP = "127.0.0.1:8189"

// gcPercent is Go's GOGC of this plugin, half of what others have: a publisher is half
// a megabyte that stays, of which the collector lets that much more lie about. At 50 of
// them a session costs 1.1 MB by it, against 2.3.
const gcPercent = 200

// Options are the plugin's options.
type Options struct {
	// UDP is the address of the one port on which all media arrive.
	UDP string `json:"udp,omitempty" jsonschema:"description=Address of the UDP port on which all media arrive; the host of listen and port 8189 if absent"`
	// TCP is the same for ICE over TCP.
	TCP string `json:"tcp,omitempty" jsonschema:"description=Address for publishers whose network blocks UDP (ICE over TCP); that of udp if absent; off for none"`
	// Interfaces and Networks choose among the machine's addresses.
	Interfaces []string `json:"interfaces,omitempty" jsonschema:"description=Network interfaces to use where udp names no host: patterns such as eth*; !docker* leaves out"`
	Networks   []string `json:"networks,omitempty" jsonschema:"description=Networks whose addresses to use where udp names no host: 10.0.0.0/8; !172.16.0.0/12 leaves out"`
	// PublicIPs are announced to publishers beside the machine's own addresses.
	PublicIPs PublicIPs `json:"public_ips,omitempty" jsonschema:"description=Addresses to announce where the gateway stands behind a NAT that forwards the port; auto asks stun_servers"`
	// STUNServers tell the public address.
	STUNServers []string `json:"stun_servers,omitempty" jsonschema:"description=STUN servers (host:port) that are asked for the public address with public_ips: auto"`
	// TURNServers make the gateway reachable where nothing else does.
	TURNServers []ICEServer `json:"turn_servers,omitempty" jsonschema:"description=TURN servers through which the gateway can be reached behind a NAT that forwards nothing"`
	// PublisherICEServers are told to publishers.
	PublisherICEServers []ICEServer `json:"publisher_ice_servers,omitempty" jsonschema:"description=STUN and TURN servers that publishers are told to use"`
	// TURN is a TURN server in the gateway itself.
	TURN string `json:"turn,omitempty" jsonschema:"description=Address of a TURN server of the gateway's own (UDP and TCP) that leads to its media port and nowhere else; none if absent"`
	// MaxBitrate is what publishers are asked not to exceed.
	MaxBitrate string `json:"max_bitrate,omitempty" jsonschema:"description=Bitrate of video that publishers are asked not to exceed such as 6mbps; who sends twice as much is sent away"`
}

// PublicIPs is the option public_ips: "auto" or a list of addresses.
type PublicIPs struct {
	Auto bool
	IPs  []string
}

// UnmarshalJSON implements [json.Unmarshaler].
func (p *PublicIPs) UnmarshalJSON(b []byte) error {
	var word string
	if json.Unmarshal(b, &word) == nil {
		if word != "auto" {
			return fmt.Errorf("public_ips: want auto or a list of addresses, got %q", word)
		}
		p.Auto = true
		return nil
	}
	return json.Unmarshal(b, &p.IPs)
}

// JSONSchema says so to the gateway.
func (PublicIPs) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{
		OneOf: []*jsonschema.Schema{
			{Type: "string", Enum: []any{"auto"}},
			{Type: "array", Items: &jsonschema.Schema{Type: "string"}},
		},
	}
}

// An ICEServer is a STUN or TURN server in the options.
type ICEServer struct {
	URL        string        `json:"url" jsonschema:"required,description=turn:host:port?transport=udp or turns:host:port or stun:host:port"`
	Username   string        `json:"username,omitempty" jsonschema:"description=User name of a TURN server without secret"`
	Credential secret.String `json:"credential,omitempty" jsonschema:"description=Password of a TURN server without secret"`
	Secret     secret.String `json:"secret,omitempty" jsonschema:"description=Shared secret of a TURN server (use-auth-secret of coturn): each publisher gets credentials of his own"`
}

// Check implements [sdk.Checker].
func (o *Options) Check() error {
	_, err := o.config()
	return err
}

// config is what the options mean to the session package.
func (o *Options) config() (session.Config, error) {
	c := session.Config{
		UDP: o.UDP, TCP: o.TCP, Interfaces: o.Interfaces, Networks: o.Networks,
		PublicIPs: o.PublicIPs.IPs, TURN: servers(o.TURNServers), Publishers: servers(o.PublisherICEServers), Relay: o.TURN,
	}
	tcp := o.TCP
	if tcp == "off" {
		tcp = ""
	}
	if err := errors.Join(endpoint.Check("udp", o.UDP), endpoint.Check("tcp", tcp), endpoint.Check("turn", o.TURN)); err != nil {
		return c, err
	}
	if c.UDP == "" {
		c.UDP = DefaultUDP
	}
	if o.MaxBitrate != "" {
		bps, err := media.ParseBitrate(o.MaxBitrate)
		if err != nil || bps < leastMaxBPS {
			return c, fmt.Errorf("max_bitrate: %q is not a bitrate of at least 100kbps; want one such as 6mbps", o.MaxBitrate)
		}
		c.MaxBPS = bps
	}
	switch {
	case o.PublicIPs.Auto && len(o.STUNServers) == 0:
		return c, errors.New("public_ips: auto needs stun_servers to ask; add them, such as [\"stun.example.org:3478\"]")
	case o.PublicIPs.Auto:
		c.STUN = o.STUNServers
	case len(o.STUNServers) > 0:
		return c, errors.New("stun_servers: they are asked with public_ips: auto only; add that, or remove them")
	}
	return c, nil
}

func servers(list []ICEServer) []session.ICEServer {
	var out []session.ICEServer
	for _, s := range list {
		out = append(out, session.ICEServer(s))
	}
	return out
}

// Plugin returns the plugin ingest-webrtc.
func Plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:    "ingest-webrtc",
		Version: sdk.Version,
		Options: &Options{},
		Ingest: &sdk.IngestPlugin{
			Ingest: ingest{},
			Codecs: []media.Codec{media.H264, media.H265, media.AV1, media.VP9, media.Opus},
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
	cfg, err := o.config()
	if err != nil {
		return &sdk.Error{Cause: sdk.CauseConfig, Err: err}
	}
	cfg.Log = sdk.Logger()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	server, err := session.Listen(cfg, host{h})
	if err != nil {
		return &sdk.Error{Cause: sdk.CauseConfig, Err: fmt.Errorf("opening the media port: %w", err)}
	}
	sdk.Logger().Info("waiting for WebRTC publishers", "udp", server.Addr().String())
	h.HandleHTTP(handler(server, h.Enquire))
	return server.Run(ctx)
}

// handler serves the mounts.
func handler(sessions whip.Sessions, enquire func(ctx context.Context, stream string) error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(whip.Prefix, whip.NewHandler(sessions, sdk.Logger()))
	mux.Handle(page.Prefix, page.Handler(enquire, sdk.Logger()))
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
