package session

import (
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/rtp/clock"
	"github.com/headgate/gateway/plugins/ingest-webrtc/negotiate"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

// The parser of packets says what an independent one says.
func comparePacket(t *testing.T, b []byte) {
	t.Helper()
	var p packet
	ok := p.parse(b)
	var want rtp.Packet
	if err := want.Unmarshal(b); err != nil {
		return // ours looks at no more of the extension than it is asked for
	}
	if want.Version != 2 {
		if ok { // pion takes any
			t.Fatalf("%x: version %d is parsed", b, want.Version)
		}
		return
	}
	if !ok {
		// pion takes padding that fills more than there is to be none.
		if want.Padding {
			return
		}
		t.Fatalf("%x: not parsed", b)
	}
	if p.seq != want.SequenceNumber || p.time != want.Timestamp || p.ssrc != want.SSRC || p.payloadType != want.PayloadType ||
		p.marker != want.Marker || !slices.Equal(p.payload, want.Payload) {
		t.Fatalf("%x: %+v, want %+v", b, p, want)
	}
	for _, id := range want.GetExtensionIDs() {
		if id == 0 || want.ExtensionProfile != oneByteForm && want.ExtensionProfile&twoByteMask != twoByteForm {
			continue
		}
		if got := p.element(id); len(got) != len(want.GetExtension(id)) {
			t.Fatalf("%x: element %d is %x, want %x", b, id, got, want.GetExtension(id))
		}
	}
}

func TestPacket(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		p := rtp.Packet{
			Header: rtp.Header{
				Version: 2, Marker: r.IntN(2) == 0, PayloadType: uint8(r.IntN(128)), SequenceNumber: uint16(r.Uint32()),
				Timestamp: r.Uint32(), SSRC: r.Uint32(),
			},
			Payload: make([]byte, r.IntN(100)),
		}
		for range r.IntN(3) {
			p.CSRC = append(p.CSRC, r.Uint32())
		}
		long := r.IntN(2) == 0
		for id := uint8(1); id < uint8(1+r.IntN(4)); id++ {
			n := 1 + r.IntN(8)
			if long {
				n = 17 + r.IntN(30) // the two-byte form
			}
			_ = p.SetExtension(id, make([]byte, n))
		}
		b, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		comparePacket(t, b)
		for cut := range min(len(b), 12) {
			if (&packet{}).parse(b[:cut]) {
				t.Fatalf("%d bytes are enough", cut)
			}
		}
	}
}

func FuzzPacket(f *testing.F) {
	p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 96, SequenceNumber: 1}, Payload: []byte{1, 2}}
	_ = p.SetExtension(3, []byte{1, 2})
	b, _ := p.Marshal()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		comparePacket(t, b)
		var p packet
		if p.parse(b) {
			for id := range 16 {
				p.element(uint8(id))
			}
		}
	})
}

// The figures of a receiver report are those of a plain count.
func TestArrivals(t *testing.T) {
	now := time.Unix(1000, 0)
	a := arrivals{rateHz: 90000}
	seq, at := uint16(65500), time.Duration(0)
	lost := 0
	for i := range 1000 {
		seq++
		at += 10 * time.Millisecond
		if i%10 == 5 {
			lost++
			continue
		}
		a.take(seq, uint32(i)*900, at)
	}
	r := a.report(7, now)
	if r.SSRC != 7 || int(r.TotalLost) != lost || r.FractionLost != uint8(256*lost/1000) || r.LastSequenceNumber>>16 != 1 || r.Jitter != 0 {
		t.Errorf("%+v, %d lost", r, lost)
	}
	a.senderReport(0x0123456789abcdef, now)
	a.take(seq+1, 900_000+450, at+20*time.Millisecond) // 5 ms late
	if r = a.report(7, now.Add(time.Second/2)); r.FractionLost != 0 || r.LastSenderReport != 0x456789ab || r.Delay != 32768 || r.Jitter == 0 {
		t.Errorf("%+v", r)
	}
	a.take(seq-300, 0, at) // very late: counted, nothing breaks
	if r = a.report(7, now); r.LastSequenceNumber != uint32(a.highest) {
		t.Errorf("%+v", r)
	}
}

