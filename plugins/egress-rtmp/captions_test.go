package egressrtmp

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/test/peers"
)

// TestCaptionsEnhanced: closed captions (A/53) in pictures of H.265 stay with them, in
// order, over Enhanced RTMP, and another implementation reads them.
func TestCaptionsEnhanced(t *testing.T) {
	peers.Need(t, "ffmpeg")
	m := mix(t, media.H265)
	const head = "\xb5\x00\x31GA94\x03\xc1\xff\xfc"
	for i, u := range m.units {
		message := head + fmt.Sprintf("%02d", i) + "\xff"
		const prefixSEI = 39 << 1
		nalu := append([]byte{prefixSEI, 1, 4, byte(len(message))}, message+"\x80"...)
		u.Payload = append(append(binary.BigEndian.AppendUint32(nil, uint32(len(nalu))), nalu...), u.Payload...)
	}
	find := func(b []byte) string {
		_, rest, _ := strings.Cut(string(b), head)
		return rest[:min(2, len(rest))]
	}
	opts := Options{Codecs: carried()}

	r := receive(t)
	s := open(t, "rtmp://"+r.addr+"/app/key", opts, m.tracks)
	write(t, s, m.units...)
	closeSink(t, s)
	n := 0
	for _, msg := range r.all(t) {
		packets, err := rtmp.Packets(nil, msg)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packets {
			if p.Kind != rtmp.PacketFrame {
				continue
			}
			if got, want := find(p.Payload), fmt.Sprintf("%02d", n); got != want {
				t.Errorf("picture %s has the caption %q", want, got)
			}
			n++
		}
	}
	if n != len(m.units) {
		t.Errorf("%d pictures, want %d", n, len(m.units))
	}

	e := readElsewhere(t)
	s = open(t, "rtmp://"+e.addr+"/app/key", opts, m.tracks)
	write(t, s, m.units...)
	closeSink(t, s)
	<-e.done
	var got, want []string
	for _, b := range e.nalus {
		if c := find(b); c != "" {
			got = append(got, c)
		}
	}
	for i := range m.units {
		want = append(want, fmt.Sprintf("%02d", i))
	}
	if e.err != nil || len(got) < len(want)-1 || strings.Join(got, " ") != strings.Join(want[:len(got)], " ") {
		t.Errorf("%v; read %v", e.err, got)
	}
}
