package secret

import (
	"net/url"
	"strings"
)

// A Redaction takes secrets out of text that others wrote: the errors of
// libraries, which like to quote URLs, and what a plugin says. The zero value
// takes out nothing. It does not change.
type Redaction struct {
	pairs    []string // for strings.NewReplacer
	replacer *strings.Replacer
}

// Redact returns the redaction of a URL with its password, key and query, and of
// further secrets.
func Redact(rawURL string, more ...string) Redaction {
	secrets := append([]string{rawURL}, more...)
	if u, err := url.Parse(rawURL); err == nil {
		if pass, ok := u.User.Password(); ok {
			_, written, _ := strings.Cut(rawURL, "://")
			if end := strings.LastIndex(written, "@"); end >= 0 {
				_, written, _ = strings.Cut(written[:end], ":")
				secrets = append(secrets, pass, written)
			}
		}
		if u.Host != "" { // else the path is a file's, and no secret
			// As it is meant and as it is written: peers quote either.
			path := u.EscapedPath()
			last := path[strings.LastIndex(path, "/")+1:]
			secrets = append(secrets, last)
			if meant, err := url.PathUnescape(last); err == nil {
				secrets = append(secrets, meant)
			}
		}
		secrets = append(secrets, u.RawQuery, u.Fragment)
	}
	var r Redaction
	for _, s := range secrets {
		if len(s) >= minBytes {
			r.pairs = append(r.pairs, s, redacted)
			if escaped := url.PathEscape(s); escaped != s {
				r.pairs = append(r.pairs, escaped, redacted)
			}
		}
	}
	return r.ready()
}

func (r Redaction) ready() Redaction {
	r.replacer = strings.NewReplacer(r.pairs...)
	return r
}

// Longer returns the redaction of those secrets that have at least so many bytes.
func (r Redaction) Longer(bytes int) Redaction {
	var out Redaction
	for i := 0; i < len(r.pairs); i += 2 {
		if len(r.pairs[i]) >= bytes {
			out.pairs = append(out.pairs, r.pairs[i], redacted)
		}
	}
	return out.ready()
}

// minBytes keeps a redaction from eating ordinary words' parts; a key as short as
// that protects nothing.
const minBytes = 4

// Text returns s without the secrets.
func (r Redaction) Text(s string) string {
	if len(r.pairs) == 0 {
		return s
	}
	return r.replacer.Replace(s)
}
