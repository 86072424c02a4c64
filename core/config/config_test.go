package config

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

var rewrite = flag.Bool("rewrite", false, "write what is found into the golden files")

// testCatalog stands for the built-in plugins.
func testCatalog() Catalog {
	return Catalog{
		"egress-rtmp": {Name: "egress-rtmp", Shardable: true, Egress: &wire.EgressInfo{Schemes: []string{"rtmp", "rtmps"}, TargetSchema: []byte(`{
			"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "#/$defs/Options",
			"$defs": {"Options": {"type": "object", "additionalProperties": false, "properties": {
				"ca": {"type": "string", "format": "file"},
				"interleaving": {"type": "string", "enum": ["low", "strict"]}}}}}`),
			Presets: []*wire.Preset{
				{Name: "tube", Title: "Tube", Url: "rtmps://a.tube.example/live", BackupUrl: "rtmps://b.tube.example/live?backup=1",
					Hosts: []string{"tube.example"}, Schemes: []string{"rtmps"}, OptionsJson: []byte(`{"interleaving": "strict"}`)},
				{Name: "own", Title: "Own", Note: "Its dashboard shows the URL.", Unverified: true},
			}}},
		"ingest-webrtc": {Name: "ingest-webrtc", Ingest: &wire.IngestInfo{}, Mounts: []string{"/whip/", "/publish/"}, OptionsSchema: []byte(`{
			"type": "object", "additionalProperties": false, "properties": {
				"udp": {"type": "string"}, "turn_key": {"type": "string", "writeOnly": true},
				"max_sessions": {"type": "integer", "minimum": 1}, "idle": {"type": "string", "format": "duration"},
				"tls": {"type": "object", "properties": {"roots": {"type": "array", "items": {"type": "string", "format": "file"}}}}}}`)},
		"ingest-clip": {Name: "ingest-clip", Ingest: &wire.IngestInfo{Schemes: []string{"clip"}}},
	}
}

