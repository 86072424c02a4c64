package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/headgate/gateway/sdk/media"
)

// fragment cuts b into pieces of n bytes, as it may arrive.
func fragment(b []byte, n int) mem.BufferSlice {
	var out mem.BufferSlice
	for c := range slices.Chunk(b, n) {
		out = append(out, mem.SliceBuffer(slices.Clone(c)))
	}
	return out
}

// randomSteps returns units of all sizes around the limits of the codec.
func randomSteps(r *rand.Rand, now time.Time) []Step {
	sizes := []int{0, 1, 127, 128, 300, inlineBytes - 1, inlineBytes, inlineBytes + 1, 8000, 16384, 100_000}
	number := func() int64 { return r.Int64() >> r.IntN(64) * (1 - 2*r.Int64N(2)) }
	steps := make([]Step, r.IntN(12))
	for i := range steps {
		u := &media.AccessUnit{
			Track: media.TrackID(number()), Seq: uint32(number()), DTS: time.Duration(number()), PTS: time.Duration(number()),
			Duration:     time.Duration(max(number(), 0)),
			RandomAccess: r.IntN(2) == 0, Leading: r.IntN(2) == 0, Disposable: r.IntN(2) == 0, Discontinuity: r.IntN(2) == 0,
			Payload: make([]byte, sizes[r.IntN(len(sizes))]),
		}
		for j := range u.Payload {
			u.Payload[j] = byte(r.Uint32())
		}
		if r.IntN(4) > 0 {
			u.Received = now.Add(-time.Duration(r.Int64N(int64(2 * time.Second))))
		}
		if r.IntN(2) == 0 {
			u.Captured = time.Unix(0, number())
		}
		steps[i] = Step{Item: Item{Unit: u, Discontinuity: r.IntN(8) == 0}}
		for range r.IntN(4) * r.IntN(10) {
			steps[i].Sessions = append(steps[i].Sessions, uint32(number()))
		}
	}
	return steps
}

// usual returns the message of steps in the form that protobuf has for it.
func usual(steps []Step, now time.Time) *AccessUnits {
	m := &AccessUnits{}
	for _, s := range steps {
		m.Units = append(m.Units, FromUnit(s.Unit, s.Sessions, s.Discontinuity, now))
	}
	return m
}

// same compares what arrived with what protobuf makes of it.
func same(t *testing.T, got []InUnit, want *AccessUnits) {
	t.Helper()
	if len(got) != len(want.GetUnits()) {
		t.Fatalf("%d units, want %d", len(got), len(want.GetUnits()))
	}
	var at time.Time
	for i, w := range want.GetUnits() {
		g := got[i].Unit
		if i == 0 {
			at = g.Received.Add(min(Duration(w.GetAgeNs()), maxAge)) // when it arrived
		}
		u := ToUnit(w, at, maxAge)
		if !slices.Equal(got[i].Sessions, w.GetSessions()) {
			t.Errorf("unit %d: sessions %v, want %v", i, got[i].Sessions, w.GetSessions())
		}
		if g.Payload == nil {
			t.Errorf("unit %d: no payload at all", i)
		}
		if !g.Received.Equal(u.Received) || !g.Captured.Equal(u.Captured) {
			t.Errorf("unit %d: received %v, captured %v, want %v, %v", i, g.Received, g.Captured, u.Received, u.Captured)
		}
		g.Received, g.Captured, u.Received, u.Captured = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		if !reflect.DeepEqual(g, u) {
			t.Errorf("unit %d: %+v\nwant %+v", i, g, u)
		}
	}
}

const maxAge = 10 * time.Second

