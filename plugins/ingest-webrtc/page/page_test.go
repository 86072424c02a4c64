package page_test

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/headgate/gateway/plugins/ingest-webrtc/page"
	"github.com/headgate/gateway/sdk"
)

func get(method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

// handler is the page of a gateway that has no route of the name nosuch, and does not
// answer about another.
var handler = page.Handler(func(_ context.Context, stream string) error {
	switch stream {
	case "nosuch":
		return &sdk.RejectedError{Reason: sdk.NotFound, Message: "no route has the name <nosuch>"}
	case "silent":
		return context.DeadlineExceeded
	default:
		return nil
	}
}, slog.New(slog.DiscardHandler))

// Where nothing can be published there is no page that says Ready.
func TestUnknownRoute(t *testing.T) {
	w := get("GET", "/publish/nosuch", "Accept", "text/html,*/*;q=0.8")
	if w.Code != 404 || !strings.Contains(w.Body.String(), "No route has the name &lt;nosuch&gt;.") || strings.Contains(w.Body.String(), "script") ||
		!strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := get("HEAD", "/publish/nosuch", "Accept", "text/html"); w.Code != 404 || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d %s", w.Code, w.Body)
	}
	if w := get("GET", "/publish/nosuch"); w.Code != 404 || w.Header().Get("Content-Type") != "application/problem+json" ||
		!strings.Contains(w.Body.String(), `"urn:headgate:whip:no-such-route"`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	// A gateway that does not answer is no reason to turn anybody away.
	if w := get("GET", "/publish/silent"); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestPage(t *testing.T) {
	w := get("GET", "/publish/live/studio")
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Errorf("%d %s", w.Code, w.Header())
	}
	csp := w.Header().Get("Content-Security-Policy")
	if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy %q", csp)
	}
	// Everything that the page names is there, and nothing is of another host.
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(w.Body.String(), -1) {
		if strings.HasPrefix(m[1], "data:") {
			continue
		}
		if got := get("GET", m[1]); got.Code != 200 || got.Body.Len() == 0 {
			t.Errorf("%s: %d", m[1], got.Code)
		}
	}
	if strings.Contains(w.Body.String(), "//") && regexp.MustCompile(`https?://`).Match(w.Body.Bytes()) {
		t.Error("the page names another host")
	}
	if regexp.MustCompile(`<script>|<style|style="| on[a-z]+="`).Match(w.Body.Bytes()) {
		t.Error("the page has inline script or style, which its policy forbids")
	}
}

func TestOthers(t *testing.T) {
	for path, want := range map[string]int{
		"/publish/": 404, "/publish/a/b/c/d/e": 404, "/publish/a b": 404, "/publish/~/secret": 404, "/publish/~/../page.go": 404, "/publish/~/publish.js": 200,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path = path
		w := httptest.NewRecorder()
		if handler.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
	if w := get("POST", "/publish/studio"); w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d", w.Code)
	}
	tag := get("GET", "/publish/~/publish.js").Header().Get("ETag")
	if w := get("GET", "/publish/~/publish.js", "If-None-Match", tag); tag == "" || w.Code != 304 {
		t.Errorf("%q: %d, want 304", tag, w.Code)
	}
	if w := get("HEAD", "/publish/studio"); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d", w.Code)
	}
}
