// Package ingestrtmp is the ingest for publishers who speak RTMP or RTMPS: OBS,
// ffmpeg, phones, hardware encoders.
//
// It knows which stream and which token a URL asks for, and how audio and video
// messages become access units. The protocol is internal/rtmp's; who may publish is
// the gateway's to say.
package ingestrtmp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/headgate/gateway/internal/endpoint"
	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

// Plugin returns the plugin ingest-rtmp.
func Plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:    "ingest-rtmp",
		Version: sdk.Version,
		Options: &Options{},
		Ingest:  &sdk.IngestPlugin{Ingest: ingest{}, Codecs: carried()},
	}
}

// carried are the codecs that become tracks.
func carried() []media.Codec {
	return []media.Codec{media.H264, media.H265, media.AV1, media.VP9, media.AAC, media.Opus, media.MP3}
}

// DefaultListen is where publishers are awaited where the options say nothing.
const DefaultListen = "127.0.0.1:1935"

// Options are those of the plugin.
type Options struct {
	Listen string `json:"listen,omitempty" jsonschema:"description=Address for publishers by rtmp; 127.0.0.1:1935 if neither it nor tls is given"`
	TLS    *TLS   `json:"tls,omitempty" jsonschema:"description=A second address on which publishers come by rtmps"`
}

// TLS are the options of rtmps.
type TLS struct {
	Listen string   `json:"listen" jsonschema:"required,description=Address for publishers by rtmps such as 0.0.0.0:1936"`
	Cert   sdk.File `json:"cert" jsonschema:"required,description=PEM file of the certificate and those that vouch for it"`
	Key    sdk.File `json:"key" jsonschema:"required,description=PEM file of its key"`
}

// Check implements [sdk.Checker].
func (o Options) Check() error {
	err := endpoint.Check("listen", o.Listen)
	if o.TLS == nil {
		return err
	}
	_, certErr := o.TLS.certificate()
	return errors.Join(err, endpoint.Check("tls.listen", o.TLS.Listen), endpoint.Apart("tls.listen", o.TLS.Listen, "listen", o.Listen), certErr)
}

// certificate is what publishers by rtmps are shown.
func (t *TLS) certificate() (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(t.Cert.Content, t.Key.Content)
	if err != nil {
		return nil, fmt.Errorf("tls: %s and %s are no certificate and its key; want both in PEM", t.Cert.Name, t.Key.Name)
	}
	return &pair, nil
}

// servers are the servers that the options ask for, without their functions. Those by
// rtmps show cert.
func (o Options) servers(cert *endpoint.Certificate) []*rtmp.Server {
	if o.Listen == "" && o.TLS == nil {
		o.Listen = DefaultListen
	}
	var list []*rtmp.Server
	if o.Listen != "" {
		list = append(list, &rtmp.Server{Addr: o.Listen})
	}
	if o.TLS != nil {
		list = append(list, &rtmp.Server{Addr: o.TLS.Listen, TLS: cert.Config()})
	}
	return list
}

// Limits of each of the two addresses.
const (
	maxConns   = 500
	maxOpening = 64 // of one address, that do not publish yet
	// idleTimeout ends a connection of which no byte comes. An encoder that lives answers
	// pings within it, even one that has no media to send: see silenceTimeout.
	idleTimeout  = 10 * time.Second
	pingInterval = idleTimeout / 4
)

type ingest struct{}

// Serve implements [sdk.Ingest].
func (ingest) Serve(ctx context.Context, host *sdk.IngestHost) error {
	cert := &endpoint.Certificate{}
	err := host.OnRenewal(func() error { return show(host, cert) })
	if err != nil {
		return err
	}
	var o Options
	if err := host.Options(&o); err != nil {
		return err
	}
	servers := o.servers(cert)
	for i, s := range servers {
		if s.Listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.Addr); err != nil {
			for _, open := range servers[:i] {
				_ = open.Listener.Close()
			}
			return &sdk.Error{Cause: sdk.CauseConfig, Err: fmt.Errorf("opening the port for publishers: %w", err)}
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	for _, s := range servers {
		d := &door{host: host, server: s}
		s.Check = func(p *rtmp.Publish) error { return d.admit(ctx, p) }
		s.OnPublish, s.OnMessage, s.OnEnd = d.begin, d.message, d.end
		s.Announce = announced()
		s.MaxConns, s.MaxOpening, s.IdleTimeout, s.PingInterval = maxConns, maxOpening, idleTimeout, pingInterval
		s.Log = sdk.Logger()
		sdk.Logger().Info("waiting for publishers", scheme(s.TLS != nil), s.Listener.Addr().String())
		running.Go(func() {
			if err := s.Run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	running.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// show makes cert show the pair that the options name now.
func show(host *sdk.IngestHost, cert *endpoint.Certificate) error {
	var o Options
	if err := host.Options(&o); err != nil || o.TLS == nil {
		return err
	}
	pair, err := o.TLS.certificate()
	if err != nil {
		return &sdk.Error{Cause: sdk.CauseConfig, Err: err}
	}
	cert.Show(pair)
	return nil
}

func scheme(secured bool) string {
	if secured {
		return "rtmps"
	}
	return "rtmp"
}

// announced is what publishers are told of Enhanced RTMP.
func announced() *rtmp.Capabilities {
	c := &rtmp.Capabilities{Flags: rtmp.CapsMultitrack | rtmp.CapsModEx | rtmp.CapsTimestampNano}
	for _, codec := range carried() {
		if codec.Kind() == media.Video {
			c.VideoFourCCs = append(c.VideoFourCCs, rtmp.FourCC(codec))
		} else {
			c.AudioFourCCs = append(c.AudioFourCCs, rtmp.FourCC(codec))
		}
	}
	return c
}
