package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

// holder keeps its secret where package fmt cannot call its methods.
type holder struct {
	Shown  String
	hidden String
}

// Nothing that prints, logs or marshals shows the text, wherever it is kept.
func TestNothingShowsIt(t *testing.T) {
	const text = "abcd-1234"
	h := holder{New(text), New(text)}
	values := []any{h.Shown, &h.Shown, h, &h, []String{h.hidden}, map[String]holder{h.hidden: h}}
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%t", "%c"} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, text) || strings.Contains(got, fmt.Sprintf("%x", text)) {
				t.Errorf("%s of %T shows it: %s", verb, v, got)
			}
		}
		b, err := json.Marshal(v)
		if err != nil || bytes.Contains(b, []byte(text)) {
			t.Errorf("JSON of %T: %s, %v", v, b, err)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		if strings.Contains(log.String(), text) {
			t.Errorf("the log of %T: %s", v, log.String())
		}
	}
	if h.Shown.Reveal() != text || fmt.Sprint(h.Shown) != "***" {
		t.Error("it is not what it was, or shows that there is none")
	}
}

func TestEmptyAndEqual(t *testing.T) {
	var read String
	if err := json.Unmarshal([]byte(`"k"`), &read); err != nil || read.Reveal() != "k" {
		t.Errorf("read %q, %v", read.Reveal(), err)
	}
	none := New("")
	if !none.Empty() || none != (String{}) || none.Reveal() != "" || none.String() != "" || none.Equal(read) {
		t.Error("an empty text is a secret")
	}
	if !read.Equal(New("k")) || read != New("k") || read.Equal(New("kk")) || read == New("j") {
		t.Error("equality")
	}
}

// Secrets within options are those that the schema says are, wherever they stand.
func TestInOptions(t *testing.T) {
	const schema = `{
		"properties": {
			"password": {"type": "string", "format": "password"},
			"proxy": {"$ref": "#/$defs/hidden~1url"},
			"users": {"type": "object", "additionalProperties": {"properties": {"name": {"type": "string"}, "token": {"writeOnly": true}}}},
			"keys": {"type": "array", "items": {"oneOf": [{"type": "integer"}, {"type": "string", "format": "password"}]}},
			"login": {"writeOnly": true, "properties": {"as": {"type": "string"}}},
			"loop": {"$ref": "#/properties/loop"},
			"plain": {"type": "string"}
		},
		"$defs": {"hidden/url": {"format": "password"}}
	}`
	f := func(options string, want ...string) {
		t.Helper()
		got := InOptions([]byte(schema), []byte(options))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", options, got, want)
		}
	}
	f(`{"password":"a","proxy":"b","users":{"x":{"name":"no","token":"c"}},"keys":["d",5,"e"],"login":{"as":"f"},"plain":"no","loop":"no","more":"no"}`,
		"a", "b", "c", "d", "e", "f")
	f(`{"password":"","keys":null,"users":[1]}`)
	f(`no JSON`)
	f(``)
	if got := InOptions([]byte("no schema"), []byte(`{"password":"a"}`)); got != nil {
		t.Errorf("without a schema: %q", got)
	}
}

func TestRedact(t *testing.T) {
	f := func(text, want string, secrets ...string) {
		t.Helper()
		if got := Redact(secrets...).Text(text); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f("dial rtmp://u:pw12@h/app/key1?t=q123: key1 t=q123 pw12", "dial ***: *** *** ***", "rtmp://u:pw12@h/app/key1?t=q123")
	f("proxy http://me:s3cret@p and s3cret", "proxy *** and ***", "rtmp://h/app", "http://me:s3cret@p")
	f(`{"@message":"login with a\"b\u0026c"}`, `{"@message":"login with ***"}`, `a"b&c`)
	f("file /var/recordings/x", "file /var/recordings/x", "file:///var/recordings/x")
	f("the key is abc", "the key is abc", "abc") // protects nothing
}
