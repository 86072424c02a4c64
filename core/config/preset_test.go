package config

import (
	"strings"
	"testing"

	"github.com/headgate/gateway/sdk/secret"
)

// studio is a configuration with one target.
func studio(target string) string {
	return "routes: {studio: {publish: {token: t}, to: {cdn: " + target + "}}}"
}

func TestPresets(t *testing.T) {
	f := func(target, url, backup, preset, options string, both bool, warnings ...string) {
		t.Helper()
		cfg, ds := parse(t, studio(target), testOptions())
		if cfg == nil {
			t.Fatalf("%s: %s", target, ds)
		}
		got := cfg.Routes[0].To[0]
		if got.URL.Reveal() != url || got.Backup.Reveal() != backup || got.Preset.GetName() != preset || string(got.Options) != options || got.Both != both {
			t.Errorf("%s: url %s, backup %s, preset %s, options %s, both %v", target, got.URL.Reveal(), got.Backup.Reveal(), got.Preset.GetName(), got.Options, got.Both)
		}
		if len(ds) != len(warnings) {
			t.Errorf("%s: %s, want %d warnings", target, ds, len(warnings))
		}
		for i, w := range warnings {
			if i < len(ds) && !strings.Contains(ds[i].Finding+" "+ds[i].Remedy, w) {
				t.Errorf("%s: %s, want %q", target, ds[i].Finding, w)
			}
		}
	}
	const a, b, strict = "rtmps://a.tube.example/live", "rtmps://b.tube.example/live?backup=1", `{"interleaving":"strict"}`
	f(`{preset: tube, key: k}`, a, b, "tube", strict, false)
	f(`{preset: tube, key: k, mode: both}`, a, b, "tube", strict, true)
	f(`{preset: tube, key: k, backup: none}`, a, "", "tube", strict, false)
	f(`{preset: tube, key: k, interleaving: low}`, a, b, "tube", `{"interleaving":"low"}`, false)
	f(`{preset: tube, url: "rtmps://c.tube.example/live", key: k}`, "rtmps://c.tube.example/live", "", "tube", strict, false)
	// By its host, also where it is one that only ends alike.
	f(`{url: "rtmps://a.tube.example/live", key: k}`, a, b, "tube", strict, false)
	f(`{url: "rtmps://TUBE.example:443/live", key: k}`, "rtmps://TUBE.example:443/live", "", "tube", strict, false)
	f(`{url: "rtmps://nottube.example/live", key: k}`, "rtmps://nottube.example/live", "", "", "", false)
	f(`{url: "rtmps://a.tube.example/live", key: k, preset: none}`, a, "", "", "", false)
	// Where the key is in the URL it is not known for the backup.
	f(`{url: "rtmps://a.tube.example/live/k"}`, "rtmps://a.tube.example/live/k", "", "tube", strict, false)
	f(`{url: "rtmp://a.tube.example/live", key: k}`, "rtmp://a.tube.example/live", "", "tube", strict, false, "Tube wants rtmps")
	f(`{preset: own, url: "rtmp://x.example/app", key: k}`, "rtmp://x.example/app", "", "own", "", false, "could not be verified")
	f(`{url: "rtmp://x.example/app", key: k, backup: "rtmp://y.example/app", mode: both}`, "rtmp://x.example/app", "rtmp://y.example/app", "", "", true)
	f(`{url: "rtmp://x.example/app", key: k, backup: "rtmp://x.example/app"}`, "rtmp://x.example/app", "rtmp://x.example/app", "", "", false, "the backup is the target itself")
}

