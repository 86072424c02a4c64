package egressrtmp

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/secret"
)

var rewrite = flag.Bool("rewrite", false, "write docs/presets.md anew")

const presetPage = "../../docs/presets.md"

// TestPresets: each row can be used as it stands and says where it is from.
func TestPresets(t *testing.T) {
	var names, hosts []string
	for _, p := range presets() {
		names = append(names, p.Name)
		for _, u := range []string{p.URL, p.BackupURL} {
			if u == "" {
				continue
			}
			at, err := rtmp.ParseTarget(secret.New(u), secret.New("key"))
			if err != nil || at.App.Empty() {
				t.Errorf("%s: %s: %v", p.Name, u, err)
			}
			scheme, _, _ := strings.Cut(u, ":")
			if len(p.Schemes) > 0 && !slices.Contains(p.Schemes, scheme) {
				t.Errorf("%s: its own URL has the scheme %s, of which it warns", p.Name, scheme)
			}
			if !slices.ContainsFunc(p.Hosts, func(h string) bool { return at.Host == h || strings.HasSuffix(at.Host, "."+h) }) {
				t.Errorf("%s: its own URL is at %s, by which it is not recognized", p.Name, at.Host)
			}
		}
		hosts = append(hosts, p.Hosts...)
		if u, err := url.Parse(p.Source); err != nil || u.Scheme != "https" || u.Host == "" {
			t.Errorf("%s: the source is %q", p.Name, p.Source)
		}
		if day, err := time.Parse(time.DateOnly, p.Checked); err != nil || day.After(time.Now().AddDate(0, 0, 1)) {
			t.Errorf("%s: looked at on %q", p.Name, p.Checked)
		}
		if p.Unverified && p.Note == "" {
			t.Errorf("%s: does not say why it is not verified", p.Name)
		}
		if p.URL == "" && p.Note == "" {
			t.Errorf("%s: does not say where its URL is found", p.Name)
		}
	}
	for what, list := range map[string][]string{"name": names, "host": hosts} {
		slices.Sort(list)
		if c := slices.Compact(slices.Clone(list)); len(c) != len(list) {
			t.Errorf("a %s stands twice in %v", what, list)
		}
	}
	for _, want := range []string{"youtube", "twitch", "facebook", "kick", "ivs", "cloudflare", "mux", "x", "linkedin", "medialive", "akamai", "fastly", "azure"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if len(sdk.Describe(Plugin()).GetEgress().GetPresets()) != len(names) {
		t.Error("the plugin does not declare them")
	}
}

// TestPresetPage holds docs/presets.md to the table.
func TestPresetPage(t *testing.T) {
	want := presetsPage()
	if *rewrite {
		if err := os.WriteFile(presetPage, want, 0o644); err != nil { //nolint:gosec // a page of the documentation
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(presetPage)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the table says; run go test ./plugins/egress-rtmp -run PresetPage -rewrite", presetPage)
	}
}

func presetsPage() []byte {
	var b bytes.Buffer
	b.WriteString(`# Presets

<!-- made of plugins/egress-rtmp/presets.go by go test ./plugins/egress-rtmp -run PresetPage -rewrite -->

` + "`preset: NAME`" + ` in a target fills in what the gateway knows of a service: its address, its
backup, how sound and picture are ordered, and its limits.

` + "```yaml" + `
routes:
  studio:
    publish: {token: "${env:STUDIO_TOKEN}"}
    to:
      youtube: {preset: youtube, key: "${env:YT_KEY}"}
      twitch:  {preset: twitch, key: "${env:TWITCH_KEY}"}
` + "```" + `

What the target says itself goes before what the preset says. A target without ` + "`preset`" + ` whose
host belongs to a service has the preset by that; ` + "`preset: none`" + ` switches this off.

Where a service needs sound and the publisher sends none, the gateway adds silence.

Limits refuse nothing. While a stream is live the gateway measures what it sends and says what
is beyond, for example *twitch: keyframe interval 4.1 s, limit 2 s*: in the log, in
` + "`/v1/streams`" + `, in the metric ` + "`gateway_target_warning`" + `, in ` + "`gateway top`" + ` and on the status page.

A row **not verified** was not found on a page of the service itself. The gateway says so when a
target uses it.

| preset | service | address | keyframe | video | audio | more | source |
|---|---|---|---|---|---|---|---|
`)
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	rate := func(bps uint64) string {
		if bps == 0 {
			return ""
		}
		return fmt.Sprintf("%g kb/s", float64(bps)/1000)
	}
	for _, p := range presets() {
		l := p.Limits
		address := "your own"
		if p.URL != "" {
			address = "`" + p.URL + "`"
		}
		if p.BackupURL != "" {
			address += ", backup `" + p.BackupURL + "`"
		}
		keyframe := ""
		if l.KeyframeInterval > 0 {
			keyframe = fmt.Sprintf("%g s", l.KeyframeInterval.Seconds())
		}
		var more []string
		add := func(is bool, format string, a ...any) {
			if is {
				more = append(more, fmt.Sprintf(format, a...))
			}
		}
		add(slices.Equal(p.Schemes, []string{"rtmps"}), "rtmps")
		add(l.Height > 0, "up to %d lines", l.Height)
		add(l.FrameRate > 0, "%g fps", l.FrameRate)
		add(l.NoBFrames, "no B-frames")
		add(l.NeedsAudio, "needs sound")
		add(l.Duration > 0, "%g h", l.Duration.Hours())
		source := fmt.Sprintf("[%s](%s)", p.Checked, p.Source)
		if p.Unverified {
			source = "**not verified**, " + source
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s | %s |\n", p.Name, p.Title, address, dash(keyframe),
			dash(rate(l.VideoBPS)), dash(rate(l.AudioBPS)), dash(strings.Join(more, ", ")), source)
	}
	b.WriteString("\n## To each\n\n")
	for _, p := range presets() {
		if p.Note != "" {
			fmt.Fprintf(&b, "- **`%s`**: %s\n", p.Name, p.Note)
		}
	}
	b.WriteString("\nAll of them order sound and picture by time (`interleave: strict`). Seen something else? The table is\n" +
		"[plugins/egress-rtmp/presets.go](../plugins/egress-rtmp/presets.go); a row needs a source and a date.\n")
	return b.Bytes()
}

// TestRestricted: what a target given by the API leads to is checked where the
// connection is made.
func TestRestricted(t *testing.T) {
	to := target("rtmp://169.254.169.254/app/SECRETKEY")
	to.Restricted = true
	_, err := (&egress{}).open(t.Context(), to, Options{Interleave: InterleaveLow}, nil)
	var e *sdk.Error
	if !errors.As(err, &e) || e.Cause != sdk.CauseConfig || !sdk.IsPermanent(err) || !strings.Contains(err.Error(), "169.254.169.254") ||
		strings.Contains(err.Error(), "SECRET") {
		t.Errorf("%v", err)
	}
	r := receive(t)
	to = target("rtmp://" + r.addr + "/app/key")
	to.Restricted = true
	s, err := (&egress{}).open(t.Context(), to, Options{Interleave: InterleaveLow}, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeSink(t, s)
}
