package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/secret"
)

// The variables that top reads; run reads them too, as overrides of its keys.
const (
	adminVariable      = "GATEWAY_ADMIN"
	adminTokenVariable = "GATEWAY_ADMIN_TOKEN"
)

func newTop(a *app) *cobra.Command {
	var admin, output string
	var once bool
	interval := time.Second
	cmd := &cobra.Command{
		Use: "top [gateway.yaml]", GroupID: groupLook, ValidArgsFunction: completeFile,
		Short: "Show the streams and targets of a running gateway, live",
		Long: "Show what a running gateway sends where, once a second: state, pictures and bits\n" +
			"per second, keyframe interval, lag, what was left out, tries, what a server last\n" +
			"said, and what is beyond the limits of a service.\n\n" +
			"It asks the admin address, 127.0.0.1:8081 unless the configuration that is named,\n" +
			"GATEWAY_ADMIN or --admin says otherwise. A token comes from the configuration or\n" +
			"from GATEWAY_ADMIN_TOKEN. Elsewhere than on a terminal it prints a line per\n" +
			"target, and with -o json an object per line. NO_COLOR switches colours off.",
		Example: "  gateway top\n  gateway top gateway.yaml\n  gateway top --once -o json | jq '.streams[].targets[].state'",
		Args:    atMostOneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: want text or json", output)
			}
			if interval < 100*time.Millisecond {
				return fmt.Errorf("--interval %s: want at least 100ms", interval)
			}
			c := adminClient{addr: config.DefaultAdmin, token: secret.New(os.Getenv(adminTokenVariable))}
			if v := os.Getenv(adminVariable); v != "" {
				c.addr = v
			}
			if len(args) == 1 {
				cfg, err := a.load(cmd.Context(), args[0], nil)
				if err != nil {
					return err
				}
				c.addr, c.token = cfg.Admin, cfg.AdminToken
			}
			if admin != "" {
				c.addr = admin
			}
			return failed(a.top(cmd.Context(), c, output, once, interval))
		},
	}
	f := cmd.Flags()
	f.StringVar(&admin, "admin", "", "admin address of the gateway, host:port (default "+config.DefaultAdmin+")")
	f.BoolVar(&once, "once", false, "show it once and end")
	f.DurationVar(&interval, "interval", interval, "time between two looks")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	complete(cmd, "output", "text", "json")
	return cmd
}

// An adminClient asks the admin address of a gateway.
type adminClient struct {
	addr  string
	token secret.String
}

// streams asks for GET /v1/streams; raw is the answer as it came.
func (c adminClient) streams(ctx context.Context) (st status.Streams, raw []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addr := c.addr
	if host, port, err := net.SplitHostPort(addr); err == nil && (host == "" || host == "0.0.0.0" || host == "::") {
		addr = net.JoinHostPort("127.0.0.1", port) // what listens everywhere is here, too
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1/streams", nil)
	if err != nil {
		return st, nil, fmt.Errorf("--admin: %q is not an address, write host:port", c.addr)
	}
	if !c.token.Empty() {
		req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		why := err.Error()
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			why = "nothing listens there: is the gateway running, and is this the key admin of its configuration?"
		case errors.Is(err, context.DeadlineExceeded):
			why = "no answer within 5 s"
		}
		return st, nil, fmt.Errorf("asking the gateway at %s: %s", addr, why)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err = io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	switch {
	case err != nil:
		return st, nil, fmt.Errorf("asking the gateway at %s: %w", addr, err)
	case resp.StatusCode == http.StatusUnauthorized:
		return st, nil, fmt.Errorf("the gateway at %s wants its admin_token: name its configuration, or set %s", addr, adminTokenVariable)
	case resp.StatusCode != http.StatusOK:
		return st, nil, fmt.Errorf("the gateway at %s answers %s", addr, resp.Status)
	}
	if err := json.Unmarshal(raw, &st); err != nil {
		return st, nil, fmt.Errorf("what answers at %s is no gateway: %w", addr, err)
	}
	return st, raw, nil
}

// top looks until ctx ends. A gateway that cannot be reached at first is an error;
// one that goes away later is waited for.
func (a *app) top(ctx context.Context, c adminClient, output string, once bool, interval time.Duration) error {
	st, raw, err := c.streams(ctx)
	if err != nil {
		return err
	}
	out := topScreen{out: a.out, json: output == "json"}
	if f, ok := a.out.(*os.File); ok && !out.json && !once && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		out.file = f
	}
	out.color = os.Getenv("NO_COLOR") == "" && out.file != nil
	if out.file != nil {
		fmt.Fprint(a.out, enterScreen)
		defer fmt.Fprint(a.out, leaveScreen)
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := out.show(c.addr, st, raw, err, time.Now()); err != nil || once {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if st, raw, err = c.streams(ctx); ctx.Err() != nil {
			return nil
		}
	}
}

// The alternate screen of a terminal, without a cursor.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
)

