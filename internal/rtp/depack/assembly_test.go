package depack_test

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"

	"github.com/headgate/gateway/internal/rtp/depack"
	"github.com/headgate/gateway/internal/rtp/reorder"
	"github.com/headgate/gateway/sdk/media/av1"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/h265"
	"github.com/headgate/gateway/sdk/media/vp9"
)

// A codecCase is one codec, with pictures as a sender would make them and the
// packetizer of another implementation.
type codecCase struct {
	name string
	make func(emit func(depack.Unit)) *depack.Assembly
	// picture returns what the packetizer is given and the unit that is to come of it.
	picture   func(r *rand.Rand, key bool) (input, unit []byte)
	payloader rtp.Payloader
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// bytesFor returns n bytes that look like no start code.
func bytesFor(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(1 + r.IntN(255))
	}
	return b
}

// Parameter sets of x265.
var (
	vps265 = unhex("40010c01ffff016000000300900000030000" + "03003c959409")
	sps265 = unhex("420101016000000300900000030000" + "03003ca00a480b9c9596565924caf016808000000300800000" + "0c84")
	pps265 = unhex("4401c172b46240")
)

var av1Sequence = []byte{0x00, 0x00, 0x00, 0x02, 0xaf, 0xff, 0x9b, 0x5f, 0x30, 0x08}

func codecCases() []codecCase {
	return []codecCase{
		{
			name: "H.265", payloader: &codecs.H265Payloader{},
			make: func(emit func(depack.Unit)) *depack.Assembly { return depack.NewH265(emit) },
			picture: func(r *rand.Rand, key bool) (input, unit []byte) {
				var in, out [][]byte
				kind := byte(1) // TRAIL_R
				if key {
					kind = 19 // IDR_W_RADL
					in = append(in, vps265, sps265, pps265)
				}
				for range 1 + r.IntN(3) {
					s := append([]byte{kind << 1, 1}, bytesFor(r, 10+r.IntN(4000))...)
					in, out = append(in, s), append(out, s)
				}
				for _, n := range in {
					input = append(append(input, 0, 0, 0, 1), n...)
				}
				return input, h264.AppendLengthPrefixed(nil, out...)
			},
		},
		{
			name: "AV1", payloader: &codecs.AV1Payloader{},
			make: depack.NewAV1,
			picture: func(r *rand.Rand, key bool) (input, unit []byte) {
				header := byte(0x30) // an inter frame that is shown
				if key {
					header = 0x10
					unit = av1.OBU{Type: av1.TypeSequenceHeader, Payload: av1Sequence}.Append(unit)
				}
				if r.IntN(3) == 0 {
					unit = av1.OBU{Type: av1.TypeMetadata, Payload: bytesFor(r, 20)}.Append(unit)
				}
				unit = av1.OBU{Type: av1.TypeFrame, Payload: append([]byte{header}, bytesFor(r, 10+r.IntN(5000))...)}.Append(unit)
				return append(av1.OBU{Type: av1.TypeTemporalDelimiter}.Append(nil), unit...), unit
			},
		},
		{
			name: "VP9", payloader: &codecs.VP9Payloader{},
			make: depack.NewVP9,
			picture: func(r *rand.Rand, key bool) (input, unit []byte) {
				head := []byte{0x86, 0}
				if key {
					head = []byte{0x82, 0x49, 0x83, 0x42, 0x00, 0x77, 0xf0, 0x32, 0x34, 0x30}
				}
				unit = slices.Concat(head, bytesFor(r, 10+r.IntN(5000)))
				return unit, unit
			},
		},
	}
}

// sequence are n pictures in packets, a random access point every 30.
func (c codecCase) sequence(r *rand.Rand, n int) (in []reorder.Packet, units [][]byte) {
	seq := uint16(r.Uint32())
	now := time.Unix(1000, 0)
	for i := range n {
		input, unit := c.picture(r, i%30 == 0)
		units = append(units, unit)
		payloads := c.payloader.Payload(uint16(200+r.IntN(1000)), input)
		for j, b := range payloads {
			seq++
			in = append(in, reorder.Packet{Seq: seq, Time: uint32(i) * 3000, Marker: j == len(payloads)-1, Payload: bytes.Clone(b), Arrival: now})
		}
		now = now.Add(33 * time.Millisecond)
	}
	return in, units
}

