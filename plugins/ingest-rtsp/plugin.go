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

	"github.com/headgate/gateway/internal/endpoint"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
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
		return errors.New("transport: there is no such transport; want auto, udp or tcp")
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	var errs []error
	if o.Timeout < minTimeout || o.Timeout > maxTimeout {
		errs = append(errs, fmt.Errorf("timeout: out of range; want from %v to %v", minTimeout, maxTimeout))
	}
	_, err := o.roots()
	errs = append(errs, err, endpoint.Check("listen", o.Listen), o.checkUDP(), endpoint.Check("listen_tls", o.ListenTLS),
		endpoint.Apart("listen_tls", o.ListenTLS, "listen", o.Listen))
	_, err = o.certificate()
	return errors.Join(append(errs, err)...)
}

// checkUDP checks where media of encoders come by UDP.
func (o *Options) checkUDP() error {
	if o.ListenUDP == "" {
		return nil
	}
	if err := endpoint.Check("listen_udp", o.ListenUDP); err != nil {
		return err
	}
	if o.Listen == "" {
		return errors.New("listen_udp: needs listen, on which encoders announce what they send there; add listen")
	}
	_, err := rtcpAddress(o.ListenUDP)
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
		return nil, errors.New("listen_tls, certificate and certificate_key belong together; want all of them or none")
	}
	if !given {
		return nil, nil
	}
	pair, err := tls.X509KeyPair(o.Certificate.Content, o.CertificateKey.Content)
	if err != nil {
		return nil, fmt.Errorf("certificate: %s and %s are no certificate and its key; want both in PEM", o.Certificate.Name, o.CertificateKey.Name)
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
		return "", errors.New("listen_udp: the port is odd or 0; want an even port, RTCP is on the one after it")
	}
	return net.JoinHostPort(host, strconv.FormatUint(n+1, 10)), nil
}

// An ingest fetches streams and takes in those that are announced.
type ingest struct {
	mu sync.Mutex // guards the field below
	// blocked are sources, by address, from which nothing came by UDP, and when.
	blocked map[string]time.Time
}

// CheckSource implements [sdk.SourceChecker].
func (in *ingest) CheckSource(source secret.String) error {
	_, err := parseSource(source, transportAuto)
	return err
}

// Serve implements [sdk.Ingest].
func (in *ingest) Serve(ctx context.Context, host *sdk.IngestHost) error {
	cert := &endpoint.Certificate{}
	if err := host.OnRenewal(func() error { return show(host, cert) }); err != nil {
		return err
	}
	var o Options
	if err := host.Options(&o); err != nil {
		return err
	}
	return listen(ctx, host, o, cert)
}

// show makes cert show the pair that the options name now. Sessions that fetch read
// their options, with the root certificates, when they begin.
func show(host *sdk.IngestHost, cert *endpoint.Certificate) error {
	var o Options
	if err := host.Options(&o); err != nil {
		return err
	}
	pair, err := o.certificate()
	if err == nil && pair != nil {
		cert.Show(pair)
	}
	return err
}
