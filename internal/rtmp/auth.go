package rtmp

import (
	"crypto/md5" //nolint:gosec // the protocols are made of it
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// An authChallenge is a server's demand for user and password, which it makes by
// refusing connect: first naming the scheme, then, when it was told the user,
// with a salt or a nonce. Each answer goes into the query of the app of a new
// connection.
type authChallenge struct {
	scheme string // adobe or llnw
	// params are those of the second refusal; nil after the first.
	params map[string]string
	failed bool
}

// parseAuthChallenge finds the demand in the description of a refused connect.
// The forms seen:
//
//	[ AccessManager.Reject ] : [ code=403 need auth; authmod=adobe ] :
//	[ AccessManager.Reject ] : [ authmod=adobe ] : ?reason=needauth&user=u&salt=s&challenge=c&opaque=o
func parseAuthChallenge(description string) (authChallenge, bool) {
	_, rest, ok := strings.Cut(description, "authmod=")
	if !ok {
		return authChallenge{}, false
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
	if end < 0 {
		end = len(rest)
	}
	c := authChallenge{scheme: strings.ToLower(rest[:end])}
	if _, query, ok := strings.Cut(rest, "?"); ok {
		// The values are not escaped: base64 with its + and = stands as it is.
		c.params = make(map[string]string)
		for pair := range strings.SplitSeq(strings.TrimSpace(query), "&") {
			if k, v, ok := strings.Cut(pair, "="); ok {
				c.params[k] = v
			}
		}
		if reason := c.params["reason"]; reason != "" && reason != "needauth" {
			c.failed = true
		}
	}
	return c, true
}

// answer returns the query to connect with next; ok is false if the scheme is
// not one of ours or the challenge lacks something.
func (c authChallenge) answer(user, password, app string) (query string, ok bool) {
	if c.scheme != "adobe" && c.scheme != "llnw" {
		return "", false
	}
	head := "authmod=" + c.scheme + "&user=" + user
	if c.params == nil {
		return head, true
	}
	if c.scheme == "adobe" {
		return c.adobe(head, user, password)
	}
	return c.llnw(head, user, password, app)
}

func (c authChallenge) adobe(head, user, password string) (string, bool) {
	salt, challenge, opaque := c.params["salt"], c.params["challenge"], c.params["opaque"]
	if challenge == "" && opaque == "" {
		return "", false
	}
	ours := nonce()
	token := opaque
	if token == "" {
		token = challenge
	}
	response := md5Base64(md5Base64(user+salt+password) + token + ours)
	query := head + "&challenge=" + ours + "&response=" + response
	if opaque != "" {
		query += "&opaque=" + opaque
	}
	return query, true
}

// llnw is HTTP digest authentication with fixed method, realm and count.
func (c authChallenge) llnw(head, user, password, app string) (string, bool) {
	theirs := c.params["nonce"]
	if theirs == "" {
		return "", false
	}
	const realm, method, count, quality = "live", "publish", "00000001", "auth"
	ours := nonce()
	uri := "/" + app
	if !strings.Contains(app, "/") {
		uri += "/_definst_"
	}
	response := md5Hex(md5Hex(user+":"+realm+":"+password) + ":" + theirs + ":" + count + ":" + ours + ":" +
		quality + ":" + md5Hex(method+":"+uri))
	return head + "&nonce=" + theirs + "&cnonce=" + ours + "&nc=" + count + "&response=" + response, true
}

func md5Base64(s string) string {
	sum := md5.Sum([]byte(s)) //nolint:gosec // see above
	return base64.StdEncoding.EncodeToString(sum[:])
}

func md5Hex(s string) string {
	sum := md5.Sum([]byte(s)) //nolint:gosec // see above
	return hex.EncodeToString(sum[:])
}

func nonce() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