// A topScreen shows what was seen.
type topScreen struct {
	out   io.Writer
	file  *os.File // the terminal; nil elsewhere
	json  bool
	color bool
}

func (s topScreen) show(addr string, st status.Streams, raw []byte, failure error, now time.Time) error {
	var w bytes.Buffer
	switch {
	case s.json && failure == nil:
		if err := json.Compact(&w, raw); err != nil {
			return fmt.Errorf("reading the answer: %w", err)
		}
		w.WriteByte('\n')
	case s.json:
		b, err := json.Marshal(map[string]string{"error": failure.Error()})
		if err != nil {
			return fmt.Errorf("writing the error: %w", err)
		}
		w.Write(append(b, '\n'))
	case s.file == nil && failure != nil:
		fmt.Fprintf(&w, "%s %s\n", now.Format(time.TimeOnly), failure)
	case s.file == nil:
		for _, l := range topPlain(st, now) {
			fmt.Fprintf(&w, "%s %s\n", now.Format(time.TimeOnly), l)
		}
	default:
		width, height, err := term.GetSize(int(s.file.Fd()))
		if err != nil || width < 1 || height < 3 {
			width, height = 80, 24
		}
		lines := topTable(addr, st, failure, now, width, s.color)
		if over := len(lines) - (height - 1); over > 0 {
			lines = append(lines[:height-2], fmt.Sprintf("... %s, a larger window shows them", count(over+1, "more line")))
		}
		w.WriteString("\x1b[H")
		for _, l := range lines {
			w.WriteString(l + "\x1b[K\n")
		}
		w.WriteString("\x1b[J")
	}
	if _, err := s.out.Write(w.Bytes()); err != nil {
		return fmt.Errorf("writing to standard output: %w", err)
	}
	return nil
}

// topPlain is a line per target, and one per stream that has none; before them one of
// a source that does not deliver.
func topPlain(st status.Streams, now time.Time) []string {
	var out []string
	for _, s := range st.Streams {
		for _, n := range sourceNotes(s.Source, now) {
			out = append(out, s.Name+" "+n)
		}
		if len(s.Targets) == 0 {
			out = append(out, fmt.Sprintf("%s %s, no target", s.Name, s.State))
		}
		for i := range s.Targets {
			t := &s.Targets[i]
			line := fmt.Sprintf("%s/%s %s", s.Name, t.Name, targetState(t))
			if rated(t) {
				line += fmt.Sprintf(", %s fps, keyframe %s, %s kb/s, lag %s", fps(t), keyframe(t), kbps(t), lag(t))
			}
			line += fmt.Sprintf(", dropped %d, tries %d", dropped(t), t.Attempt)
			for _, n := range notes(t, now) {
				line += "; " + n
			}
			out = append(out, line)
		}
	}
	if len(out) == 0 {
		out = []string{"no stream"}
	}
	return out
}

// topTable is a screen: a summary, and below each stream its targets.
func topTable(addr string, st status.Streams, failure error, now time.Time, width int, color bool) []string {
	head := fmt.Sprintf("gateway %s  %s  %s", addr, summary(st), now.Format(time.TimeOnly))
	if failure != nil {
		head = failure.Error() + "; trying again"
	}
	t := table{right: []bool{false, false, true, true, true, true, true, true}, state: 1, width: width, color: color}
	t.add("STREAM, TARGET", "STATE", "FPS", "KEYFRAME", "KB/S", "LAG", "DROPPED", "TRIES")
	below := map[int][]string{} // notes by the row that they stand below
	for _, s := range st.Streams {
		t.add(s.Name, string(s.State), picture(s, now))
		below[len(t.cells)-1] = sourceNotes(s.Source, now)
		for i := range s.Targets {
			tg := &s.Targets[i]
			name := "  " + tg.Name
			if rated(tg) {
				t.add(name, targetState(tg), fps(tg), keyframe(tg), kbps(tg), lag(tg), fmt.Sprint(dropped(tg)), fmt.Sprint(tg.Attempt))
			} else {
				t.add(name, targetState(tg), "", "", "", "", fmt.Sprint(dropped(tg)), fmt.Sprint(tg.Attempt))
			}
			below[len(t.cells)-1] = notes(tg, now)
		}
	}
	out := []string{cut(head, width), ""}
	for i, l := range t.lines() {
		out = append(out, l)
		for _, n := range below[i] {
			for _, n := range wrapped(n, "      ", width) {
				if color {
					n = yellow + n + plain
				}
				out = append(out, n)
			}
		}
	}
	if len(st.Streams) == 0 {
		out = append(out, "no stream")
	}
	return out
}

