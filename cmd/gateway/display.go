package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/headgate/gateway/internal/rtmp"
)

// A display shows rows of figures that change: in place on a terminal, with what
// is written to it scrolling by above, and as plain lines elsewhere. Safe for
// concurrent use.
type display struct {
	out   io.Writer
	tty   bool
	color bool
	width func() int // columns of the terminal

	mu    sync.Mutex // guards the fields below
	table []string   // on the screen now
	said  []row      // the rows before, where there is no terminal
}

func newDisplay(out io.Writer) *display {
	d := &display{out: out, width: func() int { return 0 }}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		d.tty = true
		d.width = func() int {
			w, _, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 80
			}
			return w
		}
		d.color = os.Getenv("NO_COLOR") == ""
	}
	return d
}

// Write puts whole lines above the table.
func (d *display) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var w bytes.Buffer
	d.erase(&w)
	w.Write(b)
	d.draw(&w)
	if _, err := d.out.Write(w.Bytes()); err != nil {
		return 0, err
	}
	return len(b), nil
}

// erase moves to where the table begins and clears from there.
func (d *display) erase(w *bytes.Buffer) {
	if n := len(d.table); d.tty && n > 0 {
		fmt.Fprintf(w, "\x1b[%dA\r\x1b[J", n)
	}
}

func (d *display) draw(w *bytes.Buffer) {
	if d.tty {
		for _, l := range d.table {
			w.WriteString(l + "\n")
		}
	}
}

// show replaces the table, or prints one line per row.
func (d *display) show(elapsed time.Duration, rows []row) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var w bytes.Buffer
	if d.tty {
		d.erase(&w)
		d.table = tableOf(rows, d.width(), d.color)
		d.draw(&w)
	} else {
		for i, r := range rows {
			// That nothing arrives is said once, not once a second.
			if r.got == nil && i < len(d.said) && d.said[i] == r {
				continue
			}
			fmt.Fprintf(&w, "%s %s\n", clock(elapsed), r.plain())
		}
		d.said = slices.Clone(rows)
	}
	_, err := d.out.Write(w.Bytes())
	return err
}

func clock(d time.Duration) string {
	s := int(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

// A row is one target, or one publication, as it arrives.
type row struct {
	name  string
	state string
	// got is what arrives; nil if nothing does.
	got *rtmp.StreamStats
	// note says why not.
	note string
}

func (r row) video() string {
	v := r.got.Video
	if v.Codec == "" {
		return "no picture"
	}
	if v.Width == 0 {
		return v.Codec
	}
	return fmt.Sprintf("%s %dx%d", v.Codec, v.Width, v.Height)
}

func (r row) audio() string {
	a := r.got.Audio
	switch {
	case a.Codec == "":
		return "no sound"
	case a.SampleRateHz == 0:
		return a.Codec
	}
	channels := map[int]string{1: "mono", 2: "stereo"}[a.Channels]
	if channels == "" {
		channels = fmt.Sprintf("%d ch", a.Channels)
	}
	return fmt.Sprintf("%s %g kHz %s", a.Codec, float64(a.SampleRateHz)/1000, channels)
}

func kilobits(bitsPerSecond float64) string {
	return fmt.Sprintf("%.0f", math.Round(bitsPerSecond/1000))
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
}

// skew says when sound arrives, measured against its picture. A player joins them
// by their timestamps; this is what it has to buffer for that.
func skew(d time.Duration) string {
	switch ms := d.Round(time.Millisecond).Milliseconds(); {
	case ms > 0:
		return fmt.Sprintf("%d ms later", ms)
	case ms < 0:
		return fmt.Sprintf("%d ms earlier", -ms)
	default:
		return "0 ms"
	}
}

// plain is the row as a line of its own.
func (r row) plain() string {
	if r.got == nil {
		return strings.TrimSpace(r.name + " " + r.state + " " + r.note)
	}
	if !r.got.Measured {
		return fmt.Sprintf("%s %s: video %s, audio %s", r.name, r.state, r.video(), r.audio())
	}
	return fmt.Sprintf("%s %s: video %s %.1f fps %s kb/s, audio %s %s kb/s, sound %s, lag %s", r.name, r.state,
		r.video(), r.got.Video.UnitsPerSecond, kilobits(r.got.Video.BitsPerSecond),
		r.audio(), kilobits(r.got.Audio.BitsPerSecond), skew(r.got.AVSkew), millis(r.got.Lag))
}

// ANSI colours of states.
const (
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
	dim    = "\x1b[2m"
	plain  = "\x1b[0m"
)

func colourOf(state string) string {
	switch state {
	case "live":
		return green
	case "connecting", "waiting":
		return yellow
	case "failed":
		return red
	}
	return dim
}

// stateColumn is where the state stands in a row of the table.
const stateColumn = 1

// tableOf lays rows out, cut to width (0: as wide as they are).
func tableOf(rows []row, width int, color bool) []string {
	t := table{right: []bool{false, false, false, true, true, false, true, true, true}, state: stateColumn, width: width, color: color}
	t.add("TARGET", "STATE", "VIDEO", "FPS", "KB/S", "AUDIO", "KB/S", "SOUND", "LAG")
	for _, r := range rows {
		if r.got == nil {
			t.add(r.name, r.state, r.note)
			continue
		}
		if !r.got.Measured {
			t.add(r.name, r.state, r.video(), "", "", r.audio(), "", "", "")
			continue
		}
		t.add(r.name, r.state, r.video(), fmt.Sprintf("%.1f", r.got.Video.UnitsPerSecond), kilobits(r.got.Video.BitsPerSecond),
			r.audio(), kilobits(r.got.Audio.BitsPerSecond), skew(r.got.AVSkew), millis(r.got.Lag))
	}
	return t.lines()
}

// A table lays cells out in columns. The first row is its head.
type table struct {
	right []bool // which columns are aligned to the right
	state int    // the column that is coloured by what it says
	width int    // of a line; 0: as wide as it is
	color bool
	cells [][]string
}

// add adds a row. The last cell of one that has fewer than there are columns runs
// to the end of the line.
func (t *table) add(cells ...string) { t.cells = append(t.cells, cells) }

func (t *table) lines() []string {
	widths := make([]int, len(t.right))
	for _, row := range t.cells {
		for i, c := range row {
			if i == len(row)-1 && len(row) < len(t.right) {
				continue // a note runs to the end of the line
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var out []string
	for n, row := range t.cells {
		var b strings.Builder
		from, to := 0, 0
		for i, c := range row {
			if i > 0 {
				b.WriteString("  ")
			}
			pad := strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(c)))
			if i == t.state {
				from = utf8.RuneCountInString(b.String())
				to = from + utf8.RuneCountInString(c)
			}
			if t.right[i] && len(row) == len(t.right) {
				b.WriteString(pad + c)
			} else {
				b.WriteString(c + pad)
			}
		}
		line := []rune(strings.TrimRight(b.String(), " "))
		if t.width > 0 && len(line) > t.width {
			line = line[:t.width]
		}
		text := string(line)
		switch {
		case !t.color:
		case n == 0:
			text = dim + text + plain
		case t.state < len(row) && to <= len(line):
			text = string(line[:from]) + colourOf(row[t.state]) + string(line[from:to]) + plain + string(line[to:])
		}
		out = append(out, text)
	}
	return out
}

// sanitized is a text of a peer without what could steer a terminal.
func sanitized(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// printable is sanitized, and short.
func printable(s string) string {
	s = sanitized(s)
	if len(s) > 60 {
		s = s[:60]
	}
	return s
}
