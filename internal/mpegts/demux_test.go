package mpegts

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// collected is what a demuxer handed over, by codec.
type collected map[media.Codec][]PES

func demux(ts []byte, step int) (collected, *Demuxer) {
	got := collected{}
	d := &Demuxer{OnPES: func(p PES) { got[p.Stream.Codec] = append(got[p.Stream.Codec], p) }}
	for len(ts) > 0 {
		n := min(step, len(ts))
		d.Write(ts[:n])
		ts = ts[n:]
	}
	d.Flush()
	return got, d
}

// sample is a stream of n pictures and as many sounds of each kind, from a time on.
func sample(t testing.TB, n int, from time.Duration) []byte {
	t.Helper()
	m, err := NewMuxer(tracks)
	if err != nil {
		t.Fatal(err)
	}
	var ts []byte
	for i := range n {
		at := from + time.Duration(i)*33*time.Millisecond
		for _, u := range []*media.AccessUnit{picture(i, at, 1+i*97%400*500), sound(2, i, at), sound(3, i, at)} {
			if ts, err = m.AppendUnit(ts, u); err != nil {
				t.Fatal(err)
			}
		}
	}
	return ts
}

// TestDemuxOwn: what the muxer writes comes back, however the bytes are cut.
func TestDemuxOwn(t *testing.T) {
	ts := sample(t, 200, 0)
	for _, step := range []int{1, 100, 188, 1316, 65536, len(ts)} {
		got, d := demux(ts, step)
		for _, c := range []media.Codec{media.H264, media.AAC, media.Opus} {
			if len(got[c]) != 200 {
				t.Fatalf("in steps of %d: %d of %s, want 200", step, len(got[c]), c)
			}
			for i, p := range got[c] {
				if want := Ticks(epoch + time.Duration(i)*33*time.Millisecond); p.DTS != want || p.Lost || !p.HasTime {
					t.Fatalf("%s %d at %d, want %d; %v", c, i, p.DTS, want, p.Lost)
				}
			}
		}
		if c := d.Counts(); c.Lost+c.Damaged+c.Unsynced != 0 {
			t.Errorf("in steps of %d: %+v", step, c)
		}
	}
}

// TestDemuxLoss: a packet that is missing costs the unit that it belongs to, and
// the next one says so; rubbish between packets costs nothing.
func TestDemuxLoss(t *testing.T) {
	ts := sample(t, 60, 0)
	var cut []byte
	dropped := 0
	for n := 0; n < len(ts); n += PacketBytes {
		p := ts[n : n+PacketBytes]
		if PID(p) == firstPID && p[1]&0x40 == 0 && n > len(ts)/2 && dropped == 0 {
			dropped++
			continue
		}
		if n == len(ts)/4/PacketBytes*PacketBytes {
			cut = append(cut, bytes.Repeat([]byte{1, 0x47, 2}, 50)...)
		}
		cut = append(cut, p...)
	}
	got, d := demux(cut, 1316)
	lost := 0
	for _, p := range got[media.H264] {
		if p.Lost {
			lost++
		}
	}
	if len(got[media.H264]) != 59 || lost != 1 || len(got[media.AAC]) != 60 {
		t.Errorf("%d pictures, %d that say lost, %d sounds; %+v", len(got[media.H264]), lost, len(got[media.AAC]), d.Counts())
	}
}

// TestSharedMap: two programs have their maps on one PID, which is allowed; the one that
// is asked for is read, and without a wish the first.
func TestSharedMap(t *testing.T) {
	m, err := NewMuxer(tracks[:1])
	if err != nil {
		t.Fatal(err)
	}
	section := func(pid uint16, cc *counter, table byte, id uint16, body ...byte) []byte {
		m.section = append(m.section[:0], body...)
		return m.appendSection(nil, pid, cc, table, id, 0)
	}
	var ts []byte
	for range 3 {
		ts = append(ts, section(patPID, &m.pat, 0, 1, 0, 1, 0xe0|pmtPID>>8, pmtPID&0xff, 0, 2, 0xe0|pmtPID>>8, pmtPID&0xff)...)
		ts = append(ts, section(pmtPID, &m.pmt, 2, 1, 0xe1, 0, 0xf0, 0, typeH264, 0xe1, 0, 0xf0, 0)...)
		ts = append(ts, section(pmtPID, &m.pmt, 2, 2, 0xe1, 1, 0xf0, 0, typeADTS, 0xe1, 1, 0xf0, 0)...)
	}
	f := func(program int, want media.Codec) {
		t.Helper()
		var got []media.Codec
		d := Demuxer{Program: program, OnStreams: func(list []Stream) {
			for _, s := range list {
				got = append(got, s.Codec)
			}
		}}
		d.Write(ts)
		if !slices.Equal(got, []media.Codec{want}) {
			t.Errorf("program %d of %v: %v, want %s once", program, d.Programs(), got, want)
		}
	}
	f(0, media.H264)
	f(1, media.H264)
	f(2, media.AAC)
}

// TestMPEGAudio: both of its stream types are handed over; the map does not tell the
// layer. AAC in LATM is not.
func TestMPEGAudio(t *testing.T) {
	for kind, want := range map[byte]Stream{
		typeMPEG1Audio: {Codec: media.MP2, Name: "mpeg audio", Language: "deu"},
		typeMPEG2Audio: {Codec: media.MP2, Name: "mpeg audio", Language: "deu"},
		typeLATM:       {Name: "aac in latm", Language: "deu"},
	} {
		want.PID, want.Type = 256, kind
		if got := describe(kind, 256, []byte("\x0a\x04deu\x00")); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

func FuzzDemux(f *testing.F) {
	f.Add(sample(f, 3, 0))
	f.Add(AppendClock(AppendNull(nil), 256, 3, 1234567, true))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _ := demux(b, 188)
		other, _ := demux(b, 61)
		if len(b)%PacketBytes == 0 && len(b) > 0 && b[0] == syncByte && len(got[media.H264]) != len(other[media.H264]) {
			// Cut in two at another place, a resynchronisation may find another packet;
			// in step it may not.
			for n := 0; n < len(b); n += PacketBytes {
				if b[n] != syncByte {
					return
				}
			}
			t.Errorf("%d pictures, and %d in other steps", len(got[media.H264]), len(other[media.H264]))
		}
	})
}
