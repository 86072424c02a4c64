package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
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
