package whip_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/secret"
)

// sessions answers by the token, and holds one session, "s1".
type sessions struct {
	got        whip.Request
	ended      int
	candidates []whip.Candidate
}

func (s *sessions) Publish(_ context.Context, r whip.Request) (whip.Created, error) {
	s.got = r
	reject := func(reason sdk.Reason) error {
		return whip.Rejected(&sdk.RejectedError{Reason: reason, Message: "because", RetryAfter: 1500 * time.Millisecond})
	}
	switch token := r.Token.Reveal(); token {
	case "good":
		return whip.Created{ID: "s1", ETag: `"e1"`, Answer: "v=0\r\n", ICEServers: []whip.ICEServer{
			{URL: "turn:turn.example.org?transport=udp", Username: `a"b`, Credential: secret.New("c")},
		}}, nil
	case "elsewhere":
		return whip.Created{}, &whip.Elsewhere{URL: "https://other.example.org/whip/studio"}
	case "broken":
		return whip.Created{}, errors.New("secret inner thing")
	case "":
		return whip.Created{}, reject(sdk.Unauthenticated)
	default:
		return whip.Created{}, reject(sdk.Reason(token))
	}
}

func (s *sessions) Session(id string) (whip.Session, bool) { return s, id == "s1" && s.ended == 0 }
func (s *sessions) ETag() string                           { return `"e1"` }
func (s *sessions) Ufrag() string                          { return "user" }
func (s *sessions) Targets() ([]whip.Target, bool) {
	return []whip.Target{{Name: "cdn", State: "live"}, {Name: "two", State: "failed", Reason: "its server does not answer"}}, true
}
func (s *sessions) End()                             { s.ended++ }
func (s *sessions) AddCandidates(c []whip.Candidate) { s.candidates = append(s.candidates, c...) }

func (s *sessions) Restart(_ context.Context, f whip.Fragment) (whip.Restarted, error) {
	if f.Ufrag == "lost" {
		return whip.Restarted{}, errors.New("secret inner thing")
	}
	s.candidates = f.Candidates
	return whip.Restarted{ETag: `"e2"`, Fragment: "a=ice-ufrag:new\r\n"}, nil
}

const fragment = "a=ice-ufrag:user\r\na=ice-pwd:0123456789abcdefghijkl\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\na=end-of-candidates\r\n"

