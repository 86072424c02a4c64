package sdk

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// TestTraces runs the scripts of testdata/trace: one session of a plugin and the
// gateway that it is attached to, in time that moves only by sleep and by media.
//
// A publication, towards a gateway that may be slow:
//
//	publish credit=BYTES
//	write T N size=B [key] [every=D]   N units of track T, one each D; key: the first is a random access point
//	take                               what is sent: units as track:number, K for a random access point, ! for a discontinuity
//	deal                               the gateway deals with all that is sent, and with what that lets through
//	end                                the publisher says goodbye
//
// A sink, of which the credit is looked at:
//
//	sink bps=N                         the tracks say how much they take
//	wrote N size=B [every=D]           N units are written to the target, one each D
//	flush                              nothing more will come
//	sleep D
//
// What is said to the gateway is printed with the time.
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/trace/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no traces", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &traceWorld{start: time.Now(), a: newAttachment(Plugin{}, &wire.Hello{})}
				defer w.a.stopServe()
				datadriven.RunTest(t, f, func(t *testing.T, d *datadriven.TestData) string { return w.do(t, d) })
			})
		})
	}
}

type traceWorld struct {
	start   time.Time
	a       *attachment
	pub     *Publication
	credits *credits
	at      time.Duration // media time of the sink
}

func (w *traceWorld) do(t *testing.T, d *datadriven.TestData) string {
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return n
	}
	length := func(s string) time.Duration {
		v, err := time.ParseDuration(s)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return v
	}
	var words []string
	named := map[string]string{"size": "1", "every": "0s"}
	for _, a := range d.CmdArgs {
		if len(a.Vals) > 0 {
			named[a.Key] = a.Vals[0]
		} else {
			words = append(words, a.Key)
		}
	}
	size, every := number(named["size"]), length(named["every"])
	switch d.Cmd {
	case "publish":
		w.pub = newPublication(w.a, &wire.Open{Session: 1, InitialCreditBytes: uint64(number(named["credit"]))})
		w.pub.start()
	case "write":
		id := media.TrackID(number(words[0]))
		for i := range number(words[1]) {
			time.Sleep(every)
			w.pub.WriteAccessUnit(&media.AccessUnit{
				Track: id, DTS: time.Since(w.start), RandomAccess: id == 2 || i == 0 && d.HasArg("key"), Payload: make([]byte, size),
			})
		}
	case "deal":
		var all strings.Builder
		for {
			w.a.out.Grant(1, math.MaxUint64)
			text := w.said(t)
			if text == nothing {
				break
			}
			all.WriteString(text)
		}
		return all.String()
	case "end":
		w.pub.Close(nil)
	case "take":
	case "sink":
		w.credits = newCredits(&w.a.credits, 1, []media.Track{{BitrateBitsPerSecond: number(named["bps"])}})
		return fmt.Sprintf("window %d\n", w.credits.window)
	case "wrote":
		for range number(words[0]) {
			time.Sleep(every)
			w.at += every
			w.credits.done(&media.AccessUnit{DTS: w.at, Payload: make([]byte, size)})
		}
	case "flush":
		w.credits.flush()
	case "sleep":
		time.Sleep(length(words[0]))
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	synctest.Wait()
	if w.pub != nil && d.Cmd != "take" {
		return ""
	}
	return w.said(t)
}

// said is what the sending goroutine would send now.
func (w *traceWorld) said(t *testing.T) string {
	var out strings.Builder
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		control, steps, err := w.a.out.Next(ctx)
		cancel()
		if err != nil {
			break
		}
		now := time.Since(w.start).Truncate(time.Microsecond)
		for i := 0; i < len(control); {
			text, n := told(control[i]), 0
			for ; i < len(control) && told(control[i]) == text; i++ {
				n++
			}
			if n > 1 {
				text += fmt.Sprintf(", %d times", n)
			}
			fmt.Fprintf(&out, "[%v] %s\n", now, text)
		}
		line := ""
		for _, s := range steps {
			line += " " + unitName(s.Item)
		}
		if line != "" {
			fmt.Fprintf(&out, "[%v]%s\n", now, runs(line))
		}
	}
	if out.Len() == 0 {
		return nothing
	}
	return out.String()
}

const nothing = "nothing\n"

func unitName(it wire.Item) string {
	s := fmt.Sprintf("%d:%d", it.Unit.Track, it.Unit.Seq)
	if it.Unit.RandomAccess && it.Unit.Track == 1 {
		s += "K"
	}
	if it.Discontinuity {
		s += "!"
	}
	return s
}

// runs writes units of a track that follow each other as first..last.
func runs(line string) string {
	var out []string
	last := [2]int{-1, -1}
	for _, f := range strings.Fields(line) {
		var track, seq int
		_, err := fmt.Sscanf(f, "%d:%d", &track, &seq)
		plain := err == nil && f == fmt.Sprintf("%d:%d", track, seq)
		if n := len(out); plain && n > 0 && last == [2]int{track, seq - 1} {
			first, _, _ := strings.Cut(out[n-1], "..")
			out[n-1] = fmt.Sprintf("%s..%d", first, seq)
		} else {
			out = append(out, f)
		}
		last = [2]int{track, seq}
	}
	return " " + strings.Join(out, " ")
}

func told(m *wire.PluginMsg) string {
	switch m := m.GetM().(type) {
	case *wire.PluginMsg_Credit:
		s := fmt.Sprintf("credit %d", m.Credit.GetBytes())
		if n := m.Credit.GetWindowBytes(); n > 0 {
			s += fmt.Sprintf(", window %d", n)
		}
		return s
	case *wire.PluginMsg_Credits: // of one session here
		return fmt.Sprintf("credit %d", m.Credits.GetBytes()[0])
	case *wire.PluginMsg_Stats:
		return fmt.Sprintf("%d units dropped", m.Stats.GetUnitsDropped())
	case *wire.PluginMsg_State:
		return m.State.GetState().String()
	default:
		return fmt.Sprint(m)
	}
}
