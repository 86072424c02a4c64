package sdk

import (
	"errors"
	"net/url"
	"strings"
)

// redactor removes the secrets of one session from what leaves it as an error
// text: the URL with its password, key and query. Authors wrap the errors of
// libraries, which like to quote URLs.
func redactor(rawURL string, more ...string) redaction {
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
	var r redaction
	for _, s := range secrets {
		if len(s) >= minSecretBytes {
			r = append(r, s, "***")
			if escaped := url.PathEscape(s); escaped != s {
				r = append(r, escaped, "***")
			}
		}
	}
	return r
}

// minSecretBytes keeps the redaction from eating ordinary words' parts; a key as
// short as that protects nothing.
const minSecretBytes = 4

// A redaction is a list for [strings.NewReplacer].
type redaction []string

func (r redaction) text(s string) string { return strings.NewReplacer(r...).Replace(s) }

// error returns err with its text redacted; kind and cause stay.
func (r redaction) error(err error) error {
	if err == nil {
		return nil
	}
	text := r.text(err.Error())
	if text == err.Error() {
		return err
	}
	clean := errors.New(text)
	var e *Error
	if errors.As(err, &e) {
		clean = &Error{Cause: e.Cause, RetryAfter: e.RetryAfter, Err: clean}
	}
	if IsPermanent(err) {
		clean = Permanent(clean)
	}
	return clean
}