// Every row is one request and what must come of it. Headers are "Name: value"
// lines; a value of "*" only has to be there.
func TestHandler(t *testing.T) {
	sdpType := "Content-Type: application/sdp"
	fragType := "Content-Type: application/trickle-ice-sdpfrag"
	bearer := func(token string) string { return "Authorization: Bearer " + token }
	match := `If-Match: "e1"`
	other := strings.Replace(fragment, "user", "other", 1)
	tests := []struct {
		name, method, path string
		headers            []string
		body               string
		status             int
		want               []string
		problem            string
	}{
		{"publish", "POST", "/whip/studio", []string{sdpType, bearer("good")}, "v=0", 201,
			[]string{"Location: /whip/~/s1", `ETag: "e1"`, "Content-Type: application/sdp", "Content-Length: 5", "Access-Control-Allow-Origin: *", "Access-Control-Expose-Headers: *"}, ""},
		{"four segments", "POST", "/whip/a/b/c/d", []string{sdpType, bearer("good")}, "v=0", 201, nil, ""},
		{"type with charset", "POST", "/whip/studio", []string{sdpType + "; charset=utf-8", bearer("good")}, "v=0", 201, nil, ""},
		{"scheme in capitals", "POST", "/whip/studio", []string{sdpType, "Authorization: BEARER good"}, "v=0", 201, nil, ""},
		{"five segments", "POST", "/whip/a/b/c/d/e", []string{sdpType, bearer("good")}, "v=0", 404, nil, "no-such-route"},
		{"no name", "POST", "/whip/", []string{sdpType}, "v=0", 404, nil, "no-such-route"},
		{"name with a dot first", "POST", "/whip/.hidden", []string{sdpType}, "v=0", 404, nil, "no-such-route"},
		{"name with an empty segment", "POST", "/whip/a//b", []string{sdpType}, "v=0", 404, nil, "no-such-route"},
		{"name too long", "POST", "/whip/" + strings.Repeat("a", 129), []string{sdpType}, "v=0", 404, nil, "no-such-route"},
		{"wrong type", "POST", "/whip/studio", []string{"Content-Type: text/plain"}, "v=0", 415, []string{"Accept-Post: application/sdp"}, "content-type"},
		{"no type", "POST", "/whip/studio", nil, "v=0", 415, []string{"Accept-Post: application/sdp"}, "content-type"},
		{"empty", "POST", "/whip/studio", []string{sdpType}, "", 400, nil, "malformed-offer"},
		{"too large", "POST", "/whip/studio", []string{sdpType, bearer("good")}, strings.Repeat("x", 64<<10+1), 413, nil, "too-large"},
		{"no token", "POST", "/whip/studio", []string{sdpType}, "v=0", 401, []string{`WWW-Authenticate: Bearer realm="publish"`}, "unauthenticated"},
		{"basic", "POST", "/whip/studio", []string{sdpType, "Authorization: Basic Z29vZA=="}, "v=0", 401, []string{"WWW-Authenticate: *"}, "unauthenticated"},
		{"forbidden", "POST", "/whip/studio", []string{sdpType, bearer("forbidden")}, "v=0", 403, nil, "forbidden"},
		{"no route", "POST", "/whip/studio", []string{sdpType, bearer("not_found")}, "v=0", 404, nil, "no-such-route"},
		{"servers", "POST", "/whip/studio", []string{sdpType, bearer("good")}, "v=0", 201,
			[]string{`Link: <turn:turn.example.org?transport=udp>; rel="ice-server"; username="a\"b"; credential="c"; credential-type="password"`}, ""},
		{"elsewhere", "POST", "/whip/studio", []string{sdpType, bearer("elsewhere")}, "v=0", 307, []string{"Location: https://other.example.org/whip/studio", "Content-Length: 0"}, ""},
		{"taken", "POST", "/whip/studio", []string{sdpType, bearer("conflict")}, "v=0", 409, []string{"Retry-After: 2"}, "already-published"},
		{"unusable", "POST", "/whip/studio", []string{sdpType, bearer("unusable")}, "v=0", 422, nil, "unusable-offer"},
		{"busy", "POST", "/whip/studio", []string{sdpType, bearer("busy")}, "v=0", 503, []string{"Retry-After: 2"}, "busy"},
		{"later reason", "POST", "/whip/studio", []string{sdpType, bearer("new_reason")}, "v=0", 503, []string{"Retry-After: *"}, "busy"},
		{"inner error", "POST", "/whip/studio", []string{sdpType, bearer("broken")}, "v=0", 500, nil, "internal"},
		{"preflight", "OPTIONS", "/whip/studio", []string{"Origin: https://example.org"}, "", 200,
			[]string{"Accept-Post: application/sdp", "Access-Control-Allow-Methods: POST, OPTIONS, GET, HEAD", "Access-Control-Allow-Headers: Authorization, Content-Type, If-Match, Link", "Access-Control-Max-Age: *"}, ""},
		{"get", "GET", "/whip/studio", nil, "", 204, nil, ""},
		{"head", "HEAD", "/whip/studio", nil, "", 204, nil, ""},
		{"put", "PUT", "/whip/studio", nil, "", 405, []string{"Allow: POST, OPTIONS, GET, HEAD"}, "method-not-allowed"},
		{"delete an endpoint", "DELETE", "/whip/studio", nil, "", 405, []string{"Allow: *"}, "method-not-allowed"},

		{"session get", "GET", "/whip/~/s1", nil, "", 204, nil, ""},
		{"targets", "GET", "/whip/~/s1/targets", nil, "", 200, []string{"Content-Type: application/json", "Cache-Control: no-store", "Access-Control-Allow-Origin: *"}, ""},
		{"targets head", "HEAD", "/whip/~/s1/targets", nil, "", 200, []string{"Content-Type: application/json"}, ""},
		{"targets preflight", "OPTIONS", "/whip/~/s1/targets", nil, "", 200, []string{"Allow: OPTIONS, GET, HEAD"}, ""},
		{"targets put", "PUT", "/whip/~/s1/targets", nil, "", 405, []string{"Allow: OPTIONS, GET, HEAD"}, "method-not-allowed"},
		{"targets of no session", "GET", "/whip/~/s2/targets", nil, "", 404, nil, "no-such-session"},
		{"session head", "HEAD", "/whip/~/s1", nil, "", 204, nil, ""},
		{"session preflight", "OPTIONS", "/whip/~/s1", nil, "", 200, []string{"Accept-Patch: application/trickle-ice-sdpfrag", "Access-Control-Allow-Methods: PATCH, DELETE, OPTIONS, GET, HEAD"}, ""},
		{"session post", "POST", "/whip/~/s1", []string{sdpType}, "v=0", 405, []string{"Allow: *"}, "method-not-allowed"},
		{"no session", "DELETE", "/whip/~/s2", nil, "", 404, nil, "no-such-session"},
		{"no id", "DELETE", "/whip/~/", nil, "", 404, nil, "no-such-session"},
		{"trickle", "PATCH", "/whip/~/s1", []string{fragType, match}, fragment, 204, []string{"ETag: "}, ""},
		{"trickle, no match", "PATCH", "/whip/~/s1", []string{fragType}, fragment, 428, nil, "if-match-missing"},
		{"trickle, old match", "PATCH", "/whip/~/s1", []string{fragType, `If-Match: "e0"`}, fragment, 412, nil, "if-match"},
		{"trickle, wrong type", "PATCH", "/whip/~/s1", []string{sdpType, match}, fragment, 415, []string{"Accept-Patch: *"}, "content-type"},
		{"trickle, garbage", "PATCH", "/whip/~/s1", []string{fragType, match}, "hello", 400, nil, "malformed-fragment"},
		{"trickle, empty", "PATCH", "/whip/~/s1", []string{fragType, match}, "", 400, nil, "malformed-fragment"},
		{"trickle, too large", "PATCH", "/whip/~/s1", []string{fragType, match}, strings.Repeat("a", 16<<10+1), 413, nil, "too-large"},
		{"trickle, any match", "PATCH", "/whip/~/s1", []string{fragType, "If-Match: *"}, fragment, 204, []string{"ETag: "}, ""},
		{"restart", "PATCH", "/whip/~/s1", []string{fragType, "If-Match: *"}, other, 200, []string{`ETag: "e2"`, fragType, "Content-Length: 17"}, ""},
		{"restart with the ETag", "PATCH", "/whip/~/s1", []string{fragType, match}, other, 200, []string{`ETag: "e2"`}, ""},
		{"restart with an old ETag", "PATCH", "/whip/~/s1", []string{fragType, `If-Match: "e0"`}, other, 412, nil, "if-match"},
		{"restart, no match", "PATCH", "/whip/~/s1", []string{fragType}, other, 428, nil, "if-match-missing"},
		{"restart, short password", "PATCH", "/whip/~/s1", []string{fragType, match}, strings.Replace(other, "0123456789", "", 1), 400, nil, "malformed-fragment"},
		{"restart, short ufrag", "PATCH", "/whip/~/s1", []string{fragType, match}, strings.Replace(other, "other", "oth", 1), 400, nil, "malformed-fragment"},
		{"restart, bad characters", "PATCH", "/whip/~/s1", []string{fragType, match}, strings.Replace(other, "other", "oth er", 1), 400, nil, "malformed-fragment"},
		{"restart that fails", "PATCH", "/whip/~/s1", []string{fragType, match}, strings.Replace(other, "other", "lost", 1), 500, nil, "internal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &sessions{}
			r := httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body))
			for _, h := range tt.headers {
				k, v, _ := strings.Cut(h, ": ")
				r.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			whip.NewHandler(s, slog.New(slog.DiscardHandler)).ServeHTTP(w, r)
			res := w.Result()
			defer func() { _ = res.Body.Close() }()
			if res.StatusCode != tt.status {
				t.Errorf("status %d, want %d: %s", res.StatusCode, tt.status, w.Body)
			}
			for _, h := range tt.want {
				k, v, _ := strings.Cut(h, ": ")
				if got := res.Header.Get(k); got != v && (v != "*" || got == "") {
					t.Errorf("%s: %q, want %q", k, got, v)
				}
			}
			checkProblem(t, w, tt.status, tt.problem)
			if res.StatusCode == http.StatusNoContent && w.Body.Len() > 0 {
				t.Errorf("204 with a body %q", w.Body)
			}
		})
	}
}