// testOptions read nothing of the machine.
func testOptions(env ...string) Options {
	return Options{
		Catalog: testCatalog(),
		Environ: append([]string{}, env...),
		ReadFile: func(name string) ([]byte, error) {
			switch filepath.ToSlash(name) {
			case "/secrets/key", "secrets/key":
				return []byte("canary-from-file\n"), nil
			case "ca.pem", "/ca.pem":
				return []byte("PEM"), nil
			}
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		},
		isDir: func(name string) (bool, error) {
			switch filepath.Base(name) {
			case "recordings":
				return true, nil
			case "gateway.yaml":
				return false, nil
			}
			return false, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
		},
		hash: func(name string) (string, error) {
			if strings.Contains(name, "plugin") || strings.Contains(name, "egress-file") {
				return strings.Repeat("ab", 32), nil
			}
			return "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		},
		Describe: func(_ context.Context, p Plugin) (*wire.DescribeResponse, error) {
			return &wire.DescribeResponse{Name: p.Name, Egress: &wire.EgressInfo{Schemes: []string{"file"}}}, nil
		},
	}
}

func parse(t *testing.T, text string, o Options) (*Config, Diagnostics) {
	t.Helper()
	return Parse(t.Context(), "gateway.yaml", []byte(text), o)
}

func mustParse(t *testing.T, text string, o Options) *Config {
	t.Helper()
	cfg, ds := parse(t, text, o)
	if cfg == nil {
		t.Fatalf("refused:\n%s", ds)
	}
	return cfg
}

// TestEveryFaultAtOnce is the list of faults in one file: what is found stands in
// testdata/faults.txt, and nothing of a secret's value is in it.
func TestEveryFaultAtOnce(t *testing.T) {
	text, err := os.ReadFile("testdata/faults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, ds := parse(t, string(text), testOptions("WRONG=canary-resolved", "YT_KEY=canary-yt", "GATEWAY_LISTN=:1", "GATEWAY_SERVICE_HOST=10.0.0.1",
		"GATEWAY_ROUTES__STUDO__HOLD=1s", "GATEWAY_ADMIN_TOKEN="))
	if cfg != nil {
		t.Error("a configuration came out of it")
	}
	got := ds.String()
	if strings.Contains(got, "canary") {
		t.Error("a secret is shown")
	}
	if *rewrite {
		if err := os.WriteFile("testdata/faults.txt", []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/faults.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("found:\n%s\nwant (go test -rewrite writes it):\n%s", got, want)
	}
}

const contract = `
listen: 127.0.0.1:8080
admin: 127.0.0.1:8081
plugins:
  ingest-webrtc: {options: {udp: "127.0.0.1:8189"}}
routes:
  studio:
    publish: {token: "${env:STUDIO_TOKEN}"}
    to:
      youtube: {url: "rtmps://a.rtmps.youtube.com/live2", key: "${env:YT_KEY}"}
      backup:  {url: "rtmp://127.0.0.1:1935/live/studio", max_lag: 3s, enabled: true}
`

func TestContract(t *testing.T) {
	cfg, ds := parse(t, contract, testOptions("STUDIO_TOKEN=tok", "YT_KEY=abcd"))
	if len(ds) > 0 {
		t.Fatalf("found:\n%s", ds)
	}
	r := cfg.Routes[0]
	yt, backup := r.To[0], r.To[1]
	if r.Name != "studio" || r.Hold != DefaultHold || r.Publish.Token.Reveal() != "tok" || cfg.Listen != DefaultListen || cfg.Admin != DefaultAdmin {
		t.Errorf("route %+v", r)
	}
	if yt.Name != "youtube" || yt.Plugin != "egress-rtmp" || yt.Key.Reveal() != "abcd" || yt.MaxLag != DefaultMaxLag || !yt.Enabled || yt.Options != nil {
		t.Errorf("target %+v", yt)
	}
	if backup.MaxLag != 3*time.Second || !backup.Key.Empty() || backup.URL.Reveal() != "rtmp://127.0.0.1:1935/live/studio" {
		t.Errorf("target %+v", backup)
	}
	if string(cfg.Plugins[0].Options) != `{"udp":"127.0.0.1:8189"}` {
		t.Errorf("options %s", cfg.Plugins[0].Options)
	}
}

// one parses a configuration with one target and returns what is found.
func one(t *testing.T, rest string, env ...string) string {
	t.Helper()
	_, ds := parse(t, "routes:\n  studio:\n    publish: {open: true}\n    to: {yt: {url: \"rtmp://h/a/k\"}}\n"+rest, testOptions(env...))
	return strings.TrimSpace(ds.String())
}

func TestFindings(t *testing.T) {
	found := func(rest, want string, env ...string) {
		t.Helper()
		if got := one(t, rest, env...); got != want {
			t.Errorf("%s\n got %s\nwant %s", rest, got, want)
		}
	}
	found("", "")
	found("listen: 8080\n", `gateway.yaml:5:9: listen: "8080" is not an address, write host:port, for example 127.0.0.1:8080, or :8080 for every address of this machine`)
	found("listen: 127.0.0.1:70000\n", `gateway.yaml:5:9: listen: "127.0.0.1:70000" has no valid port, write a port from 1 to 65535`)
	found("admin: \":8081\"\n", `gateway.yaml:5:8: admin: ":8081" can be reached from other machines without a token, add admin_token: "${env:NAME}", or listen on 127.0.0.1`)
	found("admin: \":8081\"\nadmin_token: t\n", "")
	found("admin: 127.0.0.1:8080\n", "gateway.yaml:5:8: admin: listen and admin are the same address, give admin a port of its own")
	found("plugins:\n", "")
	found("plugins: {ingest-clip: {options: {x: 1}}}\n", `gateway.yaml:5:35: plugins.ingest-clip.options.x: unknown key "x", ingest-clip has no options`)
	found("plugins: {ingest-webrtc: {options: {max_sessions: 0}}}\n", "gateway.yaml:5:51: plugins.ingest-webrtc.options.max_sessions: too small, write at least 1")
	found("plugins: {ingest-webrtc: {options: {max_sessions: \"${env:N}\"}}}\n", "", "N=4")
	found("plugins: {ingest-webrtc: {options: {idle: 3x}}}\n", `gateway.yaml:5:43: plugins.ingest-webrtc.options.idle: "3x" is not a duration, write a number and its unit, for example 500ms, 3s or 1m30s`)
	found("plugins: {mine: {path: plugin, sha256: \""+strings.Repeat("ab", 32)+"\"}}\n", "")
	found("plugins: {mine: {path: plugin, insecure_unpinned: true}}\n", "")
	found("", `GATEWAY_LISTEN: listen: "x" is not an address, write host:port, for example 127.0.0.1:8080, or :8080 for every address of this machine`, "GATEWAY_LISTEN=x")
	found("", `GATEWAY_ROUTES: routes: the variable names a mapping of keys, name one key below it, after two underscores`, "GATEWAY_ROUTES=x")
	found("  b: {publish: canary, to: {x: 'rtmp://h/a/k'}}\n  c: {publish: {open: true}, to: ['rtmp://h/a/k']}\n  d: {from: 'clip:', to: {x: {url: 'rtmp://h/a/k', key: own}}}\n",
		`gateway.yaml:5:16: routes.b.publish: found a text, write publish: {token: "${env:NAME}"}
gateway.yaml:5:32: routes.b.to.x: found a text, write x: {url: "rtmp://HOST/APP/KEY"}
gateway.yaml:6:30: routes.c.to: found a list, give each target a name: to: {backup: {url: "rtmp://HOST/APP/KEY"}}
gateway.yaml:7:13: routes.d.from: found a text, write from: {url: "clip:"}`)
	for _, u := range []string{"rtmp://h:99999/a/z", "rtmp://h:0/a/z", "rtmp://h:x/a/z", "rtmp://u:p@[::1]:-1/a"} {
		found("  b: {publish: {open: true}, to: {x: {url: '"+u+"'}}}\n", "gateway.yaml:5:44: routes.b.to.x.url: the URL has no valid port, write a port from 1 to 65535, or none")
	}
	for _, u := range []string{"rtmp://u:p@h:1935/a:b/z", "rtmp://[::1]/a/z", "rtmp://h:/a/z#x:y", "rtmp://[fe80::1]:65535/a/z"} {
		found("  b: {publish: {open: true}, to: {x: {url: '"+u+"'}}}\n", "")
	}
	found("  b: {from: {url: clip}, to: {x: {url: 'rtmp://h/b/k'}}}\n", "gateway.yaml:5:19: routes.b.from.url: the colon after the scheme is missing, write clip:")
	found("  b: {publish: {token: $TOKEN}, to: {x: {url: 'rtmp://h/a', key: $5-x}, y: {url: 'rtmp://h/a', key: $KEY}}}\n",
		`gateway.yaml:5:17: warning: routes.b.publish.token: a name behind a $ is taken as it stands, write ${env:NAME} if a variable of the environment is meant
gateway.yaml:5:96: warning: routes.b.to.y.key: a name behind a $ is taken as it stands, write ${env:NAME} if a variable of the environment is meant`)
	found("tls: &a {cert: *a, key: k}\n", "gateway.yaml:5:16: tls.cert: no anchor &a stands before this alias, define it above, or write the value out")
}

// TestDocuments: what is no configuration at all.
func TestDocuments(t *testing.T) {
	found := func(text, want string) {
		t.Helper()
		cfg, ds := parse(t, text, testOptions())
		if got := strings.TrimSpace(ds.String()); cfg != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%q\n got %s\nwant %s", text, got, want)
		}
	}
	found("", "gateway.yaml:1:1: the file is empty")
	found("# nothing\n", "gateway.yaml:1:1: the file is empty")
	found("- a\n", "gateway.yaml:1:1: the file is not a mapping")
	found("listen: x: y\n", "gateway.yaml:1:")
	found("\ta: b\n", "gateway.yaml:1:1: a tab indents this line, indent with spaces only, as YAML demands")
	found("routes:\n  a:\n\t# a comment\n\t\n  \tto: {x: {url: 'rtmp://h/a/k'}}\n", "gateway.yaml:5:1: a tab indents this line")
	found("listen: \"127.0.0.1:1\n", "gateway.yaml:1:9: not valid YAML")
	found("listen: 127.0.0.1:1\n", "gateway.yaml:1:1: routes: there is no route")
	found("routes: {a: {to: {x: {url: 'rtmp://h/a/b'}}}}\n---\nroutes: {}\n", "gateway.yaml:1:10: warning: routes.a: anyone on this machine may publish")
}

