package pluginhost

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestMounts(t *testing.T) {
	t.Setenv("GATEWAY_CANARY", "a-secret-of-the-host")
	s := spec("serve")
	s.Options = []byte(`{"greeting": "hello", "delay": "250ms"}`)
	h := start(t, s, nil)
	mounts := h.Mounts()
	if len(mounts) != 1 || mounts[0].Prefix != "/test/" || mounts[0].Plugin != "test" {
		t.Fatalf("mounts %+v", mounts)
	}
	srv := httptest.NewServer(mounts[0].Handler)
	defer srv.Close()

	res := request(t, http.MethodGet, srv.URL+"/test/hello", nil)
	if res.code != http.StatusServiceUnavailable || res.header.Get("Retry-After") != "1" ||
		res.header.Get("Content-Type") != "application/problem+json" || !strings.Contains(res.body, `"status":503`) {
		t.Errorf("before the start: %+v", res)
	}
	get(t, h.Ready("test")) // the request asked for it

	until(t, "the handler", func() bool {
		return request(t, http.MethodGet, srv.URL+"/test/hello", nil).code == http.StatusOK
	})
	res = request(t, http.MethodGet, srv.URL+"/test/hello", http.Header{"Gateway-Client-Address": {"6.6.6.6:6"}})
	if f := strings.Fields(res.body); len(f) != 4 || f[0] != "hello" || f[1] != "250ms" ||
		!strings.HasPrefix(f[2], "127.0.0.1:") || f[3] != strings.TrimPrefix(srv.URL, "http://") {
		t.Errorf("%+v", res)
	}
	env := request(t, http.MethodGet, srv.URL+"/test/env", nil).body
	if strings.Contains(env, "canary") || strings.Contains(env, "a-secret-of-the-host") || !strings.Contains(env, "PATH=") {
		t.Errorf("the plugin's environment:\n%s", env)
	}
	if got := request(t, http.MethodGet, srv.URL+"/test/stdin", nil).body; got != "0 EOF" {
		t.Errorf("standard input: %s", got)
	}
}

type response struct {
	code   int
	header http.Header
	body   string
}

func request(t *testing.T, method, url string, header http.Header) response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
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
