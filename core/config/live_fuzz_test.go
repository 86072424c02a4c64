package config

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzLiveTarget: whatever is sent as a target or as a patch, and under whatever
// name, is taken as one that is sound or refused with a finding; it reads nothing,
// and tells nothing of the target that it changes.
func FuzzLiveTarget(f *testing.F) {
	for _, s := range []string{
		`{"url": "rtmp://h/app", "key": "k"}`, `{"preset": "tube", "key": "k", "mode": "both", "max_lag": "3s"}`,
		`{"preset": "own"}`, `{"url": "rtmps://h/app/k?x=1#y", "backup": "rtmp://u:p@h/app", "backup_key": "z"}`,
		`{"url": "${env:K}", "key": "${file:/etc/passwd}"}`, `{"url": "rtmps://h/a", "key": "k", "ca": "/etc/passwd"}`,
		`{"enabled": false, "key": null}`, `{"interleaving": ["x"], "url": 5}`, `{"url": {"url": {}}}`, `null`, `[]`, `1e999`,
	} {
		f.Add("cdn", []byte(s))
	}
	f.Add("a~backup", []byte(`{"url": "rtmp://h/app", "key": "k"}`))
	cfg, ds := Parse(f.Context(), "gateway.yaml", []byte(studio(`{url: "rtmps://x.example/app", key: "${env:K}", ca: ca.pem}`)), testOptions("K=canary-key"))
	if cfg == nil {
		f.Fatal(ds)
	}
	before := cfg.Routes[0].To[0]
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		check := func(got *Target, ds Diagnostics, was *Target) {
			t.Helper()
			if got == nil {
				if !ds.Failed() {
					t.Error("refused without a finding")
				}
				if strings.Contains(ds.String(), "canary-key") && !strings.Contains(string(body), "canary-key") {
					t.Errorf("a finding tells a secret: %s", ds)
				}
				return
			}
			switch {
			case checkSegment(got.Name) != nil || got.URL.Empty() || got.Plugin == "":
				t.Errorf("taken without a name, a URL or a plugin: %+v", got)
			case got.MaxLag < minMaxLag || got.MaxLag > maxMaxLag:
				t.Errorf("max_lag %v", got.MaxLag)
			case got.Both && got.Backup.Empty():
				t.Error("both, and no backup")
			case strings.Contains(strings.ReplaceAll(got.Key.Reveal(), streamRef, ""), "${"):
				t.Error("a reference is left in the key")
			case len(got.Files) > 0 && was == nil:
				t.Error("it read a file")
			case !got.Restricted && (was == nil || !got.URL.Equal(was.URL)):
				t.Error("it is not restricted")
			}
		}
		got, ds := cfg.Target("studio", name, body, nil)
		check(got, ds, nil)
		definition, err := Patch(before.Definition, body)
		if err != nil {
			return
		}
		if !json.Valid(definition) {
			t.Fatal("the patched definition is no JSON")
		}
		got, ds = cfg.Target("studio", name, definition, &before)
		check(got, ds, &before)
	})
}
