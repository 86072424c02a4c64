package endpoint

import (
	"crypto/tls"
	"sync/atomic"
)

// A Certificate is what the TLS servers of a plugin show, and may be another one for
// the connections that come later. Safe for concurrent use.
type Certificate struct {
	pair atomic.Pointer[tls.Certificate]
}

// Show makes pair the one that is shown from now on.
func (c *Certificate) Show(pair *tls.Certificate) { c.pair.Store(pair) }

// Config is that of a server which shows c. Something must have been shown before the
// first connection.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.pair.Load(), nil },
	}
}
