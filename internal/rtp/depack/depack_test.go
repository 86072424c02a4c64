package depack_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/rtp/depack"
	"github.com/headgate/gateway/internal/rtp/reorder"
	"github.com/headgate/gateway/sdk/media/h264"
)

// An original is one access unit before it went into packets.
type original struct {
	nalus   [][]byte // without parameter sets
	params  [][]byte
	payload []byte
	key     bool
	time    uint32
}

// originals are n pictures of the test card, the parameter sets in band.
func originals(t testing.TB, n int) []original {
	t.Helper()
	c, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	var out []original
	for i, u := range c.Video[:n] {
		o := original{payload: u.Payload, key: u.RandomAccess, time: uint32(i) * 3000}
		if o.nalus, err = h264.SplitLengthPrefixed(nil, u.Payload); err != nil {
			t.Fatal(err)
		}
		if u.RandomAccess {
			o.params = [][]byte{c.SPS, c.PPS}
		}
		out = append(out, o)
	}
	return out
}

// packets puts the pictures into packets as any sender might: delimiters and
// filler here and there, units alone, together or in fragments of any size.
func packets(r *rand.Rand, pictures []original) []reorder.Packet {
	var out []reorder.Packet
	seq := uint16(r.Uint32())
	now := time.Unix(1000, 0)
	for _, o := range pictures {
		var nalus [][]byte
		if r.IntN(2) == 0 {
			nalus = append(nalus, []byte{9, 0xf0})
		}
		nalus = append(nalus, o.params...)
		nalus = append(nalus, o.nalus...)
		if r.IntN(3) == 0 {
			nalus = append(nalus, []byte{12, 0xff, 0xff, 0x80})
		}
		payloads := payloads(r, nalus)
		for i, b := range payloads {
			seq++
			now = now.Add(100 * time.Microsecond)
			out = append(out, reorder.Packet{Seq: seq, Time: o.time, Marker: i == len(payloads)-1, Payload: b, Arrival: now})
		}
		now = now.Add(30 * time.Millisecond)
		if r.IntN(20) == 0 { // a probe
			seq++
			out = append(out, reorder.Packet{Seq: seq, Time: o.time, Arrival: now})
		}
	}
	return out
}

func payloads(r *rand.Rand, nalus [][]byte) [][]byte {
	var out [][]byte
	for i := 0; i < len(nalus); {
		n := nalus[i]
		size := 40 + r.IntN(1300)
		switch {
		case len(n) > size || len(n) > 2 && r.IntN(8) == 0:
			rest := n[1:]
			for first := true; len(rest) > 0; first = false {
				k := min(len(rest), size)
				if first {
					k = min(k, len(rest)-1) // never start and end in one
				}
				header := n[0] & 0x1f
				if first {
					header |= 0x80
				}
				if k == len(rest) {
					header |= 0x40
				}
				out = append(out, append([]byte{n[0]&0xe0 | 28, header}, rest[:k]...))
				rest = rest[k:]
			}
			i++
		case r.IntN(2) == 0:
			b := []byte{n[0]&0x60 | 24}
			for i < len(nalus) && len(b)+2+len(nalus[i]) <= size+3 {
				b = append(b, byte(len(nalus[i])>>8), byte(len(nalus[i])))
				b = append(b, nalus[i]...)
				i++
			}
			out = append(out, b)
		default:
			out = append(out, n)
			i++
		}
	}
	return out
}

// receive runs packets through reordering and assembly.
func receive(in []reorder.Packet) []depack.Unit {
	var out []depack.Unit
	d := depack.NewH264(func(u depack.Unit) { out = append(out, u) })
	b := reorder.New(true, d.Push)
	scratch := make([]byte, 0, 2000)
	for _, p := range in {
		scratch = append(scratch[:0], p.Payload...)
		p.Payload = scratch
		b.Push(p)
		for i := range scratch {
			scratch[i] = 0xaa // nobody may have kept it
		}
	}
	b.Expire(time.Unix(1<<40, 0))
	return out
}

// Whatever the packets look like, every picture comes out as it went in.
func TestEveryPicture(t *testing.T) {
	pictures := originals(t, 70)
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		got := receive(packets(r, pictures))
		// The last picture may lack its marker only if a probe follows; it never does.
		if len(got) != len(pictures) {
			t.Fatalf("seed %d: %d pictures, want %d", seed, len(got), len(pictures))
		}
		for i, u := range got {
			o := pictures[i]
			if !bytes.Equal(u.Payload, o.payload) || u.RandomAccess != o.key || u.Time != o.time || u.Discontinuity {
				t.Fatalf("seed %d: picture %d differs", seed, i)
			}
			if (u.Config != nil) != (i == 0) {
				t.Fatalf("seed %d: picture %d: config %v", seed, i, u.Config)
			}
			if u.Last.Before(u.First) {
				t.Fatalf("seed %d: picture %d arrived before it began", seed, i)
			}
		}
		c := got[0].Config
		if c.Width != clip.Width || c.Height != clip.Height || c.FrameRate != clip.FrameRate {
			t.Fatalf("config %+v", c)
		}
	}
}