func checkProblem(t *testing.T, w *httptest.ResponseRecorder, status int, want string) {
	t.Helper()
	if want == "" {
		return
	}
	var p struct {
		Type, Title, Detail string
		Status              int
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" || p.Type != "urn:headgate:whip:"+want || p.Status != status || p.Title == "" {
		t.Errorf("%s %+v, want %s", ct, p, want)
	}
	if strings.Contains(w.Body.String(), "secret inner") {
		t.Error("an inner error is shown to the publisher")
	}
}

func postAs(h http.Handler, remote, stream, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/whip/"+stream, strings.NewReader("v=0"))
	r.RemoteAddr = remote
	r.Header.Set("Content-Type", "application/sdp")
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Who guesses tokens is slowed down, and nobody else is.
func TestGuessesAreSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := whip.NewHandler(&sessions{}, slog.New(slog.DiscardHandler))
		f := func(remote, stream, token string, want int) {
			t.Helper()
			if w := postAs(h, remote, stream, token); w.Code != want {
				t.Errorf("%s %s %s: %d, want %d", remote, stream, token, w.Code, want)
			}
		}
		for range 10 {
			f("192.0.2.1:1000", "studio", "unauthenticated", 401)
		}
		w := postAs(h, "192.0.2.1:1001", "studio", "unauthenticated")
		checkProblem(t, w, 429, "too-many-requests")
		if w.Code != 429 || w.Header().Get("Retry-After") != "3" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
		f("192.0.2.1:1002", "studio", "good", 429) // not known to be right
		f("192.0.2.1:1002", "stage", "good", 201)
		f("192.0.2.2:1000", "studio", "good", 201)
		f("192.0.2.1:1002", "studio", "good", 201) // now it is known
		f("192.0.2.1:1002", "studio", "forbidden", 429)
		time.Sleep(3 * time.Second)
		f("192.0.2.1:1002", "studio", "forbidden", 403)
		f("192.0.2.1:1002", "studio", "forbidden", 429)
		// One network of IPv6 is one address.
		for i := range 10 {
			f(fmt.Sprintf("[2001:db8::%d]:1000", i), "studio", "unauthenticated", 401)
		}
		f("[2001:db8::99]:1000", "studio", "unauthenticated", 429)
		f("[2001:db8:0:1::1]:1000", "studio", "unauthenticated", 401)
		// Whoever sends more than any publisher needs.
		count := map[int]int{}
		for range 1100 {
			count[postAs(h, "192.0.2.3:1000", "studio", "good").Code]++
		}
		if count[201] != 1000 || count[429] != 100 {
			t.Errorf("%v", count)
		}
	})
}