// TestLayers: file over defaults, environment over file, flags over environment.
func TestLayers(t *testing.T) {
	text := "listen: 127.0.0.1:1\nroutes:\n  my.Stream/x-y: {publish: {open: true}, hold: 1s, to: {a-b: {url: 'rtmp://h/a/k'}}}\n"
	o := testOptions("GATEWAY_LISTEN=127.0.0.1:2", "GATEWAY_ADMIN=127.0.0.1:3", "GATEWAY_ROUTES__MY_STREAM_X_Y__HOLD=2s",
		"GATEWAY_ROUTES__MY_STREAM_X_Y__TO__A_B__ENABLED=false", "GATEWAY_ROUTES__MY_STREAM_X_Y__TO__A_B__KEY=${file:/secrets/key}",
		"GATEWAY_PLUGINS__INGEST_WEBRTC__OPTIONS__UDP=127.0.0.1:9", "GATEWAY_LOG_LEVEL=debug")
	o.Overrides = []Override{{Flag: "--listen", Key: "listen", Value: "127.0.0.1:4"}}
	cfg, ds := parse(t, text, o)
	if len(ds) > 0 {
		t.Fatalf("found:\n%s", ds)
	}
	if len(cfg.Routes) != 1 || cfg.Listen != "127.0.0.1:4" || cfg.Admin != "127.0.0.1:3" {
		t.Errorf("%+v", cfg)
	}
	r := cfg.Routes[0]
	if r.Name != "my.Stream/x-y" || r.Hold != 2*time.Second || r.To[0].Enabled || r.To[0].Key.Reveal() != "canary-from-file" {
		t.Errorf("%+v", r)
	}
	if string(cfg.Plugins[0].Options) != `{"udp":"127.0.0.1:9"}` {
		t.Errorf("%s", cfg.Plugins[0].Options)
	}
}

