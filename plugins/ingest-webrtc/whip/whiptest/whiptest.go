// Package whiptest checks a WHIP server against RFC 9725, row by row, over HTTP: ours
// in the tests, and any other by its URL.
//
//	go test ./plugins/ingest-webrtc/whip/whiptest -whip.url https://host/whip/stream -whip.token TOKEN
//
// It knows HTTP and session descriptions as texts, and nothing of any server: what
// goes beyond the RFC is marked as ours, and asked of ours only.
package whiptest

import (
	_ "embed" // the offer
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// offer is one of Chromium's, H.264 and Opus.
//
//go:embed offer.sdp
var offer string

// A Target is the server under test.
type Target struct {
	// URL is an endpoint to which Token, if there is one, may publish.
	URL, Token string
	// Ours asks for what the gateway promises beyond the RFC: problem documents with
	// their types, and exact statuses where the RFC leaves a choice.
	Ours bool
}

// A row is one request and what must come of it.
type row struct {
	name   string
	method string
	at     place
	// header lines: "Name: value"; {etag} stands for the session's.
	header []string
	body   string
	status []int // the first is ours
	// want are header lines of the answer: "Name: value", "Name: *" for any value,
	// "Name:" for none, and "Name: ~x" for one with x in it.
	want    []string
	problem string // ours
	token   bool   // send the token
	after   string // the state of the session afterwards: "lives" or "gone"
	empty   bool   // no body
}

type place int

const (
	endpoint place = iota
	session        // of a session that was made for the row
	gone           // of one that has been deleted
	nowhere        // a session that never was
)

const (
	sdpType      = "Content-Type: application/sdp"
	fragmentType = "Content-Type: application/trickle-ice-sdpfrag"
	credentials  = "a=ice-ufrag:conf\r\na=ice-pwd:0123456789012345678901\r\n"
	candidate    = "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\na=candidate:1 1 udp 2130706431 192.0.2.1 50000 typ host\r\n"
)

// current are the credentials of the offer.
func current() string {
	return regexp.MustCompile(`a=ice-ufrag:\S+`).FindString(offer) + "\r\n" + regexp.MustCompile(`a=ice-pwd:\S+`).FindString(offer) + "\r\n"
}

// with is the offer with some of its text replaced.
func with(replace ...string) string { return strings.NewReplacer(replace...).Replace(offer) }

func rows() []row {
	return []row{
		// Section 4.2: the session is made.
		{name: "offer", method: "POST", header: []string{sdpType}, body: offer, token: true, status: []int{201},
			want: []string{"Content-Type: application/sdp", "Location: *", "ETag: ~\"", "Content-Length: *"}},
		{name: "offer with charset", method: "POST", header: []string{sdpType + "; charset=utf-8"}, body: offer, token: true, status: []int{201}},
		{name: "another type", method: "POST", header: []string{"Content-Type: text/plain"}, body: offer, token: true, status: []int{415, 400},
			want: []string{"Accept-Post: application/sdp"}, problem: "content-type"},
		{name: "no type", method: "POST", body: offer, token: true, status: []int{415, 400}, problem: "content-type"},
		{name: "nothing", method: "POST", header: []string{sdpType}, token: true, status: []int{400, 422}, problem: "malformed-offer"},
		{name: "garbage", method: "POST", header: []string{sdpType}, body: "hello", token: true, status: []int{400, 422}, problem: "malformed-offer"},
		{name: "too large", method: "POST", header: []string{sdpType}, body: offer + strings.Repeat("a=x:y\r\n", 20000), token: true, status: []int{413, 400, 422}, problem: "*"},
		{name: "inactive", method: "POST", header: []string{sdpType}, body: with("a=sendonly", "a=inactive"), token: true, status: []int{422, 400, 406, 409}, problem: "offer-direction"},
		{name: "receiving", method: "POST", header: []string{sdpType}, body: with("a=sendonly", "a=recvonly"), token: true, status: []int{422, 400, 406, 409}, problem: "offer-direction"},
		{name: "active", method: "POST", header: []string{sdpType}, body: with("a=setup:actpass", "a=setup:active"), token: true, status: []int{201}},
		{name: "passive", method: "POST", header: []string{sdpType}, body: with("a=setup:actpass", "a=setup:passive"), token: true, status: []int{201}},

		// Section 4.3: trickle and restart.
		{name: "trickle", method: "PATCH", at: session, header: []string{fragmentType, "If-Match: {etag}"}, body: current() + candidate, status: []int{204},
			want: []string{"ETag:"}, empty: true, after: "lives"},
		{name: "trickle of candidates that are not known", method: "PATCH", at: session, header: []string{fragmentType, "If-Match: {etag}"},
			body: current() + strings.Replace(candidate, "udp", "sctp", 1) + "a=candidate:1 1 udp 1 nowhere.invalid 9 typ host\r\na=candidate:bogus\r\n", status: []int{204}, after: "lives"},
		{name: "trickle without If-Match", method: "PATCH", at: session, header: []string{fragmentType}, body: current() + candidate, status: []int{428}, problem: "if-match-missing", after: "lives"},
		{name: "trickle of another ICE session", method: "PATCH", at: session, header: []string{fragmentType, `If-Match: "other"`}, body: current() + candidate, status: []int{412}, problem: "if-match", after: "lives"},
		{name: "PATCH of another type", method: "PATCH", at: session, header: []string{sdpType, "If-Match: {etag}"}, body: current(), status: []int{415, 400}, problem: "content-type", after: "lives"},
		{name: "PATCH of garbage", method: "PATCH", at: session, header: []string{fragmentType, "If-Match: {etag}"}, body: "hello", status: []int{400, 422}, problem: "malformed-fragment", after: "lives"},
		{name: "PATCH of nothing", method: "PATCH", at: session, header: []string{fragmentType, "If-Match: {etag}"}, status: []int{400, 422}, problem: "malformed-fragment", after: "lives"},
		{name: "restart", method: "PATCH", at: session, header: []string{fragmentType, "If-Match: *"}, body: credentials + candidate, status: []int{200},
			want: []string{fragmentType, "ETag: ~\""}, after: "lives"},
		{name: "restart that cannot be", method: "PATCH", at: session, header: []string{fragmentType, "If-Match: *"}, body: "a=ice-ufrag:conf\r\n", status: []int{400, 422}, problem: "malformed-fragment", after: "lives"},
		{name: "restart with an ETag that is not the session's", method: "PATCH", at: session, header: []string{fragmentType, `If-Match: "other"`}, body: credentials, status: []int{412}, problem: "if-match", after: "lives"},
		{name: "PATCH of a session that is gone", method: "PATCH", at: gone, header: []string{fragmentType, "If-Match: *"}, body: current(), status: []int{404, 410}, problem: "no-such-session"},

		// Section 4.4: the end.
		{name: "delete", method: "DELETE", at: session, status: []int{200}, after: "gone"},
		{name: "delete, whatever If-Match says", method: "DELETE", at: session, header: []string{`If-Match: "other"`}, status: []int{200}, after: "gone"},
		{name: "delete twice", method: "DELETE", at: gone, status: []int{404, 410}, problem: "no-such-session"},
		{name: "delete what never was", method: "DELETE", at: nowhere, status: []int{404}, problem: "no-such-session"},

		// Sections 4.1 and 4.8: what the URLs say of themselves.
		{name: "options", method: "OPTIONS", status: []int{200, 204}, want: []string{"Accept-Post: application/sdp"}},
		{name: "preflight", method: "OPTIONS", header: []string{"Origin: https://example.org", "Access-Control-Request-Method: POST"}, status: []int{200, 204},
			want: []string{"Access-Control-Allow-Origin: *", "Access-Control-Allow-Methods: ~POST", "Access-Control-Allow-Headers: ~Authorization", "Link:"}},
		{name: "preflight of a session", method: "OPTIONS", at: session, header: []string{"Origin: https://example.org", "Access-Control-Request-Method: PATCH"}, status: []int{200, 204},
			want: []string{"Access-Control-Allow-Methods: ~PATCH", "Access-Control-Allow-Headers: ~If-Match"}},
		{name: "exposed headers", method: "POST", header: []string{sdpType, "Origin: https://example.org"}, body: offer, token: true, status: []int{201},
			want: []string{"Access-Control-Allow-Origin: *", "Access-Control-Expose-Headers: ~Location", "Access-Control-Expose-Headers: ~ETag", "Access-Control-Expose-Headers: ~Link"}},
		{name: "get", method: "GET", status: []int{204, 200, 405}, empty: true},
		{name: "head", method: "HEAD", status: []int{204, 200, 405}, empty: true},
		{name: "get of a session", method: "GET", at: session, status: []int{204, 200, 405}, empty: true, after: "lives"},
		{name: "head of a session", method: "HEAD", at: session, status: []int{204, 200, 405}, empty: true, after: "lives"},
		{name: "put", method: "PUT", status: []int{405}, want: []string{"Allow: *"}, problem: "method-not-allowed"},
		{name: "post to a session", method: "POST", at: session, header: []string{sdpType}, body: offer, status: []int{405}, problem: "method-not-allowed", after: "lives"},
	}
}

// Run checks every row, each over a session of its own where it needs one.
func Run(t *testing.T, target Target) {
	for _, r := range rows() {
		t.Run(r.name, func(t *testing.T) { check(t, target, r) })
	}
	if target.Token == "" {
		return
	}
	for _, token := range []string{"", "no-such-token"} {
		r := row{name: "token " + token, method: "POST", header: []string{sdpType}, body: offer, status: []int{401}, want: []string{"WWW-Authenticate: ~Bearer"}, problem: "unauthenticated"}
		if token != "" {
			r.header = append(r.header, "Authorization: Bearer "+token)
			r.status = append(r.status, 403)
			r.want = nil
		}
		t.Run(fmt.Sprintf("token %q", token), func(t *testing.T) { check(t, target, r) })
	}
	t.Run("answer", func(t *testing.T) { checkAnswer(t, target) })
}

// made is a session of the server.
type made struct{ url, etag, answer string }

func create(t *testing.T, target Target) made {
	t.Helper()
	res := ask(t, target, "POST", target.URL, []string{sdpType}, offer, true)
	if res.status != http.StatusCreated {
		t.Fatalf("making a session: %v", res)
	}
	m := made{location(t, target, res), res.header.Get("ETag"), res.body}
	t.Cleanup(func() { ask(t, target, "DELETE", m.url, nil, "", false) })
	return m
}

func location(t *testing.T, target Target, res response) string {
	t.Helper()
	base, err := url.Parse(target.URL)
	if err != nil {
		t.Fatal(err)
	}
	u, err := base.Parse(res.header.Get("Location"))
	if err != nil || res.header.Get("Location") == "" {
		t.Fatalf("Location %q: %v", res.header.Get("Location"), err)
	}
	if u.RawQuery != "" {
		t.Errorf("Location %s has a query, which OBS loses", u)
	}
	return u.String()
}

func check(t *testing.T, target Target, r row) {
	at, etag := target.URL, ""
	if r.at != endpoint {
		m := create(t, target)
		at, etag = m.url, m.etag
		switch r.at {
		case gone:
			ask(t, target, "DELETE", at, nil, "", false)
		case nowhere:
			at += "0"
		}
	}
	header := slices.Clone(r.header)
	for i := range header {
		header[i] = strings.ReplaceAll(header[i], "{etag}", etag)
	}
	res := ask(t, target, r.method, at, header, r.body, r.token)
	if r.at == endpoint && res.status == http.StatusCreated {
		at := location(t, target, res)
		t.Cleanup(func() { ask(t, target, "DELETE", at, nil, "", false) })
	}
	status := r.status
	if target.Ours {
		status = status[:1]
		if r.name == `token no-such-token` {
			status = r.status
		}
	}
	if !slices.Contains(status, res.status) {
		t.Errorf("%v, want one of %d", res, status)
	}
	for _, w := range r.want {
		name, want, _ := strings.Cut(w, ":")
		checkHeader(t, res.header, name, strings.TrimPrefix(want, " "))
	}
	if r.empty && res.body != "" {
		t.Errorf("a body: %s", res.body)
	}
	if target.Ours && r.problem != "" {
		checkProblem(t, res, r.problem)
	}
	switch r.after {
	case "lives":
		// DELETE of a session that lives is 200.
		if res := ask(t, target, "DELETE", at, nil, "", false); res.status != http.StatusOK {
			t.Errorf("afterwards the session is gone: %v", res)
		}
	case "gone":
		if res := ask(t, target, "DELETE", at, nil, "", false); res.status/100 != 4 {
			t.Errorf("afterwards the session is there: %v", res)
		}
	}
}

func checkHeader(t *testing.T, h http.Header, name, want string) {
	t.Helper()
	got := strings.Join(h.Values(name), ", ")
	part, contains := strings.CutPrefix(want, "~")
	switch {
	case want == "*" && got != "":
	case contains && strings.Contains(strings.ToLower(got), strings.ToLower(part)):
	case want == got:
	case want != "" && strings.HasPrefix(got, want+";"): // with a parameter
	default:
		t.Errorf("%s: %q, want %q", name, got, want)
	}
}

func checkProblem(t *testing.T, res response, want string) {
	t.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
	}
	if err := json.Unmarshal([]byte(res.body), &p); err != nil {
		t.Errorf("no problem document: %v", res)
		return
	}
	if ct := res.header.Get("Content-Type"); ct != "application/problem+json" || p.Status != res.status || p.Title == "" {
		t.Errorf("%s: %v", ct, res)
	}
	if want != "*" && p.Type != "urn:headgate:whip:"+want {
		t.Errorf("the type is %s, want %s", p.Type, want)
	}
}

