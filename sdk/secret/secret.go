// Package secret holds values that must not appear in logs, errors, the API or
// dumps: stream keys, tokens, URLs that contain them.
package secret

import (
	"crypto/subtle"
	"log/slog"
)

const redacted = "***"

// A String is a secret text. However it is printed, logged or marshalled it
// shows "***"; the text itself leaves only through [String.Reveal].
// The zero value is "no secret".
type String struct{ text string }

// New makes a secret of text.
func New(text string) String { return String{text} }

// Reveal returns the text. Call it where the text is used, not where it is stored.
func (s String) Reveal() string { return s.text }

// Empty reports whether there is no text.
func (s String) Empty() bool { return s.text == "" }

// Equal compares in constant time.
func (s String) Equal(o String) bool {
	return subtle.ConstantTimeCompare([]byte(s.text), []byte(o.text)) == 1
}

func (s String) String() string {
	if s.text == "" {
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
	s.text = string(text)
	return nil
}