// TestScalarsAndReferences: what people write without quotes, references with
// defaults, aliases and merge keys.
func TestScalarsAndReferences(t *testing.T) {
	cfg := mustParse(t, `
routes:
  1234:
    publish: {token: 0123}
    to:
      a: &a {url: 'rtmp://h/a', key: 007, max_lag: 5s}
      b: {<<: *a, url: "rtmp://${env:HOST:-fallback}/b", enabled: "${env:ON}"}
      c: {<<: *a, url: "rtmp://h/c", key: "$${x}-$5-${file:secrets/key}"}
`, testOptions("ON=false"))
	r := cfg.Routes[0]
	a, b, c := r.To[0], r.To[1], r.To[2]
	if r.Name != "1234" || r.Publish.Token.Reveal() != "0123" || a.Key.Reveal() != "007" {
		t.Errorf("%s %s %s", r.Name, r.Publish.Token.Reveal(), a.Key.Reveal())
	}
	if b.Key.Reveal() != "007" || b.URL.Reveal() != "rtmp://fallback/b" || b.Enabled || b.MaxLag != 5*time.Second {
		t.Errorf("%+v %s", b, b.URL.Reveal())
	}
	if c.Key.Reveal() != "${x}-$5-canary-from-file" {
		t.Errorf("%s", c.Key.Reveal())
	}
}

