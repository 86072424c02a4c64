package pluginhost

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/secret"
)

const (
	// logLineBytes caps one line of a plugin's log.
	logLineBytes = 8 << 10
	// linesPerSecond caps how many lines of one process are logged.
	linesPerSecond = 1000
	// lastWordsLines is how much of what a dying plugin printed is kept.
	lastWordsLines = 3
)

// A logWriter turns what a plugin prints into records of the gateway's log: lines
// of hclog's JSON, which the SDK writes, keep level and attributes; others are
// taken for what they look like. Long lines are cut.
//
// The lines are parsed here and not by go-plugin, which panics when the level or
// the message in a line is not a text.
type logWriter struct {
	log    *slog.Logger
	veil   *veil
	stream string // stdout or stderr, for lines that are no records

	mu      sync.Mutex // guards the fields below
	line    []byte     // of the line so far, at most logLineBytes
	cut     int        // bytes left out of it
	second  time.Time  // when the count began
	lines   int        // since then
	quiet   int        // of them not logged
	told    bool       // what to do about long lines
	inPanic bool       // a stack trace is being printed
	last    []string   // the last lines that look like a crash
}

// Write takes a piece of the output. It never fails.
func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		piece, rest, complete := bytes.Cut(p, []byte{'\n'})
		room := min(len(piece), logLineBytes-len(w.line))
		w.line = append(w.line, piece[:room]...)
		w.cut += len(piece) - room
		p = rest
		if !complete {
			break
		}
		if len(w.line) > 0 && w.allowed(time.Now()) {
			w.emit(string(w.line), w.cut)
		}
		w.line, w.cut = w.line[:0], 0
	}
	return n, nil
}

// allowed reports whether one more line may be logged. The caller holds mu.
func (w *logWriter) allowed(now time.Time) bool {
	if now.Sub(w.second) >= time.Second {
		if w.quiet > 0 {
			w.record(slog.LevelWarn, "the plugin logs too much; lines were left out", slog.Int("lines", w.quiet), slog.String("remedy", quieter))
		}
		w.second, w.lines, w.quiet = now, 0, 0
	}
	if w.lines == linesPerSecond {
		w.quiet++
		return false
	}
	w.lines++
	return true
}

// A veil takes the secrets of a plugin's sessions out of what its processes print:
// a library panics with a URL in its words, or an author logs one. The secrets of
// the newest veilMax sessions count, those that are over too: the last words of a
// process come after its sessions' end.
type veil struct {
	mu   sync.Mutex // guards the fields below
	list []secret.Redaction
	keys []string // of list, to tell what is in it
}

const (
	veilMax = 1024
	// veilBytes spares short keys such as demo or studio, which protect nothing and
	// stand in many lines for something else.
	veilBytes = 8
)

// add adds the redaction of a session with these secrets.
func (v *veil) add(r secret.Redaction, secrets ...string) {
	key := strings.Join(secrets, "\x00")
	v.mu.Lock()
	defer v.mu.Unlock()
	if slices.Contains(v.keys, key) {
		return
	}
	if len(v.list) == veilMax {
		v.list, v.keys = slices.Delete(v.list, 0, 1), slices.Delete(v.keys, 0, 1)
	}
	v.list, v.keys = append(v.list, r.Longer(veilBytes)), append(v.keys, key)
}

func (v *veil) text(s string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range v.list {
		s = r.Text(s)
	}
	return s
}

// emit logs one line. The caller holds mu.
func (w *logWriter) emit(line string, cut int) {
	line = w.veil.text(line)
	if cut == 0 && line[0] == '{' {
		if level, msg, attrs, ok := parseRecord(line); ok {
			w.record(level, msg, attrs...)
			return
		}
	}
	level := slog.LevelInfo
	switch {
	case strings.HasPrefix(line, "panic: "), strings.HasPrefix(line, "fatal error: "):
		w.inPanic, w.last = true, nil
		level = slog.LevelError
	case w.inPanic:
		level = slog.LevelError
	case strings.HasPrefix(line, "[TRACE]"), strings.HasPrefix(line, "[DEBUG]"):
		level = slog.LevelDebug
	case strings.HasPrefix(line, "[WARN]"):
		level = slog.LevelWarn
	case strings.HasPrefix(line, "[ERROR]"):
		level = slog.LevelError
	}
	if cut > 0 {
		line = fmt.Sprintf("%s... (%d bytes more)", line, cut)
	}
	if w.inPanic && len(w.last) < lastWordsLines {
		w.last = append(w.last, line)
	}
	w.record(level, line, slog.String("stream", w.stream))
	if cut > 0 && !w.told {
		w.told = true
		w.record(slog.LevelWarn, "the plugin prints lines that are too long; their ends are left out",
			slog.Int("longest_bytes", logLineBytes), slog.String("remedy", shorter))
	}
}

// What to do about a plugin that prints too much.
const (
	quieter = "tell the plugin's author to log less, or what is seldom read at debug level"
	shorter = "tell the plugin's author to log what happened, not the data that it happened to"
)

// record logs what the plugin says in its own words.
func (w *logWriter) record(level slog.Level, msg string, attrs ...slog.Attr) {
	ctx := context.Background()
	h := w.log.Handler()
	if !h.Enabled(ctx, level) {
		return
	}
	r := slog.NewRecord(time.Now(), level, msg, 0)
	r.AddAttrs(attrs...)
	_ = h.Handle(ctx, r) // as slog itself does
}

// lastWords returns what the process printed when it crashed, or nothing.
func (w *logWriter) lastWords() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.last, "; ")
}

// parseRecord reads one line of hclog's JSON.
func parseRecord(line string) (slog.Level, string, []slog.Attr, bool) {
	var fields map[string]any
	if json.Unmarshal([]byte(line), &fields) != nil {
		return 0, "", nil, false
	}
	msg, ok := fields["@message"].(string)
	if !ok {
		return 0, "", nil, false
	}
	level := slog.LevelInfo
	switch fields["@level"] {
	case "trace", "debug":
		level = slog.LevelDebug
	case "warn":
		level = slog.LevelWarn
	case "error":
		level = slog.LevelError
	}
	var attrs []slog.Attr
	for key, v := range fields {
		// The gateway stamps the time, and "plugin" is for it alone to say.
		if !strings.HasPrefix(key, "@") && key != "plugin" {
			attrs = append(attrs, slog.Any(key, v))
		}
	}
	slices.SortFunc(attrs, func(a, b slog.Attr) int { return strings.Compare(a.Key, b.Key) })
	return level, msg, attrs, true
}