func FuzzReports(f *testing.F) {
	b, _ := (&rtcp.SenderReport{SSRC: 1, NTPTime: 5, RTPTime: 6}).Marshal()
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		r, _ := testReceiver(nil)
		r.tracks[0].ssrc = 1
		r.report(1, b, time.Unix(1000, 0))
	})
}

func TestBitrate(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var b bitrate
	if _, ok := b.tell(at(0)); ok {
		t.Error("something is told before there is a limit")
	}
	b.set(500_000, at(0))
	for s := range 20 {
		b.observe(600_000, at(s)) // it follows, but for a little
	}
	if bps, ok := b.tell(at(20)); bps != 500_000 || !ok || b.ignored {
		t.Errorf("%d %v, ignored %v", bps, ok, b.ignored)
	}
	b.set(0, at(20))
	if bps, ok := b.tell(at(21)); bps != unlimitedBPS || !ok {
		t.Errorf("released: %d %v", bps, ok)
	}
	if _, ok := b.tell(at(31)); ok {
		t.Error("told for ever")
	}
	b.set(500_000, at(40))
	news := 0
	for s := 40; s < 60; s++ {
		b.observe(2_500_000, at(s))
		if b.news() {
			news++
			if s < 46 || s > 48 {
				t.Errorf("noticed after %d s", s-40)
			}
		}
	}
	if !b.ignored || news != 1 {
		t.Errorf("ignored %v, told %d times", b.ignored, news)
	}
	b.observe(400_000, at(60))
	if b.ignored {
		t.Error("who follows at last is still taken for one who does not")
	}
}

// stream are pictures of 10 KB as a sender packetizes them, with sequence numbers in the
// transport.
func stream(tb testing.TB, pictures int) [][]byte {
	c, err := clip.Load()
	if err != nil {
		tb.Fatal(err)
	}
	fill := make([]byte, 10_000)
	for i := range fill {
		fill[i] = byte(1 + i%255)
	}
	var out [][]byte
	var seq uint16
	payloader := &codecs.H264Payloader{}
	for i := range pictures {
		var nalus []byte
		if i == 0 {
			for _, n := range [][]byte{c.SPS, c.PPS, c.Video[0].Payload[4:]} {
				nalus = append(append(nalus, 0, 0, 0, 1), n...)
			}
		} else {
			nalus = append([]byte{0, 0, 0, 1, 0x41}, fill...)
		}
		payloads := payloader.Payload(1200, nalus)
		for k, b := range payloads {
			p := rtp.Packet{
				Header:  rtp.Header{Version: 2, PayloadType: 96, SequenceNumber: seq, Timestamp: uint32(i) * 3000, SSRC: 1, Marker: k == len(payloads)-1},
				Payload: b,
			}
			if err := p.SetExtension(3, binary.BigEndian.AppendUint16(nil, seq)); err != nil {
				tb.Fatal(err)
			}
			raw, err := p.Marshal()
			if err != nil {
				tb.Fatal(err)
			}
			out = append(out, raw)
			seq++
		}
	}
	return out
}

// sinkPublication counts what a receiver emits.
type sinkPublication struct {
	units []*media.AccessUnit
	count int
	keep  bool
}

func (p *sinkPublication) WriteAccessUnit(u *media.AccessUnit) {
	p.count++
	if p.keep {
		p.units = append(p.units, u)
	}
}
func (p *sinkPublication) SetTracks([]media.Track)            {}
func (p *sinkPublication) ReportStats(sdk.IngestStats)        {}
func (p *sinkPublication) ReportSilence(bool)                 {}
func (p *sinkPublication) Codecs() []media.Codec              { return nil }
func (p *sinkPublication) Targets() ([]sdk.TargetState, bool) { return nil, false }
func (p *sinkPublication) Done() <-chan struct{}              { return nil }
func (p *sinkPublication) Err() error                         { return nil }
func (p *sinkPublication) Close(error)                        {}

