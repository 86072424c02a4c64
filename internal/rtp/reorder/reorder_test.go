package reorder_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtp/reorder"
)

const hold = 100 * time.Millisecond // of a Buffer that asks

// trace pushes packets "seq@ms" and returns what comes out; "!" is a gap before
// it. "expire@ms" lets time pass.
func trace(script string) (string, *reorder.Buffer) {
	var out []string
	start := time.Unix(1000, 0)
	b := reorder.New(true, func(p reorder.Packet) {
		gap := ""
		if p.AfterGap {
			gap = "!"
		}
		if string(p.Payload) != fmt.Sprint(p.Seq) {
			gap += "?"
		}
		out = append(out, fmt.Sprintf("%s%d", gap, p.Seq))
	})
	for step := range strings.FieldsSeq(script) {
		var seq uint16
		var ms int
		if _, err := fmt.Sscanf(step, "expire@%d", &ms); err == nil {
			b.Expire(start.Add(time.Duration(ms) * time.Millisecond))
			continue
		}
		if _, err := fmt.Sscanf(step, "%d@%d", &seq, &ms); err != nil {
			panic(step)
		}
		payload := fmt.Append(nil, seq)
		b.Push(reorder.Packet{Seq: seq, Payload: payload, Arrival: start.Add(time.Duration(ms) * time.Millisecond)})
		for i := range payload {
			payload[i] = 'x'
		}
	}
	return strings.Join(out, " "), b
}

func TestTraces(t *testing.T) {
	check := func(script, want string) {
		t.Helper()
		if got, _ := trace(script); got != want {
			t.Errorf("%s:\n got %s\nwant %s", script, got, want)
		}
	}
	check("1@0 2@1 3@2", "1 2 3")
	check("1@0 3@1 2@2 4@3", "1 2 3 4")
	check("65534@0 0@1 65535@2 1@3", "65534 65535 0 1")
	check("1@0 1@1 2@2 1@3 2@4", "1 2")
	check("1@0 3@1 4@50 expire@100", "1")
	check("1@0 3@1 4@50 expire@101", "1 !3 4")
	check("1@0 3@1 4@50 5@101", "1 !3 4 5")
	check("1@0 3@1 5@60 expire@101 expire@160", "1 !3 !5")
	check("1@0 3@1 expire@101 2@102 4@103", "1 !3 4")
	check("1@0 2@1 20000@2 20001@3", "1 2 !20000 20001")
	check("20000@0 5@1 6@2", "20000 !5 6")
	check("1@0 3@1 30000@2", "1 !3 !30000")
	check("1@0 1500@1", "1")
	check("1@0 1500@1 expire@101", "1 !1500")
}

// TestRequests: what is missing is asked for at once, again after 20 ms, ever more
// rarely, and no more once it came or was given up.
func TestRequests(t *testing.T) {
	start := time.Unix(1000, 0)
	b := reorder.New(true, func(reorder.Packet) {})
	push := func(ms int, seq uint16) {
		b.Push(reorder.Packet{Seq: seq, Arrival: start.Add(time.Duration(ms) * time.Millisecond)})
	}
	asks := func(ms int, want ...uint16) {
		t.Helper()
		now := start.Add(time.Duration(ms) * time.Millisecond)
		at, ok := b.NextRequest()
		if due := ok && !now.Before(at); due != (len(want) > 0) {
			t.Errorf("at %d ms: next request at %v, %v; want %v", ms, at.Sub(start), ok, want)
		}
		if got := b.Requests(nil, now); !slices.Equal(got, want) {
			t.Errorf("at %d ms: asked for %v, want %v", ms, got, want)
		}
	}
	push(0, 65534)
	asks(0)
	push(1, 1)
	asks(1, 65535, 0)
	asks(20)
	push(21, 3)
	asks(21, 65535, 0, 2)
	push(22, 0)
	asks(41, 2)
	asks(46, 65535)
	push(47, 65535)
	asks(66, 2)
	push(70, 2)
	asks(200)
	push(201, 6)
	asks(201, 4, 5)
	b.Expire(start.Add(201*time.Millisecond + hold))
	asks(400)
	push(401, 8)
	asks(401, 7)
	push(402, 40000)
	asks(1000)
}