// checkAnswer holds the answer against sections 4.2 and 4.4: one transport for all,
// recvonly, every section taken, all candidates in it.
func checkAnswer(t *testing.T, target Target) {
	m := create(t, target)
	head, rest, _ := strings.Cut(m.answer, "\r\nm=")
	sections := strings.Split(rest, "\r\nm=")
	if want := strings.Count(offer, "\r\nm="); len(sections) != want {
		t.Fatalf("%d sections, want %d", len(sections), want)
	}
	if !strings.HasPrefix(m.answer, "v=0") || !strings.Contains(head, "a=group:BUNDLE ") {
		t.Errorf("the head of the answer is %q", head)
	}
	for i, s := range sections {
		if strings.Fields(s)[1] == "0" {
			t.Errorf("section %d is rejected", i)
		}
		for _, line := range []string{"a=recvonly", "a=rtcp-mux", "a=rtcp-mux-only"} {
			if !strings.Contains(s+"\r\n", line+"\r\n") && (line != "a=rtcp-mux-only" || target.Ours) {
				t.Errorf("section %d has no %s", i, line)
			}
		}
		if strings.Contains(s, "a=setup:actpass") {
			t.Errorf("section %d leaves the DTLS role open", i)
		}
	}
	if !strings.Contains(sections[0], "a=candidate:") {
		t.Error("no candidates")
	}
	const mostFFmpegReads = 8192
	if len(m.answer) >= mostFFmpegReads {
		t.Errorf("%d bytes: FFmpeg reads less than %d", len(m.answer), mostFFmpegReads)
	}
}

// A response is what the server answered, read whole.
type response struct {
	status int
	header http.Header
	body   string
}

func (r response) String() string { return fmt.Sprintf("%d %s", r.status, r.body) }

func ask(t *testing.T, target Target, method, at string, header []string, body string, token bool) response {
	t.Helper()
	req, err := http.NewRequest(method, at, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	if token && target.Token != "" {
		req.Header.Set("Authorization", "Bearer "+target.Token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{res.StatusCode, res.Header, string(b)}
}