// With packets out of order, twice and lost, every picture that comes out is
// one that went in, after a loss the first one is a random access point marked
// discontinuous, and the order is kept.
func TestLoss(t *testing.T) {
	pictures := originals(t, 150)
	total, whole := 0, 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		in := damage(r, packets(r, pictures))
		got := receive(in)
		next := 0
		for i, u := range got {
			k := slices.IndexFunc(pictures[next:], func(o original) bool { return bytes.Equal(o.payload, u.Payload) })
			if k < 0 {
				t.Fatalf("seed %d: unit %d is none of the originals behind the last one", seed, i)
			}
			if k > 0 && (!u.RandomAccess || !u.Discontinuity && i > 0) {
				t.Fatalf("seed %d: unit %d follows a loss: random access %v, discontinuity %v", seed, i, u.RandomAccess, u.Discontinuity)
			}
			if k == 0 && u.Discontinuity {
				// A loss that hit nothing but a probe or a delimiter still costs what
				// follows until a random access point.
				if !u.RandomAccess {
					t.Fatalf("seed %d: unit %d discontinuous for nothing", seed, i)
				}
			}
			next += k + 1
		}
		total += len(pictures)
		whole += len(got)
	}
	t.Logf("%d of %d pictures came through", whole, total)
	if whole < total/10 {
		t.Error("nearly nothing came through")
	}
}

// damage loses, doubles and delays packets.
func damage(r *rand.Rand, in []reorder.Packet) []reorder.Packet {
	var out []reorder.Packet
	loss := r.IntN(12)
	for _, p := range in {
		if r.IntN(1000) < loss {
			continue
		}
		out = append(out, p)
		if r.IntN(50) == 0 {
			out = append(out, p)
		}
	}
	for range len(out) / 20 {
		i := r.IntN(len(out))
		j := min(len(out)-1, i+r.IntN(10))
		p := out[i]
		copy(out[i:j], out[i+1:j+1])
		out[j] = p
	}
	for i := range out { // time goes on in the order of arrival
		out[i].Arrival = time.Unix(1000, 0).Add(time.Duration(i) * time.Millisecond)
	}
	return out
}

func push(d *depack.H264, seq *uint16, at uint32, marker bool, payload ...byte) {
	*seq++
	d.Push(reorder.Packet{Seq: *seq, Time: at, Marker: marker, Payload: payload, Arrival: time.Unix(5, 0)})
}

// Broken packets cost their picture, never more than what depends on it.
func TestBrokenPackets(t *testing.T) {
	pictures := originals(t, 61)
	breakings := map[string][]byte{
		"fragment end without start":     {0x7c, 0x41, 1, 2},
		"fragment start and end at once": {0x7c, 0xc5, 1, 2},
		"fragment without header":        {0x7c},
		"aggregate cut off":              {0x78, 0, 9, 1},
		"aggregate with half a length":   {0x78, 0},
		"STAP-B":                         {0x79, 0, 0, 0, 1, 1},
		"FU-B":                           {0x7d, 0x85, 0, 0, 1},
		"type 0":                         {0x60, 1},
		"forbidden bit":                  {0xe1, 1, 2},
	}
	for name, bad := range breakings {
		t.Run(name, func(t *testing.T) {
			var got []depack.Unit
			d := depack.NewH264(func(u depack.Unit) { got = append(got, u) })
			r := rand.New(rand.NewPCG(1, 1))
			for i, p := range packets(r, pictures) {
				if p.Time == 3000*10 && p.Marker {
					d.Push(reorder.Packet{Seq: p.Seq, Time: p.Time, Payload: bad, Arrival: p.Arrival})
				}
				if d.Push(p); i == 0 && !d.NeedsKeyframe() {
					t.Error("nothing needed after the first packet")
				}
			}
			if len(got) != 10+31 || !got[10].Discontinuity || !got[10].RandomAccess || got[10].Time != 30*3000 {
				t.Errorf("%d pictures, want 10 and, from the next key picture on, 31", len(got))
			}
		})
	}
}

