package page_test

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/headgate/gateway/plugins/ingest-webrtc/page"
)

func get(method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	page.Handler().ServeHTTP(w, r)
	return w
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
		if page.Handler().ServeHTTP(w, r); w.Code != want {
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