// TestFiles: files that options name are read, wherever they stand.
func TestFiles(t *testing.T) {
	cfg := mustParse(t, `
plugins: {ingest-webrtc: {options: {tls: {roots: [ca.pem]}}}}
routes:
  a: {publish: {open: true}, to: {x: {url: 'rtmps://h/a/k', ca: ca.pem, interleaving: low}}}
`, testOptions())
	x := cfg.Routes[0].To[0]
	if string(x.Files["ca"]) != "PEM" || string(x.Options) != `{"ca":"ca.pem","interleaving":"low"}` {
		t.Errorf("%s %s", x.Options, x.Files)
	}
	if p := cfg.Plugins[0]; string(p.Files["tls.roots.0"]) != "PEM" {
		t.Errorf("%s", p.Files)
	}
}

func TestThirdParty(t *testing.T) {
	text := "plugins: {mine: {path: plugin, insecure_unpinned: true}}\nroutes: {a: {publish: {open: true}, to: {x: {url: 'file:///x'}, y: {url: 'RTMP://h/a/k'}}}}\n"
	cfg := mustParse(t, text, testOptions())
	if to := cfg.Routes[0].To; to[0].Plugin != "mine" || to[1].Plugin != "egress-rtmp" || cfg.Catalog["mine"] == nil || cfg.Catalog["egress-rtmp"] == nil {
		t.Errorf("%+v", to)
	}
	// A configured plugin goes before a built-in one of the same scheme.
	o := testOptions()
	o.Describe = func(context.Context, Plugin) (*wire.DescribeResponse, error) {
		return &wire.DescribeResponse{Egress: &wire.EgressInfo{Schemes: []string{"rtmp", "file"}}}, nil
	}
	if to := mustParse(t, text, o).Routes[0].To; to[1].Plugin != "mine" {
		t.Errorf("%+v", to)
	}
}

func TestKeyFor(t *testing.T) {
	cfg := mustParse(t, "routes: {'live/*': {publish: {open: true}, to: {x: {url: 'rtmp://h/a', key: 'p-${stream}?s=${env:S}'}}}}\n", testOptions("S=1"))
	if got := cfg.Routes[0].To[0].KeyFor("live/eve").Reveal(); got != "p-live/eve?s=1" {
		t.Error(got)
	}
}

func TestRoute(t *testing.T) {
	cfg := &Config{Routes: []Route{{Name: "*"}, {Name: "a/*"}, {Name: "*/b"}, {Name: "a/b"}, {Name: "a/*/c"}, {Name: "a/b/*"}, {Name: "*/*/*"}}}
	f := func(stream, want string) {
		t.Helper()
		got := ""
		if r := cfg.Route(stream); r != nil {
			got = r.Name
		}
		if got != want {
			t.Errorf("%s goes to %q, want %q", stream, got, want)
		}
	}
	f("x", "*")
	f("a/b", "a/b")
	f("a/x", "a/*")
	f("x/b", "*/b")
	f("x/y", "")
	f("a/b/c", "a/b/*")
	f("a/x/c", "a/*/c")
	f("x/y/z", "*/*/*")
	f("", "")
	f("*", "")
	f("..", "")
	f("a//b", "")
}