func TestDeadline(t *testing.T) {
	_, b := trace("1@0 2@5")
	if _, ok := b.Deadline(); ok {
		t.Error("a deadline while nothing is missing")
	}
	_, b = trace("1@0 3@5 4@9")
	if at, ok := b.Deadline(); !ok || !at.Equal(time.Unix(1000, 0).Add(5*time.Millisecond+hold)) {
		t.Errorf("deadline %v %v", at, ok)
	}
}

// Whatever comes, what goes out rises, a gap is told, and nothing waits beyond
// its time.
func TestProperties(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 3))
		now := time.Unix(1000, 0)
		first := uint16(r.Uint32())
		var got []uint16
		running := true
		arrived := map[uint16]time.Time{}
		b := reorder.New(true, func(p reorder.Packet) {
			if len(got) > 0 {
				step := int16(p.Seq - got[len(got)-1])
				if step <= 0 || p.AfterGap != (step > 1) {
					t.Fatalf("seed %d: %d after %d, gap %v", seed, p.Seq, got[len(got)-1], p.AfterGap)
				}
			}
			if late := now.Sub(arrived[p.Seq]); running && late > hold+20*time.Millisecond {
				t.Fatalf("seed %d: %d waited %v", seed, p.Seq, late)
			}
			got = append(got, p.Seq)
		})
		var order []uint16
		for i := range uint16(2000) {
			if r.IntN(40) > 0 {
				order = append(order, first+i)
			}
		}
		for range 100 {
			i := r.IntN(len(order))
			j := min(len(order)-1, i+r.IntN(8))
			s := order[i]
			order = slices.Insert(slices.Delete(order, i, i+1), j, s)
		}
		for _, s := range order {
			now = now.Add(time.Duration(r.IntN(8)) * time.Millisecond)
			if _, twice := arrived[s]; !twice {
				arrived[s] = now
			}
			b.Push(reorder.Packet{Seq: s, Arrival: now})
			if at, ok := b.Deadline(); ok && !at.After(now) {
				t.Fatalf("seed %d: the deadline has passed", seed)
			}
		}
		running = false
		now = now.Add(hold)
		b.Expire(now)
		if uint64(len(got))+b.Counts.Late != uint64(len(order)) {
			t.Fatalf("seed %d: %d of %d delivered, %d late", seed, len(got), len(order), b.Counts.Late)
		}
	}
}

// Packets that come after they were given up, or again, are told apart.
func TestLateAndTwice(t *testing.T) {
	_, b := trace("1@0 2@1 2@2 4@3 expire@110 3@111 3@112 1@113 4@114")
	want := reorder.Counts{Lost: 1, Late: 1, Duplicates: 4}
	if b.Counts != want {
		t.Errorf("%+v, want %+v", b.Counts, want)
	}
}