// testReceiver is a receiver of H.264 (96, RTX 97) and Opus (111, RED 63); sent are
// its reports.
func testReceiver(sent func(rtcp.Packet)) (*receiver, *sinkPublication) {
	pub := &sinkPublication{}
	now := time.Unix(1000, 0)
	s := &session{
		log: slog.New(slog.DiscardHandler), pub: pub, clock: clock.New(now), epoch: now, ssrc: 9, keyframe: make(chan struct{}, 1),
		offer: &negotiate.Offer{
			Video: &negotiate.Section{
				Codec: media.H264, Formats: []negotiate.Format{{PayloadType: 96, Feedback: []string{"nack"}}},
				Resent: []negotiate.Format{{PayloadType: 97}}, TransportCC: 3,
			},
			Audio: &negotiate.Section{
				Codec: media.Opus, Formats: []negotiate.Format{{PayloadType: 111}}, Redundant: []negotiate.Format{{PayloadType: 63}}, TransportCC: 3,
			},
		},
	}
	r := newReceiver(s)
	r.arm = func(time.Duration) {} // time is the test's
	if r.send = sent; sent == nil {
		r.send = func(rtcp.Packet) {}
	}
	return r, pub
}

// patch gives a packet other numbers.
func patch(b []byte, seq uint16, time uint32) {
	binary.BigEndian.PutUint16(b[2:], seq)
	binary.BigEndian.PutUint32(b[4:], time)
	binary.BigEndian.PutUint16(b[17:], seq) // of the transport
}

// What is lost is asked for, and what comes as RTX takes its place.
func TestRetransmission(t *testing.T) {
	var nacks []uint16
	twccs := 0
	r, pub := testReceiver(func(p rtcp.Packet) {
		switch p := p.(type) {
		case *rtcp.TransportLayerNack:
			if p.MediaSSRC != 1 || p.SenderSSRC != 9 {
				t.Errorf("%+v", p)
			}
			for _, n := range p.Nacks {
				nacks = append(nacks, n.PacketList()...)
			}
		case *rtcp.TransportLayerCC:
			twccs++
		}
	})
	pub.keep = true
	packets := stream(t, 20)
	now := time.Unix(1000, 0)
	const lost = 30
	for i, b := range packets {
		now = now.Add(3 * time.Millisecond)
		if i == lost {
			continue
		}
		r.take(b, now)
		if i == lost+2 {
			var p rtp.Packet
			if err := p.Unmarshal(packets[lost]); err != nil {
				t.Fatal(err)
			}
			p.SSRC, p.PayloadType, p.SequenceNumber = 2, 97, 7
			p.Payload = append(binary.BigEndian.AppendUint16(nil, lost), p.Payload...)
			again, err := p.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			r.take(again, now)
			r.take(again, now) // and once more
		}
	}
	if !slices.Equal(nacks, []uint16{lost}) || twccs == 0 {
		t.Errorf("asked for %v, %d reports on the transport", nacks, twccs)
	}
	for i, u := range pub.units {
		if u.Discontinuity || i > 0 && (u.DTS-pub.units[i-1].DTS-time.Second/30).Abs() > time.Millisecond {
			t.Errorf("unit %d: %v, %v", i, u.DTS, u.Discontinuity)
		}
	}
	c := r.tracks[0].buffer.Counts
	if len(pub.units) != 20 || c.Recovered != 1 || c.Duplicates != 1 || c.Lost != 0 || r.session.figures.resent.Load() != 2 {
		t.Errorf("%d units, %+v", len(pub.units), c)
	}
}