func TestPublishPassesOn(t *testing.T) {
	s := &sessions{}
	r := httptest.NewRequest("POST", "/whip/live/studio", strings.NewReader("v=0\r\n"))
	r.Header.Set("Content-Type", "application/sdp")
	r.Header.Set("Authorization", "Bearer good")
	r.Header.Set("User-Agent", "test/1")
	r.RemoteAddr = "192.0.2.9:4000"
	whip.NewHandler(s, slog.New(slog.DiscardHandler)).ServeHTTP(httptest.NewRecorder(), r)
	g := s.got
	if g.Stream != "live/studio" || g.Token.Reveal() != "good" || g.Remote != "192.0.2.9:4000" || g.Agent != "test/1" || string(g.Offer) != "v=0\r\n" {
		t.Errorf("%+v", g)
	}
}

func TestDelete(t *testing.T) {
	s := &sessions{}
	h := whip.NewHandler(s, slog.New(slog.DiscardHandler))
	for i, want := range []int{200, 404} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("DELETE", "/whip/~/s1", nil))
		if w.Code != want || s.ended != 1 {
			t.Errorf("DELETE %d: status %d, ended %d times", i+1, w.Code, s.ended)
		}
	}
}

func TestFragment(t *testing.T) {
	f, err := whip.ParseFragment(fragment + "m=video 9 UDP/TLS/RTP/SAVPF 0\na=mid:1\na=candidate:2 1 tcp 1 192.0.2.1 9 typ host\na=unknown\n\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []whip.Candidate{{MID: "0", Line: "candidate:1 1 udp 1 192.0.2.1 9 typ host"}, {MID: "1", Line: "candidate:2 1 tcp 1 192.0.2.1 9 typ host"}}
	if f.Ufrag != "user" || f.Pwd != "0123456789abcdefghijkl" || len(f.Candidates) != 2 || f.Candidates[0] != want[0] || f.Candidates[1] != want[1] {
		t.Errorf("%+v", f)
	}
	if _, err := whip.ParseFragment(strings.Repeat("a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n", 33)); err == nil {
		t.Error("33 candidates pass")
	}
}

func FuzzFragment(f *testing.F) {
	f.Add(fragment)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := whip.ParseFragment(text)
		if err == nil && len(got.Candidates) > 32 {
			t.Error("too many candidates")
		}
	})
}