func TestForRun(t *testing.T) {
	o := testOptions("YT=canary-yt")
	cfg, ds := ForRun(t.Context(), Run{Stream: "live", Token: secret.New("t${env:X}"), Targets: []RunTarget{
		{URL: "rtmps://a.rtmps.youtube.com/live2/${env:YT}"},
		{URL: "rtmps://b.rtmps.youtube.com/live2/k"},
		{URL: "rtmp://127.0.0.1/live/${x}", Literal: true},
		{URL: "rtmp://u:p@localhost/live/y"},
		{Name: "own", URL: "rtmp://127.0.0.1/live/z"},
	}}, o)
	if len(ds) > 0 {
		t.Fatalf("found:\n%s", ds)
	}
	var names []string
	for _, to := range cfg.Routes[0].To {
		names = append(names, to.Name)
	}
	if got := strings.Join(names, " "); got != "youtube youtube-2 target3 target4 own" {
		t.Error(got)
	}
	if to := cfg.Routes[0].To; to[0].URL.Reveal() != "rtmps://a.rtmps.youtube.com/live2/canary-yt" || to[2].URL.Reveal() != "rtmp://127.0.0.1/live/${x}" {
		t.Error(to[0].URL.Reveal(), to[2].URL.Reveal())
	}
	if cfg.Routes[0].Publish.Token.Reveal() != "t${env:X}" {
		t.Error(cfg.Routes[0].Publish.Token.Reveal())
	}
	cfg, ds = ForRun(t.Context(), Run{Stream: "live", Token: secret.New("t"), Targets: []RunTarget{{URL: "udp://h/canary"}, {URL: "${env:NONE}"}}}, o)
	want := `--to: routes.live.to.target1.url: no plugin serves udp://, served are rtmp, rtmps
--to: routes.live.to.target2.url: the environment variable NONE is not set, set it, or give a default: ${env:NONE:-value}
`
	if got := ds.String(); cfg != nil || got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestSchema: the schema for editors knows the plugins' options.
func TestSchema(t *testing.T) {
	b, err := Schema(testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(b) {
		t.Fatal("not JSON")
	}
	s, err := compileSchema("all", b)
	if err != nil {
		t.Fatal(err)
	}
	check := func(text string, want int) {
		t.Helper()
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if got := s.check(v); len(got) != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
	check(`{"routes": {"a": {"to": {"x": {"url": "rtmp://h", "ca": "x", "interleaving": "low"}}}}}`, 0)
	check(`{"routes": {"a": {"to": {"x": {"url": "rtmp://h", "cca": "x", "interleaving": "lo"}}}}}`, 2)
	check(`{"plugins": {"ingest-webrtc": {"options": {"upd": 1}}}}`, 1)
}

func TestDiagnosticsJSON(t *testing.T) {
	b, err := json.Marshal(Diagnostics(nil))
	if err != nil || string(b) != "[]" {
		t.Errorf("%s %v", b, err)
	}
	b, err = json.Marshal(Diagnostics{{File: "f", Line: 1, Col: 2, Path: "p", Finding: "x", Remedy: "y", Warning: true}})
	if err != nil || string(b) != `[{"file":"f","line":1,"col":2,"path":"p","finding":"x","remedy":"y","warning":true}]` {
		t.Errorf("%s %v", b, err)
	}
}

// TestReadFiles: files that the options of a plugin name can be read again.
func TestReadFiles(t *testing.T) {
	content, gone := "PEM", false
	o := testOptions()
	o.ReadFile = func(name string) ([]byte, error) {
		if filepath.ToSlash(name) != "ca.pem" || gone {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return []byte(content), nil
	}
	cfg := mustParse(t, `
plugins: {ingest-webrtc: {options: {tls: {roots: [ca.pem]}}}}
routes: {a: {to: {x: {url: "rtmp://h/a/b"}}}}
`, o)
	p := &cfg.Plugins[0]
	if len(p.FileNames) != 1 || filepath.ToSlash(p.FileNames["tls.roots.0"]) != "ca.pem" || string(p.Files["tls.roots.0"]) != "PEM" {
		t.Errorf("%v, %v", p.FileNames, p.Files)
	}
	content = "another"
	if files, err := cfg.ReadFiles(p); err != nil || len(files) != 1 || string(files["tls.roots.0"]) != "another" {
		t.Errorf("%q, %v", files, err)
	}
	gone = true
	if _, err := cfg.ReadFiles(p); err == nil || !strings.Contains(err.Error(), "tls.roots.0: there is no file ca.pem; create it") {
		t.Errorf("error %v", err)
	}
}

// FuzzParse: whatever the text, a configuration or an error with a place, and a
// configuration that came out comes out again.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"testdata/faults.yaml"} {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add(contract)
	f.Add("")
	f.Add("a: &a [*a, *a]\n")
	f.Add("routes: {a: &a {to: {x: {<<: [*a], url: !!str rtmp://h}}}}\n")
	f.Add("routes:\n  ? [x]\n  : {}\n")
	f.Add("routes: {a: {to: {x: {url: \"rtmp://${env:X:-h}/${stream}\", key: |\n  k\n}}}}")
	f.Fuzz(func(t *testing.T, text string) {
		o := testOptions("STUDIO_TOKEN=t", "YT_KEY=k")
		cfg, ds := Parse(t.Context(), "f.yaml", []byte(text), o)
		if (cfg == nil) != ds.Failed() {
			t.Fatalf("configuration %v beside\n%s", cfg != nil, ds)
		}
		for _, d := range ds {
			if d.Finding == "" || d.File == "" || d.File == "f.yaml" && (d.Line < 1 || d.Col < 1) {
				t.Errorf("%+v", d)
			}
		}
		if again, _ := Parse(t.Context(), "f.yaml", []byte(text), o); (again == nil) != (cfg == nil) {
			t.Error("the second reading differs")
		}
	})
}

// A plugin that claims what another one serves is not used, and the finding names both.
func TestClaimsOfAnother(t *testing.T) {
	f := func(info *wire.DescribeResponse, want string) {
		t.Helper()
		o := testOptions()
		o.Describe = func(_ context.Context, p Plugin) (*wire.DescribeResponse, error) {
			if p.Name == "first" {
				return &wire.DescribeResponse{Egress: &wire.EgressInfo{Schemes: []string{"file"}}}, nil
			}
			return info, nil
		}
		cfg, ds := parse(t, `
plugins:
  first: {path: /plugin, insecure_unpinned: true}
  greedy: {path: /plugin, insecure_unpinned: true}
routes: {studio: {publish: {open: true}, to: {cdn: {url: "rtmp://host/app"}}}}
`, o)
		if cfg != nil || !strings.Contains(ds.String(), "gateway.yaml:4:3: plugins.greedy: "+want) {
			t.Errorf("found:\n%s\nwant %s", ds, want)
		}
	}
	f(&wire.DescribeResponse{Mounts: []string{"/whip/"}}, "it serves /whip/, and ingest-webrtc serves /whip/, use one of the two")
	f(&wire.DescribeResponse{Mounts: []string{"/mine/", "/whip/studio/"}}, "it serves /whip/studio/, and ingest-webrtc serves /whip/, use one of the two")
	for _, m := range []string{"", "/", "mine", "mine/", "/mine", "/mine//", "/../whip/", "//whip/"} {
		f(&wire.DescribeResponse{Mounts: []string{m}}, fmt.Sprintf("it serves %q by HTTP, which is not of the form /NAME/, this is a fault of the plugin", m))
	}
	f(&wire.DescribeResponse{Egress: &wire.EgressInfo{Schemes: []string{"file"}}}, "it serves file:// URLs, as first does, use one of the two")
}

// A file that is not the one that was pinned does not run, and one that was never
// pinned only if that is said.
func TestPins(t *testing.T) {
	f := func(lines, want string) {
		t.Helper()
		_, ds := parse(t, "plugins:\n  mine:\n    path: plugin\n"+lines+"routes: {studio: {publish: {open: true}, to: {cdn: {url: 'rtmp://host/app'}}}}\n", testOptions())
		if got := strings.TrimSpace(ds.String()); got != want {
			t.Errorf("%q found:\n%s\nwant\n%s", lines, got, want)
		}
	}
	pinned := strings.Repeat("ab", 32)
	f("    sha256: "+pinned+"\n", "")
	f("    sha256: "+strings.ToUpper(pinned)+"\n", "")
	f("    insecure_unpinned: true\n", "")
	// The configuration is in the working directory: that is not one of $PATH.
	cfg := mustParse(t, "plugins: {mine: {path: ./plugin, insecure_unpinned: true}}\nroutes: {studio: {publish: {open: true}, to: {cdn: {url: 'rtmp://host/app'}}}}\n", testOptions())
	if !filepath.IsAbs(cfg.Plugins[0].Path) {
		t.Errorf("the executable is %s", cfg.Plugins[0].Path)
	}
	f("", "gateway.yaml:2:3: plugins.mine: the executable is not pinned, add sha256 (gateway plugins pin FILE prints it), or insecure_unpinned: true while you develop it")
	f("    insecure_unpinned: false\n", "gateway.yaml:2:3: plugins.mine: the executable is not pinned, add sha256 (gateway plugins pin FILE prints it), or insecure_unpinned: true while you develop it")
	f("    sha256: "+strings.Repeat("cd", 32)+"\n", "gateway.yaml:4:13: plugins.mine.sha256: the executable has another SHA-256, "+pinned+", correct it if you trust the file as it is now (gateway plugins pin FILE prints it)")
	f("    sha256: '12'\n", "gateway.yaml:4:13: plugins.mine.sha256: not a SHA-256, write the 64 hexadecimal digits that sha256sum FILE prints")
}

// What a plugin's processes are given, and a route that has its own.
func TestProcesses(t *testing.T) {
	cfg := mustParse(t, `
plugins:
  egress-rtmp: {instances: 3, memory: 256MB, files: [recordings, /srv/recordings], env: [HTTPS_PROXY]}
  ingest-clip: {memory: 1GiB}
routes:
  studio: {isolate: true, publish: {open: true}, to: {cdn: {url: "rtmp://host/app"}}}
  other: {publish: {open: true}, to: {cdn: {url: "rtmp://host/other"}}}
`, testOptions("GATEWAY_PLUGINS__INGEST_CLIP__MEMORY=64MiB"))
	rtmp, clip := cfg.Plugins[0], cfg.Plugins[1]
	here, err := filepath.Abs("recordings")
	if err != nil {
		t.Fatal(err)
	}
	if rtmp.Instances != 3 || rtmp.MemoryBytes != 256e6 || len(rtmp.Dirs) != 2 || rtmp.Dirs[0] != here ||
		rtmp.Dirs[1] != "/srv/recordings" || len(rtmp.Env) != 1 || rtmp.Env[0] != "HTTPS_PROXY" {
		t.Errorf("%+v", rtmp)
	}
	if clip.Instances != 1 || clip.MemoryBytes != 64<<20 {
		t.Errorf("%+v", clip)
	}
	if !cfg.Routes[0].Isolate || cfg.Routes[1].Isolate {
		t.Errorf("%+v", cfg.Routes)
	}
}

// TestKeysAreDocumented: docs/configuration.md names every key.
func TestKeysAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	s, err := compileSchema("gateway", coreSchema)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(p path, at cursor)
	walk = func(p path, at cursor) {
		for _, k := range at.properties() {
			walk(p.child(k), at.child(k))
		}
		if more, ok := at.node["additionalProperties"].(map[string]any); ok {
			walk(p.child("NAME"), at.to(more).resolved())
			return
		}
		if len(at.properties()) == 0 && !strings.Contains(string(text), "`"+p.String()+"`") {
			// A second key of the same parent may stand as `.sha256`, and options
			// are the plugin's.
			if !strings.Contains(string(text), "`."+p[len(p)-1]+"`") {
				t.Errorf("%s is not documented", p)
			}
		}
	}
	walk(nil, s.at)
}

// TestWide: a mapping with more keys than the parser is quick for is refused
// before it is parsed, wherever it stands; as many as that are read.
func TestWide(t *testing.T) {
	text := func(keys int) string {
		var b strings.Builder
		b.WriteString("# a comment\nroutes:\n  studio:\n    publish: {token: t}\n    to:\n      a:\n        url: rtmp://h/a/b\n\n")
		for i := range keys - 1 {
			fmt.Fprintf(&b, "        key%d: 1\n", i)
		}
		return b.String()
	}
	_, ds := parse(t, text(maxWide), testOptions())
	if len(ds) != maxWide-1 {
		t.Errorf("%d findings", len(ds))
	}
	_, ds = parse(t, text(maxWide+1), testOptions())
	if len(ds) != 1 || ds[0].Line != maxWide+8 || !strings.Contains(ds[0].Finding, "more than 5000 keys") {
		t.Errorf("%s", ds)
	}
}
