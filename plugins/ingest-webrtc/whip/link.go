package whip

import (
	"strings"

	"github.com/headgate/gateway/sdk/secret"
)

// An ICEServer is a STUN or TURN server for the publisher.
type ICEServer struct {
	URL        string // stun:host:port, turn:host:port?transport=udp
	Username   string
	Credential secret.String
}

// Link returns s as the value of a Link header (RFC 9725, section 4.6).
func (s ICEServer) Link() string {
	l := "<" + s.URL + `>; rel="ice-server"`
	if s.Username != "" {
		l += "; username=" + quoted(s.Username) + "; credential=" + quoted(s.Credential.Reveal()) + `; credential-type="password"`
	}
	return l
}

// quoted writes s as a quoted-string (RFC 9110).
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
		case r < ' ' || r == 0x7f:
			continue // cannot be written at all
		}
		b.WriteRune(r)
	}
	b.WriteByte('"')
	return b.String()
}