// How long an answer takes says when to ask again, and whether to ask at all.
func TestRoundTrip(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	b := reorder.New(true, func(reorder.Packet) {})
	b.SetRoundTrip(40 * time.Millisecond)
	b.Push(reorder.Packet{Seq: 1, Arrival: at(0)})
	b.Push(reorder.Packet{Seq: 3, Arrival: at(10)})
	if got := b.Requests(nil, at(10)); !slices.Equal(got, []uint16{2}) {
		t.Errorf("asked for %v at once", got)
	}
	if next, ok := b.NextRequest(); !ok || !next.Equal(at(62)) {
		t.Errorf("again after %v", next.Sub(at(10)))
	}
	if got := b.Requests(nil, at(62)); !slices.Equal(got, []uint16{2}) {
		t.Errorf("asked again for %v", got)
	}
	b.Push(reorder.Packet{Seq: 2, Arrival: at(102)})
	if median, p99, most := b.Recovery(); median != 92*time.Millisecond || p99 != median || most != median || b.Counts.Recovered != 1 || b.Counts.Requested != 2 {
		t.Errorf("recovered after %v, %+v", median, b.Counts)
	}
	b.SetRoundTrip(120 * time.Millisecond)
	b.Push(reorder.Packet{Seq: 5, Arrival: at(200)})
	if got := b.Requests(nil, at(200)); got != nil {
		t.Errorf("asked for %v, which would come too late", got)
	}
	if deadline, _ := b.Deadline(); !deadline.Equal(at(230)) {
		t.Errorf("held for %v although nothing can come", deadline.Sub(at(200)))
	}
}

// Where packets overtake each other, nobody is asked for them at once; where they
// do not any more, that is forgotten.
func TestOvertaking(t *testing.T) {
	now := time.Unix(1000, 0)
	b := reorder.New(true, func(reorder.Packet) {})
	b.SetRoundTrip(50 * time.Millisecond)
	seq := uint16(0)
	asked := 0
	swap := func() {
		b.Push(reorder.Packet{Seq: seq + 1, Arrival: now})
		now = now.Add(5 * time.Millisecond)
		asked += len(b.Requests(nil, now))
		b.Push(reorder.Packet{Seq: seq, Arrival: now})
		seq += 2
		now = now.Add(5 * time.Millisecond)
	}
	b.Push(reorder.Packet{Seq: 65535, Arrival: now})
	for range 20 {
		swap()
	}
	if asked > 2 || b.Counts.Overtaken < 18 || b.Counts.Lost != 0 {
		t.Errorf("asked %d times, %+v", asked, b.Counts)
	}
}

// A model of what a Buffer is to do: sequence numbers that do not wrap, and what has
// come. What goes out rises, says where something is missing, and is never asked for.
func FuzzBuffer(f *testing.F) {
	f.Add([]byte{0, 1, 1, 0, 3, 1, 0, 2, 1}, uint16(65530))
	f.Add([]byte{0, 1, 1, 2, 200, 9, 0, 2, 1, 0, 7, 120}, uint16(0))
	f.Fuzz(func(t *testing.T, script []byte, first uint16) {
		now := time.Unix(1000, 0)
		came := map[int64]bool{}
		at, last, started := int64(first), int64(-1), false
		jumped := false
		b := reorder.New(true, func(p reorder.Packet) {
			// The number without wrapping, next to the newest.
			n := at + int64(int16(p.Seq-uint16(at)))
			switch {
			case !came[n]:
				t.Fatalf("%d went out and never came", n)
			case started && !jumped && (n <= last || p.AfterGap != (n > last+1)):
				t.Fatalf("%d after %d, gap %v", n, last, p.AfterGap)
			}
			started, last = true, n
		})
		for len(script) >= 3 {
			// Steps forth and back around the newest, and a jump now and then.
			step := int64(int8(script[1]))
			if script[0] == 0xff {
				step, jumped = 30000, true
			}
			now = now.Add(time.Duration(script[2]) * time.Millisecond)
			n := max(0, at+step)
			came[n] = true
			newest := max(at, n)
			if script[0] == 0xff {
				newest = n
			}
			at = newest
			b.Push(reorder.Packet{Seq: uint16(n), Arrival: now, Resent: script[0]&1 != 0})
			for _, seq := range b.Requests(nil, now) {
				if m := at + int64(int16(seq-uint16(at))); came[m] && !jumped {
					t.Fatalf("%d is asked for and has come", m)
				}
			}
			if deadline, ok := b.Deadline(); ok && !deadline.After(now) {
				t.Fatal("the deadline has passed")
			}
			script = script[3:]
		}
	})
}
