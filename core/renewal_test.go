package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
)

// A certificate that is renewed reaches the plugin once it stands still, and once only,
// and whatever is wrong with it is told once.
func TestRenewal(t *testing.T) {
	var log strings.Builder
	files, unreadable, refusal := map[string][]byte{}, error(nil), error(nil)
	write := func(cert, key string) { files = map[string][]byte{"cert": []byte(cert), "key": []byte(key)} }
	write("cert 1", "key 1")
	var given []string
	r := &renewal{
		log: slog.New(slog.NewTextHandler(&log, nil)), given: files, seen: files,
		give: func(_ context.Context, files map[string][]byte) error {
			given = append(given, fmt.Sprintf("%s, %s", files["cert"], files["key"]))
			return refusal
		},
	}
	looks := func(n int) {
		for range n {
			r.look(t.Context(), files, unreadable)
		}
	}
	f := func(what, logs string, want ...string) {
		t.Helper()
		if !slices.Equal(given, want) || strings.Count(log.String(), "\n") != strings.Count(log.String(), logs) {
			t.Errorf("%s: given %q, want %q; log, each line with %q:\n%s", what, given, want, logs, log.String())
		}
		given = nil
		log.Reset()
	}
	looks(10)
	f("unchanged", "nothing")
	write("cert 2", "key 1") // one file after the other
	looks(1)
	write("cert 2", "key 2")
	looks(1)
	f("half done", "nothing")
	looks(5)
	f("renewed", "renewed files are in use", "cert 2, key 2")
	unreadable = errors.New("cert: there is no file cert.pem")
	looks(5)
	f("away", "there is no file cert.pem")
	unreadable = nil
	looks(5)
	f("back as it was", "can be read again")
	unreadable = errors.New("cert: there is no file cert.pem")
	looks(1) // between the two steps of who replaces a link
	unreadable = nil
	looks(5)
	f("away for a moment", "nothing")
	refusal = pluginhost.ErrNoProcess
	write("cert 2a", "key 2a")
	looks(3)
	refusal = nil
	looks(5)
	f("while no process runs", "renewed files are in use", "cert 2a, key 2a", "cert 2a, key 2a", "cert 2a, key 2a")
	refusal = pluginhost.ErrNoAnswer
	write("cert 2b", "key 2b")
	looks(9)
	f("dies of it", "renewed files cannot be used", "cert 2b, key 2b", "cert 2b, key 2b", "cert 2b, key 2b")
	refusal = errors.New("no certificate and its key")
	write("cert 3", "no key")
	looks(5)
	f("refused", "renewed files cannot be used", "cert 3, no key")
	write("cert 2", "key 2")
	refusal = nil
	looks(5)
	f("as before", "renewed files are in use", "cert 2, key 2")
	refusal = pluginhost.ErrNotRenewed
	write("cert 4", "key 4")
	looks(5)
	f("of a plugin that reads once", "when the gateway is started again", "cert 4, key 4")
}

// TestRenewals: plugins whose options name files are looked after.
func TestRenewals(t *testing.T) {
	p := &plugins{open: map[*conn]bool{}}
	cfg := &config.Config{Plugins: []config.Plugin{
		{Name: "ingest-webrtc"},
		{Name: "ingest-rtmp", Files: map[string][]byte{"tls.cert": []byte("1")}, FileNames: map[string]string{"tls.cert": "/etc/cert.pem"}},
	}}
	list := renewals(cfg, p, slog.New(slog.DiscardHandler))
	if len(list) != 1 {
		t.Fatalf("%d plugins", len(list))
	}
	if err := list[0].give(t.Context(), map[string][]byte{"tls.cert": []byte("2")}); err != nil {
		t.Error(err)
	}
	if got := strings.Join(p.events, "\n"); got != "renew ingest-rtmp: 2" {
		t.Errorf("got %s", got)
	}
}