// summary counts targets by state.
func summary(st status.Streams) string {
	states := map[status.TargetState]int{}
	targets := 0
	for _, s := range st.Streams {
		for _, t := range s.Targets {
			if t.Disabled {
				continue
			}
			targets++
			states[t.State]++
		}
	}
	text := count(len(st.Streams), "stream") + ", " + count(targets, "target")
	sep := ": "
	for _, s := range []status.TargetState{status.TargetLive, status.TargetConnecting, status.TargetWaiting, status.TargetFailed, status.TargetIdle} {
		if n := states[s]; n > 0 {
			text += fmt.Sprintf("%s%d %s", sep, n, s)
			sep = ", "
		}
	}
	return text
}

// picture is what a stream carries and who brings it.
func picture(s status.Stream, now time.Time) string {
	var parts []string
	for _, t := range s.Tracks {
		switch {
		case t.DerivedFrom != 0:
		case t.Width > 0:
			parts = append(parts, fmt.Sprintf("%s %dx%d", t.Codec, t.Width, t.Height))
		default:
			parts = append(parts, t.Codec)
		}
	}
	if p := s.Publisher; p != nil {
		from := printable(p.Remote)
		if from == "" {
			from = p.Plugin
		}
		parts = append(parts, fmt.Sprintf("from %s for %s", from, short(now.Sub(p.Since))))
	}
	return strings.Join(parts, ", ")
}

// sourceNotes say what keeps a source from delivering.
func sourceNotes(s *status.Source, now time.Time) []string {
	if s == nil || s.State == status.SourceLive || s.State == status.SourceIdle {
		return nil
	}
	note := fmt.Sprintf("source %s, tries %d", s.State, s.Attempt)
	if n := failureNote(s.LastError, s.NextRetry, now); n != "" {
		note += ", " + n
	}
	return []string{note}
}

// failureNote is the last error, and when the next try is; empty without an error.
func failureNote(e *status.Error, next *time.Time, now time.Time) string {
	switch {
	case e == nil:
		return ""
	case next == nil:
		return fmt.Sprintf("%s: %s", e.Cause, sanitized(e.Message))
	default:
		return fmt.Sprintf("again in %s: %s: %s", short(max(time.Second, next.Sub(now))), e.Cause, sanitized(e.Message))
	}
}

// notes say what is wrong with a target and what comes of it.
func notes(t *status.Target, now time.Time) []string {
	var out []string
	if t.OnBackup {
		out = append(out, "on its backup, "+t.Address)
	}
	if t.State != status.TargetLive && !t.Disabled && t.LastError != nil {
		out = append(out, failureNote(t.LastError, t.NextRetry, now))
	}
	for _, w := range t.Warnings {
		out = append(out, sanitized(w.Finding)+"; "+sanitized(w.Remedy))
	}
	return out
}

func targetState(t *status.Target) string {
	if t.Disabled {
		return "off"
	}
	return string(t.State)
}

func rated(t *status.Target) bool { return t.VideoBPS > 0 || t.AudioBPS > 0 }

func fps(t *status.Target) string { return fmt.Sprintf("%.1f", t.FrameRate) }

func keyframe(t *status.Target) string { return fmt.Sprintf("%.1f s", t.KeyframeIntervalSeconds) }

func kbps(t *status.Target) string { return kilobits(float64(t.VideoBPS + t.AudioBPS)) }

func lag(t *status.Target) string { return millis(time.Duration(t.LagSeconds * float64(time.Second))) }

func dropped(t *status.Target) (n uint64) {
	for _, m := range t.UnitsDropped {
		n += m
	}
	return n
}

// short is a duration in its two largest units.
func short(d time.Duration) string {
	switch s := int(d.Round(time.Second).Seconds()); {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	default:
		return fmt.Sprintf("%d h %d min", s/3600, s/60%60)
	}
}

// wrapped is a text in lines that are indented and at most width long, broken
// between words.
func wrapped(s, indent string, width int) []string {
	var out []string
	line := indent
	for word := range strings.FieldsSeq(s) {
		if next := utf8.RuneCountInString(line) + 1 + utf8.RuneCountInString(word); line != indent && next > width {
			out = append(out, line)
			line = indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	out = append(out, line)
	for i := range out {
		out[i] = cut(out[i], width)
	}
	return out
}

func cut(s string, width int) string {
	if r := []rune(s); len(r) > width {
		return string(r[:width])
	}
	return s
}