func TestPresetFaults(t *testing.T) {
	f := func(target, at, want string) {
		t.Helper()
		cfg, ds := parse(t, studio(target), testOptions())
		if cfg != nil {
			t.Fatalf("%s is taken", target)
		}
		for _, d := range ds {
			if d.Path == "routes.studio.to.cdn"+at && strings.Contains(d.Finding+", "+d.Remedy, want) {
				return
			}
		}
		t.Errorf("%s: %s, want %q at %s", target, ds, want, at)
	}
	f(`{preset: tub, key: k}`, ".preset", `did you mean "tube"?`)
	f(`{preset: nonsense, key: k}`, ".preset", "known are none, own, tube")
	f(`{preset: own, key: k}`, "", "no URL of its own, add url; Its dashboard shows the URL.")
	f(`{key: k}`, "", "or a preset such as youtube")
	f(`{preset: none, key: k}`, "", `the key "url" is missing`)
	f(`{url: "rtmp://x/app", key: k, mode: both}`, ".mode", "no backup")
	f(`{url: "rtmp://x/app", key: k, mode: all}`, ".mode", "not one of the values")
	f(`{url: "rtmp://x/app", key: k, backup_key: k}`, ".backup_key", "no backup that this could be the key of")
	f(`{url: "rtmp://x/app", key: k, backup: "rtpm://x/app"}`, ".backup", "did you mean rtmp://?")
	f(`{url: "rtmp://x/app", key: k, backup: "rtmp://y/app", backup_key: ""}`, ".backup_key", "empty")
}

func TestBackupKey(t *testing.T) {
	cfg := mustParse(t, studio(`{url: "rtmp://x/app", key: "a-${stream}", backup: "rtmp://y/app", backup_key: "b-${stream}"}`), testOptions())
	got := cfg.Routes[0].To[0]
	if got.KeyFor("s").Reveal() != "a-s" || got.BackupKeyFor("s").Reveal() != "b-s" {
		t.Error("the keys are not told apart")
	}
	cfg = mustParse(t, studio(`{url: "rtmp://x/app", key: "a", backup: "rtmp://y/app"}`), testOptions())
	if k := cfg.Routes[0].To[0].BackupKeyFor("s"); k.Reveal() != "a" {
		t.Error("the key is not that of the backup")
	}
}

