// Package ingestrtsp is the ingest for RTSP: cameras and servers whose streams are
// fetched, and encoders that announce and record theirs.
//
// It knows what a session description offers, how a URL names a source and who asks
// to publish. Requests and sockets are gortsplib's; packets become access units in
// internal/rtp; who may publish is the gateway's to say.
package ingestrtsp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

// Plugin returns the plugin ingest-rtsp.
func Plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:    "ingest-rtsp",
		Version: sdk.Version,
		Options: &Options{},
		Ingest: &sdk.IngestPlugin{
			Ingest:  &ingest{},
			Codecs:  []media.Codec{media.H264, media.H265, media.AAC, media.Opus, media.PCMA, media.PCMU},
			Schemes: []string{"rtsp", "rtsps"},
		},
	}
}

// Options are those of the plugin.
type Options struct {
	Transport string        `json:"transport,omitempty" jsonschema:"enum=auto,enum=udp,enum=tcp,description=How media come from sources: auto is by UDP and by TCP where that does not work. #transport=tcp at the end of a URL says it for that one"`
	Timeout   time.Duration `json:"timeout,omitempty" jsonschema:"description=How long a source may not answer or source and encoder may send no media until they count as lost; 5s unless told otherwise"`
	CA        sdk.File      `json:"ca,omitzero" jsonschema:"description=File of root certificates (PEM) that verify sources of rtsps instead of those of the system"`

	Listen    string `json:"listen,omitempty" jsonschema:"description=Address on which encoders announce streams; none if absent"`
	ListenUDP string `json:"listen_udp,omitempty" jsonschema:"description=Address with an even UDP port for their media; RTCP is on the port after it. None if absent: they use TCP"`

	ListenTLS      string   `json:"listen_tls,omitempty" jsonschema:"description=Address on which encoders announce streams by rtsps"`
	Certificate    sdk.File `json:"certificate,omitzero" jsonschema:"description=Certificate (PEM) for listen_tls"`
	CertificateKey sdk.File `json:"certificate_key,omitzero" jsonschema:"description=Its key (PEM)"`
}

// Bounds of Options.Timeout.
const (
	defaultTimeout = 5 * time.Second
	minTimeout     = time.Second
	maxTimeout     = time.Minute
)

// Check implements [sdk.Checker], and fills in what is absent.
func (o *Options) Check() error {
	switch o.Transport {
	case "":
		o.Transport = transportAuto
	case transportAuto, transportUDP, transportTCP:
	default:
		return errors.New("transport: want auto, udp or tcp")
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Timeout < minTimeout || o.Timeout > maxTimeout {
		return fmt.Errorf("timeout: want from %v to %v", minTimeout, maxTimeout)
	}
	if _, err := o.roots(); err != nil {
		return err
	}
	for name, address := range map[string]string{"listen": o.Listen, "listen_udp": o.ListenUDP, "listen_tls": o.ListenTLS} {
		if address == "" {
			continue
		}
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return fmt.Errorf("%s: want host:port", name)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fmt.Errorf("%s: want a port from 1 to 65535", name)
		}
	}
	if o.ListenUDP != "" {
		if o.Listen == "" {
			return errors.New("listen_udp: want listen beside it, which is where encoders say so")
		}
		if _, err := rtcpAddress(o.ListenUDP); err != nil {
			return err
		}
	}
	_, err := o.certificate()
	return err
}

// roots are the certificates that sources are verified by; nil for the system's.
func (o *Options) roots() (*x509.CertPool, error) {
	if o.CA.Name == "" && len(o.CA.Content) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(o.CA.Content) {
		return nil, fmt.Errorf("ca: no certificate in %s; want PEM", o.CA.Name)
	}
	return pool, nil
}

// certificate is what encoders are shown on listen_tls; nil without.
func (o *Options) certificate() (*tls.Certificate, error) {
	given := len(o.Certificate.Content) > 0 && len(o.CertificateKey.Content) > 0
	if (o.ListenTLS != "") != given {
		return nil, errors.New("listen_tls, certificate and certificate_key: want all of them or none")
	}
	if !given {
		return nil, nil
	}
	pair, err := tls.X509KeyPair(o.Certificate.Content, o.CertificateKey.Content)
	if err != nil {
		return nil, fmt.Errorf("certificate: %s and %s are no certificate and its key in PEM", o.Certificate.Name, o.CertificateKey.Name)
	}
	return &pair, nil
}

// rtcpAddress is where RTCP goes if RTP goes to address.
func rtcpAddress(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", errors.New("listen_udp: want host:port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || n%2 != 0 {
		return "", errors.New("listen_udp: want an even port")
	}
	return net.JoinHostPort(host, strconv.FormatUint(n+1, 10)), nil
}

// An ingest fetches streams and takes in those that are announced.
type ingest struct {
	mu sync.Mutex // guards the field below
	// blocked are sources, by address, from which nothing came by UDP, and when.
	blocked map[string]time.Time
}

// Serve implements [sdk.Ingest].
func (in *ingest) Serve(ctx context.Context, host *sdk.IngestHost) error {
	var o Options
	if err := host.Options(&o); err != nil {
		return err
	}
	return listen(ctx, host, o)
}
