package session

import (
	"sync"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/protocol/extension"
	"github.com/pion/dtls/v3/pkg/protocol/handshake"
)

// ciphers are what the gateway chose as the DTLS server. As the client it does not
// learn what the publisher chose.
type ciphers struct {
	mu         sync.Mutex // guards the fields below
	dtls, srtp string     // empty before, and if unknown
}

var profileNames = map[extension.SRTPProtectionProfile]string{
	dtls.SRTP_AEAD_AES_128_GCM:       "AEAD_AES_128_GCM",
	dtls.SRTP_AEAD_AES_256_GCM:       "AEAD_AES_256_GCM",
	dtls.SRTP_AES128_CM_HMAC_SHA1_80: "AES_CM_128_HMAC_SHA1_80",
}

// serverHello looks at the message by which the server tells its choice, and leaves it
// as it is.
func (c *ciphers) serverHello(m handshake.MessageServerHello) handshake.Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.CipherSuiteID != nil {
		c.dtls = dtls.CipherSuiteName(dtls.CipherSuiteID(*m.CipherSuiteID))
	}
	for _, e := range m.Extensions {
		if u, ok := e.(*extension.UseSRTP); ok && len(u.ProtectionProfiles) == 1 {
			c.srtp = profileNames[u.ProtectionProfiles[0]]
		}
	}
	return &m
}

// addTo adds what is known.
func (c *ciphers) addTo(info map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dtls != "" {
		info["dtls_cipher"] = c.dtls
	}
	if c.srtp != "" {
		info["srtp_cipher"] = c.srtp
	}
}