// A new SPS waits for the picture that it is for; the same ones again are no change.
func TestConfigChange(t *testing.T) {
	c, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	var got []depack.Unit
	d := depack.NewH264(func(u depack.Unit) { got = append(got, u) })
	var seq uint16
	idr, p := []byte{0x65, 0x88, 0x84}, []byte{0x41, 0x9a}
	other := slices.Clone(c.SPS)
	other[3]++ // another level
	push(d, &seq, 1, false, c.SPS...)
	push(d, &seq, 1, false, c.PPS...)
	push(d, &seq, 1, true, idr...)
	push(d, &seq, 2, false, c.SPS...)
	push(d, &seq, 2, true, p...)
	push(d, &seq, 3, false, other...)
	push(d, &seq, 3, true, p...)
	push(d, &seq, 4, true, idr...)
	push(d, &seq, 5, true, 0x01, 0x9a)
	var configs []int
	for i, u := range got {
		if u.Config != nil {
			configs = append(configs, i)
		}
	}
	if len(got) != 5 || !slices.Equal(configs, []int{0, 3}) {
		t.Fatalf("%d units, configs with %v", len(got), configs)
	}
	if !got[4].Disposable || got[1].Disposable {
		t.Error("disposable is not told")
	}
	want, _ := h264.DecoderConfig{SPS: [][]byte{other}, PPS: [][]byte{c.PPS}}.Marshal()
	if !bytes.Equal(got[3].Config.DecoderConfig, want) {
		t.Error("the second config has not the new SPS")
	}
}

// Parameter sets that only the session description has.
func TestParameterSetsBeforehand(t *testing.T) {
	c, _ := clip.Load()
	var got []depack.Unit
	d := depack.NewH264(func(u depack.Unit) { got = append(got, u) }, c.SPS, c.PPS)
	var seq uint16
	push(d, &seq, 1, false, 9, 0xf0)
	push(d, &seq, 1, true, 0x65, 0x88, 0x84)
	if len(got) != 1 || got[0].Config == nil || got[0].Config.Width != clip.Width {
		t.Errorf("%+v", got)
	}
}

func TestOpus(t *testing.T) {
	var got []depack.Unit
	o := depack.NewOpus(func(u depack.Unit) { got = append(got, u) })
	packet := []byte{0xfc, 1, 2, 3}
	o.Push(reorder.Packet{Seq: 1, Time: 0, Payload: packet})
	o.Push(reorder.Packet{Seq: 2, Time: 960})
	packet[1] = 9
	o.Push(reorder.Packet{Seq: 4, Time: 1920, Payload: packet, AfterGap: true})
	o.Push(reorder.Packet{Seq: 5, Time: 2880, Payload: []byte{0xff, 0xff}})
	o.Push(reorder.Packet{Seq: 6, Time: 3840, Payload: packet})
	if len(got) != 3 || got[0].Payload[1] != 1 || got[0].Duration != 20*time.Millisecond || o.Dropped() != 1 {
		t.Fatalf("%+v", got)
	}
	if fmt.Sprint(got[0].Discontinuity, got[1].Discontinuity, got[2].Discontinuity) != "false true true" {
		t.Error("losses are not told")
	}
}

// Any packets: no panic, bounded units, all in normal form.
func FuzzH264(f *testing.F) {
	f.Add([]byte{0, 1, 3, 0x67, 1, 2, 0x80, 1, 2, 0x65, 1})
	f.Add([]byte{1, 0, 4, 0x7c, 0x85, 1, 2, 0x81, 0, 4, 0x7c, 0x45, 1, 2})
	c, err := clip.Load()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		var nalus [][]byte
		d := depack.NewH264(func(u depack.Unit) {
			var err error
			if nalus, err = h264.SplitLengthPrefixed(nalus[:0], u.Payload); err != nil || len(nalus) == 0 {
				t.Fatalf("no normal form: %v", err)
			}
			for _, n := range nalus {
				switch h264.TypeOf(n) {
				case h264.TypeSPS, h264.TypePPS, h264.TypeAUD, h264.TypeFiller:
					t.Fatalf("unit of type %d in the payload", h264.TypeOf(n))
				}
			}
		}, c.SPS, c.PPS)
		var seq uint16
		var at uint32
		// Each packet: flags, time step, length, payload.
		for len(script) >= 3 {
			flags, step, n := script[0], script[1], int(script[2])
			script = script[3:]
			n = min(n, len(script))
			seq++
			at += uint32(step)
			d.Push(reorder.Packet{
				Seq: seq, Time: at, Marker: flags&0x80 != 0, AfterGap: flags&0x40 != 0,
				Payload: script[:n], Arrival: time.Unix(int64(seq), 0),
			})
			script = script[n:]
		}
	})
}

