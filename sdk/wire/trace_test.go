package wire

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/headgate/gateway/sdk/media"
)

// TestOutboxTraces runs the scripts of testdata/outbox: sessions of one process, what
// waits for each, and what the sender takes.
//
//	open S window=N [group=G]   a session, as the gateway opens it; what it says first is "open S"
//	make N size=B               the next N units, as a stream has them: u0, u1, ...
//	put S[,S] A..B [gap]        units for sessions, in their queues; gap: units are missing before the first
//	tracks S                    new tracks in its queue
//	wake S[,S]
//	grant S BYTES               credit from the other side; prints how much of it counts
//	window S BYTES
//	say TEXT                    a control message
//	mute S / close S            what is said behind its last unit is "close S"
//	send [batches=N]            what the sender sends until there is nothing more to be sent: per line a
//	                            batch, control first, then units by the sessions that they name
//	state                       credit and queue of each session
func TestOutboxTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/outbox/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no traces", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			w := &outboxWorld{box: NewOutbox[string](), sources: map[uint32]*source{}}
			datadriven.RunTest(t, f, func(t *testing.T, d *datadriven.TestData) string { return w.do(t, d) })
		})
	}
}

type outboxWorld struct {
	box     *Outbox[string]
	sources map[uint32]*source
	units   []*media.AccessUnit
}

func (w *outboxWorld) do(t *testing.T, d *datadriven.TestData) string {
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return n
	}
	var words []string
	named := map[string]int{}
	for _, a := range d.CmdArgs {
		if len(a.Vals) > 0 {
			named[a.Key] = number(a.Vals[0])
		} else {
			words = append(words, a.Key)
		}
	}
	ids := func(list string) (out []uint32) {
		for s := range strings.SplitSeq(list, ",") {
			out = append(out, uint32(number(s)))
		}
		return out
	}
	id := uint32(0)
	if slices.Contains([]string{"open", "tracks", "grant", "window", "mute", "close"}, d.Cmd) {
		id = uint32(number(words[0]))
	}
	switch d.Cmd {
	case "open":
		s := &source{}
		w.sources[id] = s
		w.box.Open(id, s, named["window"], fmt.Sprint("open ", id))
		w.box.Group(id, uint64(named["group"]))
	case "make":
		for range number(words[0]) {
			w.units = append(w.units, &media.AccessUnit{Seq: uint32(len(w.units)), Payload: make([]byte, named["size"])})
		}
	case "put":
		first, last, ok := strings.Cut(words[1], "..")
		if !ok {
			last = first
		}
		for _, id := range ids(words[0]) {
			for n := number(first); n <= number(last); n++ {
				w.sources[id].items = append(w.sources[id].items,
					Item{Unit: w.units[n], Discontinuity: n == number(first) && slices.Contains(words, "gap")})
			}
		}
	case "tracks":
		w.sources[id].items = append(w.sources[id].items, Item{Tracks: []media.Track{{ID: 1}}})
	case "wake":
		for _, id := range ids(words[0]) {
			w.box.Wake(id)
		}
	case "grant":
		return fmt.Sprintf("%d bytes count\n", w.box.Grant(id, uint64(number(words[1]))))
	case "window":
		w.box.SetWindow(id, number(words[1]))
	case "say":
		w.box.Control(words[0])
	case "mute":
		w.box.Mute(id, fmt.Sprint("close ", id))
	case "close":
		w.box.Close(id, fmt.Sprint("close ", id))
	case "send":
		return w.send(named["batches"])
	case "state":
		var out strings.Builder
		for _, id := range ids(words[0]) {
			s := w.box.sessions[id]
			if s == nil {
				fmt.Fprintf(&out, "%d: gone\n", id)
				continue
			}
			fmt.Fprintf(&out, "%d: window %d, sent %d, credit %d, %d in the queue\n", id, s.window, s.sent, s.credit, len(w.sources[id].items))
		}
		return out.String()
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return ""
}

// send is the sender, for so many batches; 0 is until nothing is left.
func (w *outboxWorld) send(batches int) string {
	var out strings.Builder
	for n := 0; batches == 0 || n < batches; n++ {
		control, steps := w.box.take()
		if len(control) == 0 && len(steps) == 0 {
			break
		}
		fmt.Fprintln(&out, strings.Join(append(control, showSteps(steps)...), " "))
	}
	if out.Len() == 0 {
		return "nothing\n"
	}
	return out.String()
}

// showSteps writes units that follow each other for the same sessions as one.
func showSteps(steps []Step) (out []string) {
	for i := 0; i < len(steps); {
		s := steps[i]
		if s.Unit == nil {
			out = append(out, fmt.Sprintf("%v tracks", s.Sessions))
			i++
			continue
		}
		j, bytes := i, 0
		for ; j < len(steps); j++ {
			next := steps[j]
			if next.Unit == nil || !slices.Equal(next.Sessions, s.Sessions) || j > i && (next.Discontinuity || next.Unit.Seq != steps[j-1].Unit.Seq+1) {
				break
			}
			bytes += len(next.Unit.Payload)
		}
		name := fmt.Sprintf("u%d", s.Unit.Seq)
		if s.Discontinuity {
			name += "!"
		}
		if j > i+1 {
			name += fmt.Sprintf("..u%d", steps[j-1].Unit.Seq)
		}
		out = append(out, fmt.Sprintf("%v %s (%d B)", s.Sessions, name, bytes))
		i = j
	}
	return out
}