// TestLiveTarget: a target by API has the checks of one in a file, and may not
// make the gateway read anything.
func TestLiveTarget(t *testing.T) {
	cfg := mustParse(t, studio(`{url: "rtmps://x.example/app", key: "${env:K}", ca: ca.pem}`), testOptions("K=canary", "OTHER=canary2"))
	before := cfg.Routes[0].To[0]
	good := func(definition string, before *Target, restricted bool) *Target {
		t.Helper()
		got, ds := cfg.Target("studio", "new", []byte(definition), before)
		if got == nil {
			t.Fatalf("%s: %s", definition, ds)
		}
		if got.Restricted != restricted {
			t.Errorf("%s: restricted %v", definition, got.Restricted)
		}
		return got
	}
	bad := func(definition, at, want string) {
		t.Helper()
		got, ds := cfg.Target("studio", "new", []byte(definition), nil)
		if got != nil {
			t.Errorf("%s is taken", definition)
		}
		if len(ds) == 0 || ds[0].Path != at || !strings.Contains(ds[0].Finding+", "+ds[0].Remedy, want) || ds[0].File != "" {
			t.Errorf("%s: %q %s, want %q at %q", definition, ds[0].Path, ds, want, at)
		}
		if strings.Contains(ds.String(), "canary") {
			t.Errorf("%s: %s tells a secret", definition, ds)
		}
	}
	got := good(`{"preset": "tube", "key": "k", "max_lag": "3s", "enabled": false}`, nil, true)
	if got.MaxLag.String() != "3s" || got.Enabled || got.URL.Reveal() != "rtmps://a.tube.example/live" || got.Name != "new" {
		t.Errorf("%+v", got)
	}
	good(`{"url": "rtmp://x.example/app", "key": "k-${stream}"}`, nil, true)
	bad(`{"url": "rtmp://x.example/app", "key": "${env:OTHER}"}`, "key", "references are for files")
	bad(`{"url": "rtmp://x.example/app", "key": "${file:/etc/passwd}"}`, "key", "references are for files")
	bad(`{"url": "rtmps://x.example/app", "key": "k", "ca": "/etc/passwd"}`, "ca", "named in the configuration only")
	bad(`{"url": "rtmp://x.example/app", "kee": "k"}`, "kee", `did you mean "key"?`)
	bad(`{"url": 5}`, "url", "write a text")
	bad(`{"url": "rtmp://x.example/app", "key": "k", "max_lag": "5h"}`, "max_lag", "too long")
	bad(`{}`, "", `the key "url" is missing`)
	for _, s := range []string{``, `null`, `[]`, `"x"`, `{"url": "rtmp://x/app", "key": "k"} {}`, `{`} {
		bad(s, "", "not an object of JSON")
	}

	// What the file said is kept, and stays trusted as long as it leads there.
	patch := func(p string) string {
		t.Helper()
		d, err := Patch(before.Definition, []byte(p))
		if err != nil {
			t.Fatal(err)
		}
		return string(d)
	}
	got = good(patch(`{"enabled": false}`), &before, false)
	if got.Key.Reveal() != "canary" || string(got.Files["ca"]) != "PEM" {
		t.Error("the key or the file is lost")
	}
	got = good(patch(`{"key": "other"}`), &before, false)
	if got.Key.Reveal() != "other" {
		t.Error("the key did not change")
	}
	got = good(patch(`{"url": "rtmps://y.example/app"}`), &before, true)
	good(patch(`{"max_lag": "4s"}`), got, true) // once restricted, always
	good(patch(`{"ca": null}`), &before, true)
	for _, s := range []string{`5`, `null`, `[]`, `{`, `{} {}`} {
		if _, err := Patch(before.Definition, []byte(s)); err == nil {
			t.Errorf("the patch %s is taken", s)
		}
	}
	if d, err := Patch(secret.New(`{"a": {"b": 1, "c": 2}, "d": 3}`), []byte(`{"a": {"b": null, "e": {"f": null}}, "d": [1]}`)); err != nil || string(d) != `{"a":{"c":2,"e":{}},"d":[1]}` {
		t.Errorf("%s %v", d, err)
	}
	if s := before.Definition.String(); strings.Contains(s, "canary") {
		t.Error("the definition is no secret")
	}
}

// TestShorthand: PRESET:KEY on the command line.
func TestShorthand(t *testing.T) {
	f := func(text string, literal bool, name, url, key string) {
		t.Helper()
		cfg, ds := ForRun(t.Context(), Run{Stream: "live", Token: secret.New("t"), Targets: []RunTarget{{URL: text, Literal: literal}}}, testOptions("K=canary"))
		if cfg == nil {
			t.Fatalf("%s: %s", text, ds)
		}
		got := cfg.Routes[0].To[0]
		if got.Name != name || got.URL.Reveal() != url || got.Key.Reveal() != key {
			t.Errorf("%s: %s %s %s", text, got.Name, got.URL.Reveal(), got.Key.Reveal())
		}
	}
	const a = "rtmps://a.tube.example/live"
	f("tube:key", false, "tube", a, "key")
	f("tube:${env:K}", false, "tube", a, "canary")
	f("tube:${env:K}", true, "tube", a, "${env:K}")
	f("tube:a:b", false, "tube", a, "a:b")
	f("rtmp://h/app/k", false, "target1", "rtmp://h/app/k", "")
	for text, want := range map[string]string{"tube:": "the key is empty", "own:k": "no URL of its own", "tub:k": "no plugin serves its scheme, did you mean the preset tube? Served are rtmp, rtmps"} {
		cfg, ds := ForRun(t.Context(), Run{Stream: "live", Token: secret.New("t"), Targets: []RunTarget{{URL: text}}}, testOptions())
		if cfg != nil || !strings.Contains(ds.String(), want) || strings.Count(ds.String(), "\n") != 1 {
			t.Errorf("%s: %s, want %q", text, ds, want)
		}
	}
}