// What the codec writes, protobuf reads; and what either of them writes the codec
// reads, in whatever pieces it comes.
func TestCodecIsProtobuf(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		now := time.Now()
		steps := randomSteps(r, now)
		want := usual(steps, now)
		units := Units{Steps: steps, Now: now}

		pieces, err := Codec().Marshal(&HostUnits{units})
		if err != nil {
			t.Fatal(err)
		}
		var host HostMsg
		if err := proto.Unmarshal(pieces.Materialize(), &host); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(host.GetMedia(), want) {
			t.Fatalf("seed %d: protobuf reads something else", seed)
		}
		pieces, err = Codec().Marshal(&PluginUnits{units})
		if err != nil {
			t.Fatal(err)
		}
		ours := pieces.Materialize()
		std, err := proto.Marshal(&PluginMsg{M: &PluginMsg_Media{Media: want}})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours, std) {
			t.Fatalf("seed %d: not the bytes that protobuf writes", seed)
		}
		var in PluginInbound
		in.MaxAge = maxAge
		for _, size := range []int{7, 100, 16384, len(std) + 1} {
			if err := Codec().Unmarshal(fragment(std, size), &in); err != nil || in.Msg != nil {
				t.Fatalf("pieces of %d: %v, %v", size, err, in.Msg)
			}
			same(t, in.Units, want)
		}
		if !in.parse(fragment(std, 100), pluginMedia) {
			t.Errorf("seed %d: not read in place", seed)
		}
		for _, u := range in.Units {
			if p := u.Unit.Payload; cap(p) != len(p) {
				t.Errorf("a payload of %d bytes in %d", len(p), cap(p))
			}
		}
	}
}

// Large payloads are sent from where they lie.
func TestCodecDoesNotCopyPayloads(t *testing.T) {
	small, large := make([]byte, inlineBytes), make([]byte, inlineBytes+1)
	pieces, err := Codec().Marshal(&HostUnits{Units{Steps: []Step{
		{Item: Item{Unit: &media.AccessUnit{Payload: small}}},
		{Item: Item{Unit: &media.AccessUnit{Payload: large}}},
		{Item: Item{Unit: &media.AccessUnit{Payload: small}}},
	}}})
	if err != nil || len(pieces) != 3 {
		t.Fatalf("%d pieces, %v", len(pieces), err)
	}
	if p := pieces[1].ReadOnlyData(); &p[0] != &large[0] {
		t.Error("copied")
	}
}

// What is received stays what it is, whatever becomes of the buffers that it came in.
func TestCodecKeepsNothingOfTheBuffers(t *testing.T) {
	payload := bytes.Repeat([]byte("payload"), 2000)
	b, err := proto.Marshal(&HostMsg{M: &HostMsg_Media{Media: &AccessUnits{Units: []*AccessUnit{{Sessions: []uint32{1, 2}, Payload: payload}}}}})
	if err != nil {
		t.Fatal(err)
	}
	var in HostInbound
	if err := Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, &in); err != nil {
		t.Fatal(err)
	}
	clear(b)
	u := in.Units[0].Unit
	if err := Codec().Unmarshal(nil, &in); err != nil || in.Msg == nil || len(in.Units) != 0 {
		t.Errorf("an empty message: %v, %v, %d units", err, in.Msg, len(in.Units))
	}
	if !bytes.Equal(u.Payload, payload) {
		t.Error("the payload changed")
	}
}

// All other messages are protobuf's.
func TestCodecPassesOnTheRest(t *testing.T) {
	msg := &HostMsg{M: &HostMsg_Close{Close: &Close{Session: 3, Reason: "enough", Drain: true}}}
	pieces, err := Codec().Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	in := HostInbound{inbound: inbound{Units: make([]InUnit, 3)}}
	if err := Codec().Unmarshal(pieces, &in); err != nil || !proto.Equal(in.Msg, msg) || len(in.Units) != 0 {
		t.Errorf("got %v and %d units, %v", in.Msg, len(in.Units), err)
	}
	var plain HostMsg
	if err := Codec().Unmarshal(pieces, &plain); err != nil || !proto.Equal(&plain, msg) {
		t.Errorf("got %v, %v", &plain, err)
	}
	if _, err := Codec().Marshal(3); err == nil {
		t.Error("a number went through")
	}
	if err := Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer{0xff}}, &in); err == nil {
		t.Error("half a tag went through")
	}
}