// A packet of sound that is lost comes with the next one.
func TestRedundancy(t *testing.T) {
	r, pub := testReceiver(nil)
	pub.keep = true
	now := time.Unix(1000, 0)
	frame := func(i int) []byte { return []byte{0xfc, byte(i), 1, 2, 3} } // 20 ms, stereo
	for i := range 50 {
		now = now.Add(20 * time.Millisecond)
		if i%5 == 3 {
			continue
		}
		payload := append([]byte{111}, frame(i)...)
		if i > 0 {
			payload = slices.Concat([]byte{0x80 | 111, 960 >> 6, 960 & 0x3f << 2, 5, 111}, frame(i-1), frame(i))
		}
		p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 63, SequenceNumber: uint16(i), Timestamp: uint32(i) * 960, SSRC: 5}, Payload: payload}
		b, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		r.take(b, now)
	}
	if len(pub.units) != 50 {
		t.Fatalf("%d packets of sound", len(pub.units))
	}
	for i, u := range pub.units {
		if !slices.Equal(u.Payload, frame(i)) || u.Discontinuity || i > 0 && u.PTS-pub.units[i-1].PTS != 20*time.Millisecond {
			t.Errorf("packet %d: %x at %v", i, u.Payload, u.PTS)
		}
	}
	if n := r.session.figures.redundant.Load(); n != 10 {
		t.Errorf("%d were taken from redundancy", n)
	}
}

// Another source takes the place of one that has fallen silent, and not before.
func TestSourceChanges(t *testing.T) {
	r, pub := testReceiver(nil)
	now := time.Unix(1000, 0)
	send := func(ssrc uint32, from uint16) {
		for i, b := range stream(t, 5) {
			now = now.Add(3 * time.Millisecond)
			binary.BigEndian.PutUint32(b[8:], ssrc)
			patch(b, from+uint16(i), uint32(from)*90+binary.BigEndian.Uint32(b[4:]))
			r.take(b, now)
		}
	}
	send(1, 0)
	send(2, 40000) // an intruder
	if pub.count != 5 || r.tracks[0].ssrc != 1 {
		t.Errorf("%d units, source %d", pub.count, r.tracks[0].ssrc)
	}
	now = now.Add(2 * time.Second)
	send(2, 50000)
	if pub.count != 10 || r.tracks[0].ssrc != 2 {
		t.Errorf("%d units, source %d", pub.count, r.tracks[0].ssrc)
	}
}

// Any packets: no panic, and everything stays within its bounds.
func FuzzReceive(f *testing.F) {
	var seed []byte
	for _, b := range stream(f, 1)[:2] {
		b = b[:min(len(b), 200)]
		seed = append(append(seed, 1, byte(len(b))), b...)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, script []byte) {
		r, pub := testReceiver(nil)
		now := time.Unix(1000, 0)
		for len(script) >= 2 {
			now = now.Add(time.Duration(script[0]) * time.Millisecond)
			n := min(int(script[1]), len(script)-2)
			r.take(script[2:2+n], now)
			script = script[2+n:]
		}
		r.expire()
		r.close()
		if pub.count > 1000 {
			t.Errorf("%d units", pub.count)
		}
	})
}

// A packet on the whole way behind its decryption, reports to the sender included.
func BenchmarkReceive(b *testing.B) {
	packets := stream(b, 60)
	r, pub := testReceiver(nil)
	now := time.Unix(1000, 0)
	b.ReportAllocs()
	n, seq := 0, uint16(0)
	var turn uint32
	for b.Loop() {
		p := packets[n%len(packets)]
		patch(p, seq, binary.BigEndian.Uint32(p[4:])+turn)
		seq++
		if n++; n == len(packets) {
			turn = 60 * 3000
		}
		now = now.Add(3700 * time.Microsecond)
		r.take(p, now)
	}
	b.ReportMetric(float64(pub.count)/float64(n), "units/op")
}