func (c codecCase) receive(in []reorder.Packet) (out []depack.Unit) {
	d := c.make(func(u depack.Unit) { out = append(out, u) })
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

// Every picture that another implementation packetizes comes out as it went in.
func TestOtherCodecs(t *testing.T) {
	for _, c := range codecCases() {
		for seed := range uint64(20) {
			r := rand.New(rand.NewPCG(seed, 5))
			in, units := c.sequence(r, 70)
			got := c.receive(in)
			if len(got) != len(units) {
				t.Fatalf("%s, seed %d: %d units, want %d", c.name, seed, len(got), len(units))
			}
			for i, u := range got {
				if !bytes.Equal(u.Payload, units[i]) || u.RandomAccess != (i%30 == 0) || u.Discontinuity || (u.Config != nil) != (i == 0) {
					t.Fatalf("%s, seed %d: unit %d: %d bytes, want %d; random access %v, config %v", c.name, seed, i,
						len(u.Payload), len(units[i]), u.RandomAccess, u.Config)
				}
			}
			if k := got[0].Config; k.Width < 16 || k.Height < 16 {
				t.Fatalf("%s: config %+v", c.name, k)
			}
		}
	}
}

// With packets lost, twice and out of order, every unit is one that was sent, and
// what follows a loss is a random access point that says so.
func TestOtherCodecsWithLoss(t *testing.T) {
	for _, c := range codecCases() {
		total, whole := 0, 0
		for seed := range uint64(40) {
			r := rand.New(rand.NewPCG(seed, 6))
			in, units := c.sequence(r, 120)
			next := 0
			for i, u := range c.receive(damage(r, in)) {
				k := slices.IndexFunc(units[next:], func(o []byte) bool { return bytes.Equal(o, u.Payload) })
				if k < 0 {
					t.Fatalf("%s, seed %d: unit %d was not sent, or before another", c.name, seed, i)
				}
				if k > 0 && (!u.RandomAccess || !u.Discontinuity && i > 0) {
					t.Fatalf("%s, seed %d: unit %d follows a loss: random access %v, discontinuity %v", c.name, seed, i, u.RandomAccess, u.Discontinuity)
				}
				next += k + 1
				whole++
			}
			total += len(units)
		}
		if whole < total/10 {
			t.Errorf("%s: %d of %d came through", c.name, whole, total)
		}
	}
}

// fuzzPackets plays a script: for each packet flags, time step, length, payload.
func fuzzPackets(script []byte, push func(reorder.Packet)) {
	var seq uint16
	var at uint32
	for len(script) >= 3 {
		flags, step, n := script[0], script[1], int(script[2])
		script = script[3:]
		n = min(n, len(script))
		seq++
		at += uint32(step)
		push(reorder.Packet{
			Seq: seq, Time: at, Marker: flags&0x80 != 0, AfterGap: flags&0x40 != 0,
			Payload: script[:n], Arrival: time.Unix(int64(seq), 0),
		})
		script = script[n:]
	}
}

// script makes seeds of real packets.
func (c codecCase) script() (out []byte) {
	r := rand.New(rand.NewPCG(9, 9))
	for i := range 3 {
		input, _ := c.picture(r, i == 0)
		for _, b := range c.payloader.Payload(200, input[:min(len(input), 700)]) {
			out = append(append(out, 0, 0, byte(len(b))), b...)
		}
		out = append(out, 0x80, 0, 0)
	}
	return out
}

func FuzzH265(f *testing.F) {
	c := codecCases()[0]
	f.Add(c.script())
	f.Fuzz(func(t *testing.T, script []byte) {
		d := c.make(func(u depack.Unit) {
			nalus, err := h264.SplitLengthPrefixed(nil, u.Payload)
			if err != nil || len(nalus) == 0 {
				t.Fatalf("no normal form: %v", err)
			}
			for _, n := range nalus {
				if k := h265.TypeOf(n); k >= h265.TypeVPS && k <= h265.TypeFiller {
					t.Fatalf("unit of type %d in the payload", k)
				}
			}
		})
		fuzzPackets(script, d.Push)
	})
}

func FuzzAV1(f *testing.F) {
	c := codecCases()[1]
	f.Add(c.script())
	f.Fuzz(func(t *testing.T, script []byte) {
		d := c.make(func(u depack.Unit) {
			obus, err := av1.Split(nil, u.Payload)
			if err != nil || len(obus) == 0 {
				t.Fatalf("no normal form: %v", err)
			}
			for _, o := range obus {
				if o.Type == av1.TypeTemporalDelimiter {
					t.Fatal("a temporal delimiter in the payload")
				}
			}
		})
		fuzzPackets(script, d.Push)
	})
}

func FuzzVP9(f *testing.F) {
	c := codecCases()[2]
	f.Add(c.script())
	f.Fuzz(func(t *testing.T, script []byte) {
		d := c.make(func(u depack.Unit) {
			if _, err := vp9.ParseHeader(u.Payload); err != nil {
				t.Fatalf("no frame: %v", err)
			}
		})
		fuzzPackets(script, d.Push)
	})
}

func TestRed(t *testing.T) {
	var r depack.Red
	payload := []byte{0x80 | 111, 960 >> 6, 960 & 0x3f << 2, 3, 111, 1, 2, 3, 4, 5}
	blocks, ok := r.Split(payload)
	if !ok || len(blocks) != 2 || !bytes.Equal(blocks[0].Payload, []byte{1, 2, 3}) || blocks[0].Behind != 1 || blocks[0].Before != 960 ||
		!bytes.Equal(blocks[1].Payload, []byte{4, 5}) || blocks[1].Behind != 0 || blocks[1].Before != 0 {
		t.Errorf("%+v %v", blocks, ok)
	}
	if blocks, ok := r.Split([]byte{111, 7}); !ok || len(blocks) != 1 || blocks[0].Behind != 0 {
		t.Errorf("without redundancy: %+v %v", blocks, ok)
	}
	if blocks, ok := r.Split([]byte{0x80 | 111, 0, 0, 0, 111, 7}); !ok || len(blocks) != 1 {
		t.Errorf("with an empty block: %+v %v", blocks, ok)
	}
	for _, b := range [][]byte{{}, {0x80}, {0x80, 0, 0, 9, 111, 1}, {111}, bytes.Repeat([]byte{0x80, 0, 0, 0}, 40)} {
		if blocks, ok := r.Split(b); ok {
			t.Errorf("%x is %+v", b, blocks)
		}
	}
}

func FuzzRed(f *testing.F) {
	f.Add([]byte{0x80 | 111, 15, 0, 3, 111, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, payload []byte) {
		var r depack.Red
		blocks, ok := r.Split(payload)
		size := 0
		for _, b := range blocks {
			size += len(b.Payload)
		}
		if ok != (len(blocks) > 0) || size > len(payload) {
			t.Errorf("%v, %d bytes of %d", ok, size, len(payload))
		}
	})
}

// A picture of 8 KB, as it comes from the network.
func BenchmarkPicture8KB(b *testing.B) {
	key := originals(b, 1)[0]
	slice := append([]byte{0x41}, bytes.Repeat([]byte{0x5a, 0xc3}, 4096)...)
	pictures := []original{key}
	for i := range 29 {
		pictures = append(pictures, original{nalus: [][]byte{slice}, time: uint32(i+1) * 3000})
	}
	var in []reorder.Packet
	var seq uint16
	for i, o := range pictures {
		p := &codecs.H264Payloader{}
		var stream []byte
		for _, n := range slices.Concat(o.params, o.nalus) {
			stream = append(append(stream, 0, 0, 0, 1), n...)
		}
		payloads := p.Payload(1200, stream)
		for j, x := range payloads {
			seq++
			in = append(in, reorder.Packet{Seq: seq, Time: uint32(i) * 3000, Marker: j == len(payloads)-1, Payload: bytes.Clone(x), Arrival: time.Unix(1, 0)})
		}
	}
	n := 0
	d := depack.NewH264(func(depack.Unit) { n++ })
	b.ReportAllocs()
	for b.Loop() {
		for _, p := range in {
			d.Push(p)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/picture")
}
