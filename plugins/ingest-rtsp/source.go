package ingestrtsp

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/bluenviron/gortsplib/v4/pkg/base"

	"github.com/headgate/gateway/sdk/secret"
)

// How media come from a source.
const (
	transportAuto = "auto"
	transportUDP  = "udp"
	transportTCP  = "tcp"
)

// A source is what a URL names. Its URL holds a secret.
type source struct {
	url         *base.URL
	transport   string
	fingerprint []byte // SHA-256 of the one certificate that it may show; nil if it is verified
}

// parseSource reads a URL such as
//
//	rtsps://user:password@camera/stream?channel=1#transport=tcp&fingerprint=SHA256
//
// The fragment is for us; the rest is the source's. Errors quote nothing of it.
func parseSource(raw secret.String, transport string) (source, error) {
	text, fragment, _ := strings.Cut(raw.Reveal(), "#")
	u, err := base.ParseURL(text)
	if err != nil {
		return source{}, errors.New("this is no URL of a source; want rtsp://user:password@host:port/path, with what is special in the password written as %XX")
	}
	if u.Hostname() == "" {
		return source{}, errors.New("the URL names no host; want rtsp://host/path")
	}
	if u.Path == "" && u.RawQuery == "" {
		u.Path = "/"
	}
	s := source{url: u, transport: transport}
	values, err := url.ParseQuery(fragment)
	if err != nil {
		return source{}, errors.New("what follows # is not understood; want #transport=tcp, #fingerprint=SHA256, or both joined by &")
	}
	for key := range values {
		switch value := values.Get(key); key {
		case "transport":
			if value != transportAuto && value != transportUDP && value != transportTCP {
				return source{}, errors.New("transport: there is no such transport; want auto, udp or tcp")
			}
			s.transport = value
		case "fingerprint":
			sum, err := hex.DecodeString(strings.ReplaceAll(value, ":", ""))
			if err != nil || len(sum) != sha256.Size {
				return source{}, errors.New("fingerprint: not a SHA-256; want the SHA-256 of the source's certificate, 64 digits in hex, as openssl x509 -noout -fingerprint -sha256 prints it")
			}
			s.fingerprint = sum
		default:
			return source{}, errors.New("what follows # is not understood; want transport or fingerprint")
		}
	}
	if s.fingerprint != nil && u.Scheme != "rtsps" {
		return source{}, errors.New("fingerprint: the URL is rtsp, which is not secured; want rtsps")
	}
	return s, nil
}

// address is where the source is, without secrets.
func (s source) address() string {
	port := s.url.Port()
	if port == "" {
		port = map[string]string{"rtsp": "554", "rtsps": "322"}[s.url.Scheme]
	}
	return net.JoinHostPort(s.url.Hostname(), port)
}

// errFingerprint: the source is not the one that was pinned.
var errFingerprint = errors.New("the source's certificate has another fingerprint")

// tls is how a source of rtsps is verified.
func (s source) tls(roots *x509.CertPool) *tls.Config {
	if s.url.Scheme != "rtsps" {
		return nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if s.fingerprint == nil {
		return c
	}
	// Cameras sign their own certificates: the pin says which one it is.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(st tls.ConnectionState) error {
		sum := sha256.Sum256(st.PeerCertificates[0].Raw)
		if string(sum[:]) != string(s.fingerprint) {
			return fmt.Errorf("%w: %X", errFingerprint, sum)
		}
		return nil
	}
	return c
}