// Garbage never gets success out of the handler, nor a panic.
func FuzzHandler(f *testing.F) {
	f.Add("POST", "/whip/studio", "application/sdp", "Bearer x", "v=0")
	f.Add("PATCH", "/whip/~/s1", "application/trickle-ice-sdpfrag", "", fragment)
	f.Fuzz(func(t *testing.T, method, path, ct, auth, body string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://h/", strings.NewReader(body))
		if err != nil {
			return
		}
		r.URL.Path = path
		r.Header.Set("Content-Type", ct)
		r.Header.Set("Authorization", auth)
		w := httptest.NewRecorder()
		whip.NewHandler(&sessions{}, slog.New(slog.DiscardHandler)).ServeHTTP(w, r)
		if w.Code == 0 {
			t.Error("no answer")
		}
		if w.Code >= 400 && method != "HEAD" && w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%d without a problem document", w.Code)
		}
	})
}

// The answer links to what says where the stream goes.
func TestTargets(t *testing.T) {
	h := whip.NewHandler(&sessions{}, slog.New(slog.DiscardHandler))
	ask := func(method, path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/sdp")
		r.Header.Set("Authorization", "Bearer good")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	links := ask("POST", "/whip/studio", "v=0").Header().Values("Link")
	if want := `</whip/~/s1/targets>; rel="urn:headgate:whip:targets"`; links[len(links)-1] != want {
		t.Errorf("links %q, want %q", links, want)
	}
	want := `{"targets":[{"name":"cdn","state":"live"},{"name":"two","state":"failed","reason":"its server does not answer"}]}`
	if got := ask("GET", "/whip/~/s1/targets", "").Body.String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
