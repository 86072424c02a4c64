package rtmp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/headgate/gateway/sdk/secret"
)

// A Target is where to publish, taken apart.
type Target struct {
	// TLS says whether the scheme is rtmps.
	TLS bool
	// Host is a name or an address without brackets, Port a number.
	Host string
	Port string
	// App is the application's name; it may carry a query, which may be a secret.
	App secret.String
	// Key is the stream key.
	Key secret.String
	// User and Password answer the server's challenge, if it has one.
	User     string
	Password secret.String

	authority string // host and port as they were written
}

// ParseTarget takes a target URL apart:
//
//	rtmp[s]://[user:password@]host[:port]/app...[?query]
//
// With key, the whole of the path and the query is the app. Without, the
// fragment is the key, or else the last segment of the path with the query.
// Slashes around the app are dropped; everything else is taken literally, as
// servers do: keys are not unescaped. No error contains a part of the URL.
func ParseTarget(rawURL, key secret.String) (Target, error) {
	var t Target
	raw := strings.TrimSpace(rawURL.Reveal())
	scheme, rest, ok := strings.Cut(raw, "://")
	switch strings.ToLower(scheme) {
	case "rtmp":
		t.Port = "1935"
	case "rtmps":
		t.TLS, t.Port = true, "443"
	default:
		ok = false
	}
	if !ok {
		return Target{}, errors.New("target URL: is none of RTMP; want rtmp://host/app/key or rtmps://host/app/key")
	}

	authority, path := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	if err := t.parseAuthority(authority); err != nil {
		return Target{}, err
	}
	path, fragment, hasFragment := strings.Cut(path, "#")
	path, query, hasQuery := strings.Cut(path, "?")
	path = strings.Trim(path, "/")
	if hasQuery {
		query = "?" + query
	}

	switch {
	case !key.Empty() && hasFragment:
		return Target{}, errors.New("target URL: has a #key, and a key is given beside it; leave one of them out")
	case !key.Empty():
		t.App, t.Key = secret.New(path+query), key
	case fragment != "":
		t.App, t.Key = secret.New(path+query), secret.New(fragment)
	default:
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return Target{}, errors.New("target URL: names no stream key; write /app/key or /app#key, or give the key beside the URL")
		}
		t.App, t.Key = secret.New(strings.TrimRight(path[:i], "/")), secret.New(path[i+1:]+query)
	}
	if t.App.Empty() {
		return Target{}, errors.New("target URL: names no app; want rtmp://host/app/key")
	}
	return t, nil
}

func (t *Target) parseAuthority(s string) error {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		user, password, _ := strings.Cut(s[:i], ":")
		s = s[i+1:]
		var err1, err2 error
		t.User, err1 = url.PathUnescape(user)
		password, err2 = url.PathUnescape(password)
		if err1 != nil || err2 != nil {
			return errors.New("target URL: user or password has a % that begins no escape; write %25")
		}
		t.Password = secret.New(password)
	}
	t.authority = s
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("target URL: the port is not a number from 1 to 65535; leave it out for 1935, or 443 with rtmps")
		}
		t.Port = port
	}
	if strings.HasPrefix(host, "[") || strings.HasSuffix(host, "]") || strings.Contains(host, ":") {
		inner := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if addr, err := netip.ParseAddr(inner); err != nil || !addr.Is6() || len(host) != len(inner)+2 {
			return errors.New("target URL: the host is not a name or an address; an IPv6 address needs brackets")
		}
		host = inner
	}
	if host == "" {
		return errors.New("target URL: names no host; want rtmp://host/app/key")
	}
	if strings.ContainsAny(host, " \t\r\n@\\%") {
		return errors.New("target URL: the host is not a name or an address; it may have no space, @, % or backslash")
	}
	t.Host = host
	return nil
}

// Redirect returns the target that a server sends us on to: tcURL is an URL, or the
// path of another app at the same server. The key and what proves who we are stay,
// and so does trust: the host must be the one we know, another of the same
// registered domain, or one of also or below it. Anybody who could make us send
// the key elsewhere would have it. A redirection that leaves TLS is refused.
func (t Target) Redirect(tcURL secret.String, also []string) (Target, error) {
	raw := tcURL.Reveal()
	if !strings.Contains(raw, "://") && !strings.HasPrefix(raw, "//") {
		raw = t.scheme() + "://" + t.authority + "/" + strings.TrimPrefix(raw, "/")
	}
	to, err := ParseTarget(secret.New(raw), t.Key)
	switch {
	case err != nil:
		return Target{}, errors.New("the server redirects to something that is no RTMP URL")
	case t.TLS && !to.TLS:
		return Target{}, errors.New("the server redirects from rtmps to rtmp")
	case !t.trusts(to.Host, also):
		return Target{}, fmt.Errorf("the server redirects to %s, which is not known to belong to it; name it in reconnect_to if it does", Target{}.redact(to.Host))
	}
	to.User, to.Password = t.User, t.Password
	return to, nil
}

// trusts reports whether a redirection may lead to host.
func (t Target) trusts(host string, also []string) bool {
	host, known := normalHost(host), normalHost(t.Host)
	if host == known {
		return true
	}
	for _, a := range also {
		if a = normalHost(a); host == a || strings.HasSuffix(host, "."+a) && !isAddress(host) {
			return true
		}
	}
	if isAddress(host) || isAddress(known) {
		return false
	}
	a, err1 := publicsuffix.EffectiveTLDPlusOne(host)
	b, err2 := publicsuffix.EffectiveTLDPlusOne(known)
	return err1 == nil && err2 == nil && a == b
}

func normalHost(s string) string { return strings.TrimSuffix(strings.ToLower(s), ".") }

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// Address is what to dial.
func (t Target) Address() string { return net.JoinHostPort(t.Host, t.Port) }

// String names the target without its secrets: scheme, host and port.
func (t Target) String() string { return t.scheme() + "://" + t.Address() }

func (t Target) scheme() string {
	if t.TLS {
		return "rtmps"
	}
	return "rtmp"
}

// tcURL is the URL of the app, as the connect command states it.
func (t Target) tcURL(app string) string { return t.scheme() + "://" + t.authority + "/" + app }

// redact replaces the secrets of t in text that a peer sent, and what could
// harm a terminal or a log.
func (t Target) redact(text string) string {
	secrets := []string{t.Key.Reveal(), t.Password.Reveal()}
	if key, _, ok := strings.Cut(t.Key.Reveal(), "?"); ok {
		secrets = append(secrets, key)
	}
	if _, query, ok := strings.Cut(t.App.Reveal(), "?"); ok {
		secrets = append(secrets, query)
	}
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "***")
		}
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	const limit = 200
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return text
}
