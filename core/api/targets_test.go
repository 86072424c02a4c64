package api

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestUnder(t *testing.T) {
	f := func(escaped, stream, target string, list, ok bool) {
		t.Helper()
		s, tg, l, k := under(escaped)
		if k != ok || ok && (s != stream || tg != target || l != list) {
			t.Errorf("%s: %q %q %v %v", escaped, s, tg, l, k)
		}
	}
	f("studio", "studio", "", false, true)
	f("live/eve", "live/eve", "", false, true)
	f("studio/targets", "studio", "", true, true)
	f("studio/targets/yt", "studio", "yt", false, true)
	f("live/eve/targets/yt", "live/eve", "yt", false, true)
	f("live%2Feve/targets/yt", "live/eve", "yt", false, true)
	f("a%2Ftargets%2Fb", "a/targets/b", "", false, true)
	f("a%2Ftargets%2Fb/targets/c", "a/targets/b", "c", false, true)
	f("a/targets/b/targets/c", "a/targets/b", "c", false, true)
	f("", "", "", false, false)
	f("targets/yt", "targets/yt", "", false, true)
	f("targets", "targets", "", false, true)
	f("%zz", "", "", false, false)
	f("studio/targets/%zz", "", "", false, false)
}

// TestTargetRequests: what each request is answered, and with which ETag.
func TestTargetRequests(t *testing.T) {
	g := &fakeGateway{}
	h := newServer(g, "", true).Admin()
	const json1, merge = "application/json", "application/merge-patch+json"
	f := func(code int, method, target, body string, header ...string) string {
		t.Helper()
		if body != "" {
			header = append([]string{"Content-Type", json1}, header...)
		}
		w := request(h, method, target, strings.NewReader(body), header...)
		if code >= 400 {
			wantProblem(t, method+" "+target, w, code)
		} else if w.Code != code {
			t.Errorf("%s %s: %d %s, want %d", method, target, w.Code, w.Body, code)
		}
		return w.Header().Get("ETag")
	}
	const one = "/v1/streams/studio/targets/one"
	f(404, "GET", one, "")
	f(404, "PATCH", one, "{}")
	f(404, "DELETE", one, "")
	f(412, "PUT", one, "{}", "If-Match", "*")
	first := f(201, "PUT", one, `{"url": "x"}`, "If-None-Match", "*")
	if first == "" || f(200, "GET", one, "") != first || f(200, "HEAD", one, "") != first || g.body != `{"url": "x"}` {
		t.Errorf("the ETag %s is not that of GET", first)
	}
	f(412, "PUT", one, `{"url": "y"}`, "If-None-Match", "*")
	f(428, "PUT", one, `{"url": "y"}`)
	f(412, "PUT", one, `{"url": "y"}`, "If-Match", `"other"`)
	second := f(200, "PUT", one, `{"url": "y"}`, "If-Match", `"other", `+first)
	if second == first || g.body != `{"url": "y"}` {
		t.Errorf("the ETag %s stays", first)
	}
	// Who changes what he saw before that change is told.
	f(412, "PATCH", one, `{"key": "k"}`, "If-Match", first)
	f(412, "DELETE", one, "", "If-Match", first)
	f(412, "DELETE", one, "", "If-Match", "W/"+second)
	if g.body != `{"url": "y"}` {
		t.Error("a change went through")
	}
	third := f(200, "PATCH", one, `{"key": "k"}`, "Content-Type", merge, "If-Match", second)
	f(200, "PATCH", one, `{"key": "l"}`)
	f(200, "PUT", one, `{"url": "z"}`, "If-Match", "*")
	f(412, "DELETE", one, "", "If-Match", third)
	f(204, "DELETE", one, "")
	f(404, "GET", one, "")

	f(404, "PUT", "/v1/streams/nothing/targets/one", "{}")
	f(503, "PUT", "/v1/streams/ending/targets/one", "{}")
	f(422, "PUT", one, "nonsense")
	f(415, "PUT", one, "", "Content-Type", "text/plain")
	f(415, "PUT", one, "")
	f(415, "PUT", one, "{}", "Content-Type", merge)
	f(413, "PUT", one, `"`+strings.Repeat("x", maxBodyBytes)+`"`)
	f(405, "POST", one, "{}")
	f(405, "DELETE", "/v1/streams/studio", "")
	f(404, "GET", "/v1/streams/", "")
	f(404, "GET", "/v1/streams/nothing", "")
	f(403, "DELETE", one, "", "Origin", "https://evil.example")
	f(403, "PUT", one, "{}", "Host", "evil.example")

	// Names with slashes.
	f(201, "PUT", "/v1/streams/a%2Ftargets%2Fb/targets/one", "{}")
	f(404, "GET", "/v1/streams/a/targets/one", "")
	if f(200, "GET", "/v1/streams/a/targets/b/targets/one", ""); g.asked != "a/targets/b" {
		t.Errorf("asked for %s", g.asked)
	}

	w := request(h, "PUT", one, strings.NewReader("nonsense"), "Content-Type", json1, "If-Match", "*")
	var p problemDocument
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || len(p.Errors) != 1 || p.Errors[0].Path != "url" || p.Errors[0].Remedy == "" {
		t.Errorf("%v %s", err, w.Body)
	}
	w = request(h, "PUT", "/v1/streams/studio/targets/new", strings.NewReader("{}"), "Content-Type", json1)
	if w.Code != 201 || !strings.Contains(w.Body.String(), `"not verified"`) {
		t.Errorf("%d %s: does not tell what the definition is warned of", w.Code, w.Body)
	}
	g.streams = oneOfEach().streams
	if w := request(h, "GET", "/v1/streams/studio", nil); w.Code != 200 || !strings.Contains(w.Body.String(), `"name":"studio"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := request(h, "GET", "/v1/streams/empty/targets", nil); w.Code != 200 || w.Body.String() != "{\"targets\":[]}\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// With a token, nothing goes without it.
	h = newServer(g, "secret", true).Admin()
	f(401, "PUT", one, "{}")
	f(401, "DELETE", one, "")
}
