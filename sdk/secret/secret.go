// Package secret holds values that must not appear in logs, errors, the API or
// dumps: stream keys, tokens, URLs that contain them.
package secret

import (
	"crypto/subtle"
	"log/slog"
	"unique"
)

const redacted = "***"

// A String is a secret text. However it is printed, logged or marshalled it
// shows "***"; the text itself leaves only through [String.Reveal].
// The zero value is "no secret". Equal texts are equal with ==, so that it can be
// the key of a map.
type String struct {
	// A handle, since package fmt looks into fields that are not exported: of a text
	// there it would print all.
	handle unique.Handle[string]
}

// New makes a secret of text.
func New(text string) String {
	if text == "" {
		return String{}
	}
	return String{unique.Make(text)}
}

// Reveal returns the text. Call it where the text is used, not where it is stored.
func (s String) Reveal() string {
	if s.Empty() {
		return ""
	}
	return s.handle.Value()
}

// Empty reports whether there is no text.
func (s String) Empty() bool { return s == String{} }

// Equal compares in constant time.
func (s String) Equal(o String) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(o.Reveal())) == 1
}

func (s String) String() string {
	if s.Empty() {
		return ""
	}
	return redacted
}

// GoString keeps %#v from showing the text.
func (s String) GoString() string { return "secret.String(" + s.String() + ")" }

// LogValue implements [slog.LogValuer].
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements [encoding.TextMarshaler], for JSON and YAML.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]: the options of a plugin
// decode into it.
func (s *String) UnmarshalText(text []byte) error {
	*s = New(string(text))
	return nil
}