// gcPercent is that of the plugin for WebRTC.
const gcPercent = 200

// What an 8 KB picture costs, in fragments of 1200 bytes.
func BenchmarkH264Picture(b *testing.B) {
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	const size, mtu = 8 << 10, 1200
	picture := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range picture {
		picture[i] = byte(1 + r.IntN(255))
	}
	picture[0] = 0x41
	var in []reorder.Packet
	for at := 1; at < size; at += mtu {
		end := min(at+mtu, size)
		head := picture[0] & 0x1f
		if at == 1 {
			head |= 0x80
		}
		if end == size {
			head |= 0x40
		}
		in = append(in, reorder.Packet{Marker: end == size, Payload: append([]byte{picture[0]&0xe0 | 28, head}, picture[at:end]...)})
	}
	out := 0
	d := depack.NewH264(func(u depack.Unit) { out += len(u.Payload) })
	for _, p := range packets(r, originals(b, 1)) {
		d.Push(p) // its random access point
	}
	if out == 0 {
		b.Fatal("no random access point to begin with")
	}
	out = 0
	b.SetBytes(size)
	b.ReportAllocs()
	n := uint32(0)
	for b.Loop() {
		n += 3000
		for _, p := range in {
			p.Time = n
			d.Push(p)
		}
	}
	if want := b.N * (size + 4); out != want {
		b.Errorf("%d bytes came out, want %d", out, want)
	}
}

// What of that is memory: a buffer for the picture, and the copy into it.
func BenchmarkH264PictureFloor(b *testing.B) {
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	const size, mtu = 8 << 10, 1200
	packet := make([]byte, mtu)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		picture := make([]byte, 0, size+4)
		for len(picture) < size {
			picture = append(picture, packet[:min(mtu, size-len(picture))]...)
		}
		kept = picture
	}
}

var kept []byte // so that it is on the heap

func BenchmarkH264(b *testing.B) {
	in := packets(rand.New(rand.NewPCG(1, 1)), originals(b, 300))
	size := 0
	for _, p := range in {
		size += len(p.Payload)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		d := depack.NewH264(func(depack.Unit) {})
		for _, p := range in {
			d.Push(p)
		}
	}
}

// TestMarkerOnEachSlice: a camera that sets the marker on each slice loses the pictures up
// to its next key picture, and from then on none.
func TestMarkerOnEachSlice(t *testing.T) {
	f := func(name string, assembly func(emit func(depack.Unit)) interface{ Push(reorder.Packet) }, sets [][]byte, key, other [2][]byte, want string) {
		t.Run(name, func(t *testing.T) {
			var got []string
			d := assembly(func(u depack.Unit) {
				nalus, err := h264.SplitLengthPrefixed(nil, u.Payload)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%d: %d slices key %v cut %v", u.Time, len(nalus), u.RandomAccess, u.Discontinuity))
			})
			seq := uint16(0)
			send := func(at uint32, marker bool, b []byte) {
				seq++
				d.Push(reorder.Packet{Seq: seq, Time: at, Marker: marker, Payload: b})
			}
			for at := range uint32(6) {
				pair := other
				if at%3 == 0 {
					pair = key
					for _, b := range sets {
						send(at, true, b) // which some do on these, too
					}
				}
				for _, b := range pair {
					send(at, true, b)
				}
			}
			if text := fmt.Sprint(got); text != want {
				t.Errorf("got %s, want %s", text, want)
			}
		})
	}
	// Slices of which the first bit behind the header says whether they are the first.
	c, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	f("h264", func(emit func(depack.Unit)) interface{ Push(reorder.Packet) } { return depack.NewH264(emit) },
		[][]byte{c.SPS, c.PPS}, [2][]byte{{0x65, 0x88, 1}, {0x65, 0x40, 2}}, [2][]byte{{0x41, 0x9a, 3}, {0x41, 0x40, 4}},
		"[0: 1 slices key true cut false 3: 2 slices key true cut true 4: 2 slices key false cut false]")
	f("h265", func(emit func(depack.Unit)) interface{ Push(reorder.Packet) } { return depack.NewH265(emit) },
		[][]byte{vps265, sps265, pps265}, [2][]byte{{0x26, 1, 0xaf, 1}, {0x26, 1, 0x2f, 2}}, [2][]byte{{0x02, 1, 0xd0, 3}, {0x02, 1, 0x50, 4}},
		"[0: 1 slices key true cut false 3: 2 slices key true cut true 4: 2 slices key false cut false]")
}
