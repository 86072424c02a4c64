package secret

import (
	"encoding/json"
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

// Redact returns the redaction of these secrets. Of one that is a URL the password,
// the key at the end of its path and the query are secrets too.
func Redact(secrets ...string) Redaction {
	for _, s := range secrets {
		secrets = append(secrets, ofURL(s)...)
	}
	var r Redaction
	for _, s := range secrets {
		if len(s) >= minBytes {
			r.pairs = append(r.pairs, s, redacted)
			for _, escaped := range []string{url.PathEscape(s), inJSON(s)} {
				if escaped != s {
					r.pairs = append(r.pairs, escaped, redacted)
				}
			}
		}
	}
	return r.ready()
}

// inJSON is s as it stands between the quotes of a text in JSON.
func inJSON(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return s
	}
	return string(b[1 : len(b)-1])
}

// ofURL returns the secrets within a URL, as they are meant and as they are written:
// peers quote either. Of what is no URL it returns none.
func ofURL(raw string) []string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return nil
	}
	out := []string{u.RawQuery, u.Fragment}
	if pass, ok := u.User.Password(); ok {
		_, written, _ := strings.Cut(raw, "://")
		if end := strings.LastIndex(written, "@"); end >= 0 {
			_, written, _ = strings.Cut(written[:end], ":")
			out = append(out, pass, written)
		}
	}
	if u.Host != "" { // else the path is a file's, and no secret
		path := u.EscapedPath()
		last := path[strings.LastIndex(path, "/")+1:]
		out = append(out, last)
		if meant, err := url.PathUnescape(last); err == nil {
			out = append(out, meant)
		}
	}
	return out
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
