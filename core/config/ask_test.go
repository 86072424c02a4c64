package config

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headgate/gateway/sdk/wire"
)

// What a plugin says of its options and targets is shown at the line that it is about.
func TestPluginsAreAsked(t *testing.T) {
	o := testOptions("KEY=canary-key")
	var asked []string
	found := map[string][]*wire.Diagnostic{}
	o.Validate = func(_ context.Context, p Plugin, r *wire.ValidateRequest) (*wire.ValidateResponse, error) {
		text := fmt.Sprintf("%s %s %d files", p.Name, r.GetOptionsJson(), len(r.GetFiles()))
		for _, t := range r.GetTargets() {
			text += fmt.Sprintf("; %s %s %s %s %d files %v", t.GetName(), t.GetUrl(), t.GetKey(), t.GetOptionsJson(), len(t.GetFiles()), t.GetRestricted())
		}
		for _, url := range r.GetSources() {
			text += "; fetch " + url
		}
		asked = append(asked, text)
		return &wire.ValidateResponse{Diagnostics: found[p.Name]}, nil
	}
	say := func(plugin, path, finding, remedy string) {
		found[plugin] = append(found[plugin], &wire.Diagnostic{Path: path, Finding: finding, Remedy: remedy})
	}
	say("egress-rtmp", "targets.0.options.ca", "it holds no certificate", "write PEM")
	say("egress-rtmp", "targets.0", "canary-key is no key of rtmp://host/app", "")
	say("egress-rtmp", "targets.1.key", "too short", "write more")
	say("egress-rtmp", "targets.2.url", "no host", "add one")
	say("egress-rtmp", "targets.3.url", "there is none of this number", "count")
	say("egress-rtmp", "targets.x.url", "nor of this", "count")
	say("ingest-clip", "sources.0", "there is no clip:canary", "write clip:")
	say("ingest-clip", "sources.1", "nor one of this number", "count")
	say("egress-rtmp", "options.ca", "it has to be given", "add it")
	say("ingest-webrtc", "options.udp", "this is no address, canary-turn", "write host:port")
	say("ingest-webrtc", "options.tls.roots.0", "no certificate", "write PEM")
	say("ingest-webrtc", "options", strings.Repeat("x", 2*maxFindingBytes), "y")
	say("ingest-webrtc", "nowhere", "", "")
	say("egress-rtmp", "targets.1.options.ca", "wrong\nfor\x00both", "mend it")
	say("egress-rtmp", "targets.2.options.ca", "wrong\nfor both", "mend it")
	found["mine"] = []*wire.Diagnostic{{Path: "targets.0.options.level", Finding: "high", Remedy: "write less", Warning: true}}
	text := `
plugins:
  ingest-webrtc:
    options: {udp: x, turn_key: canary-turn, tls: {roots: [ca.pem]}}
  mine: {path: plugin, insecure_unpinned: true}
routes:
  studio:
    publish: {open: true}
    to:
      cdn: {url: "rtmp://host/app", key: "${env:KEY}", ca: ca.pem}
      both: {url: "rtmp://host/app", key: one, backup: "rtmp://spare/app", backup_key: two}
      file: {url: "file:///x"}
      odd: {url: "rtmp://host/odd/k", interleaving: sideways}
      gone: {url: "rtmp://host/gone", key: "${env:NONE}"}
  test:
    from: {url: "clip:canary"}
    to: {file: {url: "file:///z"}}
`
	cfg, ds := parse(t, text, o)
	if cfg != nil {
		t.Error("a configuration came out of it")
	}
	long := strings.Repeat("x", maxFindingBytes)
	want := `gateway.yaml:4:5: plugins.ingest-webrtc.options: ` + long + `, y
gateway.yaml:3:3: plugins.ingest-webrtc: the plugin cannot use this, correct it, as the page of ingest-webrtc says
gateway.yaml:4:20: plugins.ingest-webrtc.options.udp: this is no address, ***, write host:port
gateway.yaml:4:60: plugins.ingest-webrtc.options.tls.roots.0: no certificate, write PEM
gateway.yaml:2:1: plugins.egress-rtmp: there is none of this number, count
gateway.yaml:2:1: plugins.egress-rtmp: nor of this, count
gateway.yaml:2:1: plugins.egress-rtmp.options.ca: it has to be given, add it
gateway.yaml:10:18: routes.studio.to.cdn.url: *** is no key of ***, correct it, as the page of egress-rtmp says
gateway.yaml:10:60: routes.studio.to.cdn.ca: it holds no certificate, write PEM
gateway.yaml:11:43: routes.studio.to.both.key: too short, write more
gateway.yaml:11:56: routes.studio.to.both.backup: no host, add one
gateway.yaml:11:7: routes.studio.to.both.ca: wrong for both, mend it
gateway.yaml:16:17: routes.test.from.url: there is no ***, write clip:
gateway.yaml:2:1: plugins.ingest-clip: nor one of this number, count
gateway.yaml:12:7: warning: routes.studio.to.file.level: high, write less`
	for line := range strings.SplitSeq(want, "\n") {
		if !strings.Contains(ds.String(), line+"\n") {
			t.Errorf("not found: %s", line)
		}
	}
	if got := ds.String(); strings.Contains(got, "canary") || strings.Count(got, "for both") != 1 {
		t.Errorf("found\n%s", got)
	}
	wantAsked := `egress-rtmp  0 files; cdn rtmp://host/app canary-key {"ca":"ca.pem"} 1 files false; both rtmp://host/app one  0 files false; both rtmp://spare/app two  0 files false
ingest-clip  0 files; fetch clip:canary
ingest-webrtc {"tls":{"roots":["ca.pem"]},"turn_key":"canary-turn","udp":"x"} 1 files
mine  0 files; file file:///x   0 files false; file file:///z   0 files false`
	if got := strings.Join(asked, "\n"); got != wantAsked {
		t.Errorf("asked\n%s\nwant\n%s", got, wantAsked)
	}

	// Of a target of the API its plugin alone is asked.
	clear(found)
	text = strings.ReplaceAll(strings.ReplaceAll(text, "sideways", "low"), "${env:NONE}", "x")
	cfg = mustParse(t, text, o)
	asked = nil
	say("mine", "targets.0", "nobody is there", "ask somebody")
	_, ds = cfg.Target("studio", "new", []byte(`{"url": "file:///y"}`), nil)
	if got := strings.TrimSpace(ds.String()); got != ": url: nobody is there, ask somebody" || fmt.Sprint(asked) != `[mine  0 files; new file:///y   0 files true]` {
		t.Errorf("asked %q, found\n%s", asked, got)
	}

	// A plugin that cannot be asked is not used.
	o.Validate = func(context.Context, Plugin, *wire.ValidateRequest) (*wire.ValidateResponse, error) {
		return nil, errors.New("it ended")
	}
	if _, ds := parse(t, text, o); !strings.Contains(ds.String(), "gateway.yaml:5:3: plugins.mine: asking the plugin about its options, targets and sources: it ended, gateway plugins check says") {
		t.Errorf("found\n%s", ds)
	}
}
