package api

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificateCheck is how often a handshake looks whether the files changed.
const certificateCheck = 10 * time.Second

// A certificate serves a pair of PEM files and reads them again when they
// change, so that a renewal needs no restart. If what is there then cannot be
// used it goes on with the old one.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex // guards the fields below
	pair    *tls.Certificate
	stamp   [2]fileStamp
	checked time.Time
}

// A fileStamp tells whether a file changed.
type fileStamp struct {
	size    int64
	changed time.Time
}

func newCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	stamp := c.stamps()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("loading the certificate of the public listener: %w", err)
	}
	c.pair, c.stamp, c.checked = &pair, stamp, time.Now()
	return c, nil
}

func (c *certificate) stamps() (s [2]fileStamp) {
	for i, name := range []string{c.certFile, c.keyFile} {
		if st, err := os.Stat(name); err == nil {
			s[i] = fileStamp{st.Size(), st.ModTime()}
		}
	}
	return s
}

// get implements [tls.Config.GetCertificate].
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= certificateCheck {
		c.checked = now
		c.reload()
	}
	return c.pair, nil
}

// reload is called with mu held. Reading two small files under it is what keeps
// other handshakes from reading them too.
func (c *certificate) reload() {
	stamp := c.stamps()
	if stamp == c.stamp {
		return
	}
	c.stamp = stamp
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		c.log.Error("the renewed certificate cannot be used, the old one stays", "error", err)
		return
	}
	c.pair = &pair
	c.log.Info("the certificate was renewed", "file", c.certFile)
}