// FuzzUnmarshal: a message means what protobuf says that it means, whatever pieces
// it comes in; and what protobuf refuses is refused.
func FuzzUnmarshal(f *testing.F) {
	unit := &AccessUnit{Sessions: []uint32{1, 300}, Track: 2, Flags: 5, Seq: 7, DtsNs: -8, PtsNs: 1 << 40, DurationNs: 3, AgeNs: 9, CapturedUnixNs: -1, Payload: []byte("payload")}
	whole, err := proto.Marshal(&PluginMsg{M: &PluginMsg_Media{Media: &AccessUnits{Units: []*AccessUnit{unit, {}, unit}}}})
	if err != nil {
		f.Fatal(err)
	}
	seed := func(b []byte) {
		f.Add(b, 3)
		f.Add(b, 1<<10)
	}
	wrap := func(units ...byte) []byte { return protowire.AppendBytes([]byte{0x32}, units) }
	seed(whole)
	seed(whole[:len(whole)-4])
	seed(slices.Concat(whole, whole))                             // the same field twice: protobuf joins them
	seed(slices.Concat(whole, []byte{0x50, 1}))                   // and another behind
	seed(slices.Concat(whole, []byte{0x3a, 2, 8, 1}))             // and another of the same choice
	seed(wrap(0x0a, 6, 0xaa, 6, 3, 'x', 'y', 'z'))                // a field that nobody knows
	seed(wrap(0x12, 3, 'x', 'y', 'z', 0x0a, 0))                   // beside the units, too
	seed(wrap(0x0a, 4, 0x08, 1, 0x08, 2))                         // sessions one by one
	seed(wrap(0x0a, 8, 0x0a, 2, 0x81, 1, 0x08, 2, 0x0a, 0))       // and in packs
	seed(wrap(0x0a, 6, 0x7a, 1, 'a', 0x7a, 1, 'b'))               // the last payload counts
	seed(wrap(0x0a, 6, 0x0b, 0x08, 1, 0x0c, 0x10, 1))             // a group
	seed(wrap(0x0a, 3, 0x10, 0x80, 0x00))                         // a long zero
	seed(wrap(0x0a, 7, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f)) // more than 32 bits
	seed(wrap(0x0a, 5, 0x7a, 0xff, 0xff, 0xff, 0xff))             // a payload of 4 GB
	seed(wrap(0x0a, 3, 0x7a, 5, 'x', 0x0a, 3, 'y', 'z', 'w'))     // longer than its unit
	seed(wrap(0x0a, 3, 0x0a, 2, 0x81, 0x01, 0x01))                // a session beyond its pack
	seed([]byte{0x32, 0x80})                                      // half a length
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		var std PluginMsg
		stdErr := proto.Unmarshal(b, &std)
		var in PluginInbound
		in.MaxAge = maxAge
		err := Codec().Unmarshal(fragment(b, max(1, size)), &in)
		if (err == nil) != (stdErr == nil) {
			t.Fatalf("%v, protobuf says %v: %s", err, stdErr, hex.EncodeToString(b))
		}
		switch {
		case err != nil:
		case std.GetMedia() == nil:
			if !proto.Equal(in.Msg, &std) || len(in.Units) != 0 {
				t.Fatalf("got %v", in.Msg)
			}
		case in.Msg != nil:
			t.Fatalf("got %v", in.Msg)
		default:
			same(t, in.Units, std.GetMedia())
		}
	})
}

func BenchmarkCodec(b *testing.B) {
	now := time.Now()
	for _, size := range []int{300, 8000} {
		steps := make([]Step, 20)
		for i := range steps {
			steps[i] = Step{Sessions: []uint32{uint32(i)}, Item: Item{Unit: &media.AccessUnit{
				Track: 1, Seq: uint32(i), DTS: time.Hour, PTS: time.Hour, Received: now, Payload: make([]byte, size),
			}}}
		}
		std, err := proto.Marshal(&PluginMsg{M: &PluginMsg_Media{Media: usual(steps, now)}})
		if err != nil {
			b.Fatal(err)
		}
		arrived := fragment(std, 16384)
		c := Codec()
		run := func(name string, f func() error) {
			b.Run(fmt.Sprintf("%s/20x%d", name, size), func(b *testing.B) {
				b.ReportAllocs()
				for range b.N {
					if err := f(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("encode", func() error {
			_, err := c.Marshal(&PluginUnits{Units{Steps: steps, Now: now}})
			return err
		})
		run("encode-protobuf", func() error {
			p, err := c.Marshal(&PluginMsg{M: &PluginMsg_Media{Media: usual(steps, now)}})
			p.Free()
			return err
		})
		var in PluginInbound
		run("decode", func() error { return c.Unmarshal(arrived, &in) })
		run("decode-protobuf", func() error {
			var m PluginMsg
			err := c.Unmarshal(arrived, &m)
			in.take(m.GetMedia())
			return err
		})
	}
}
