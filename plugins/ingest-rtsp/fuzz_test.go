package ingestrtsp

import (
	"encoding/binary"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/sdp"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/test/camera"
	"github.com/headgate/gateway/test/intake"
)

// A recorder keeps what a session makes, and sees to it that tracks come first.
type recorder struct{ intake.Recorder }

func (r *recorder) WriteAccessUnit(u *media.AccessUnit) {
	for _, t := range r.Tracks() {
		if t.ID == u.Track && !t.Complete() {
			panic("a unit before its config")
		}
	}
	r.Recorder.WriteAccessUnit(u)
}

// describeText parses a description as the library does.
func describeText(text []byte) (*description.Session, error) {
	var s sdp.SessionDescription
	if err := s.Unmarshal(text); err != nil {
		return nil, err
	}
	d := &description.Session{}
	return d, d.Unmarshal(&s)
}

// packetsOf are the packets that b stands for: each of which track, how far sequence
// and time go on, whether it has the marker, and its payload.
func packetsOf(b []byte) (list []struct {
	track  int
	report bool
	packet *rtp.Packet
}) {
	var seq [4]uint16
	var at [4]uint32
	for len(b) >= 6 && len(list) < 2000 {
		head, step, size := b[0], int8(b[1]), int(binary.BigEndian.Uint16(b[4:]))
		track := int(head & 3)
		seq[track] += uint16(int16(step))
		at[track] += uint32(int32(int16(binary.BigEndian.Uint16(b[2:]))))
		b = b[6:]
		size = min(size, len(b))
		list = append(list, struct {
			track  int
			report bool
			packet *rtp.Packet
		}{track, head&0x40 != 0, &rtp.Packet{
			Header: rtp.Header{Version: 2, SequenceNumber: seq[track], Timestamp: at[track], Marker: head&0x80 != 0, SSRC: uint32(head & 0x10)}, Payload: b[:size],
		}})
		b = b[size:]
	}
	return list
}

// FuzzSession: whatever a description says and packets hold, times rise, no unit is
// empty or comes before its config, and pictures begin at a random access point.
func FuzzSession(f *testing.F) {
	const head = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n"
	seed := func(text string, packets ...[]byte) {
		var b []byte
		for _, p := range packets {
			b = append(b, p...)
		}
		f.Add([]byte(head+text), b)
	}
	packet := func(track byte, marker bool, payload ...byte) []byte {
		b := []byte{track, 1, 0x0c, 0, 0, 0}
		if marker {
			b[0] |= 0x80
		}
		binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
		return append(b, payload...)
	}
	card, err := clip.Load()
	if err != nil {
		f.Fatal(err)
	}
	var pictures [][]byte
	p := camera.NewPacker(card, camera.Script{})
	player := card.NewPlayer()
	for range 4 {
		for _, pkt := range p.Pack(player.Next()) {
			pictures = append(pictures, packet(0, pkt.Marker, pkt.Payload...))
		}
	}
	seed("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n", pictures...)
	seed("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\n", packet(0, false, 0x40, 1, 12), packet(0, true, 0x26, 1, 0x80))
	seed("m=audio 0 RTP/AVP 97\r\na=rtpmap:97 mpeg4-generic/48000/2\r\na=fmtp:97 streamtype=5;mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1190\r\n",
		packet(0, true, 0, 16, 0, 16, 1, 2), packet(0, true, 0, 32, 0, 8, 0, 8, 1, 2))
	seed("m=audio 0 RTP/AVP 97\r\na=rtpmap:97 MP4A-LATM/48000/2\r\na=fmtp:97 cpresent=0; config=400023203FC0\r\n", packet(0, true, 2, 1, 2))
	seed("m=audio 0 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\nm=audio 0 RTP/AVP 8\r\nm=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n",
		packet(0, true, 0xfc, 1, 2), packet(1, true, make([]byte, 400)...), packet(0x41, false))
	f.Fuzz(func(t *testing.T, text, packets []byte) {
		d, err := describeText(text)
		if err != nil {
			return
		}
		s := newSession(d, slog.Default())
		defer s.close()
		now := time.Unix(1000, 0)
		s.now = func() time.Time { return now }
		r := &recorder{}
		s.start(r)
		for _, p := range packetsOf(packets) {
			if p.track >= len(s.tracks) {
				continue
			}
			tr := s.tracks[p.track]
			now = now.Add(10 * time.Millisecond)
			if p.report {
				s.report(tr.media, &rtcp.SenderReport{NTPTime: uint64(p.packet.SequenceNumber) << 32, RTPTime: p.packet.Timestamp})
				continue
			}
			tr.take(p.packet)
		}
		s.stats("tcp")
		for id, units := range r.Units {
			for i, u := range units {
				if len(u.Payload) == 0 || u.PTS < u.DTS || i > 0 && u.DTS <= units[i-1].DTS {
					t.Fatalf("unit %d of track %d: %d bytes at %v/%v", i, id, len(u.Payload), u.PTS, u.DTS)
				}
				if i == 0 && !u.RandomAccess {
					t.Fatalf("track %d begins at no random access point", id)
				}
			}
		}
	})
}

// FuzzSource: no error quotes a URL, and what is taken names a host.
func FuzzSource(f *testing.F) {
	f.Add("rtsp://user:S3CRETpass@camera:554/path?x=y#transport=tcp")
	f.Add("rtsps://[fe80::1%25eth0]/a#fingerprint=00&transport=udp")
	f.Add("rtsp://%zz")
	f.Fuzz(func(t *testing.T, raw string) {
		s, err := parseSource(secret.New(raw), transportAuto)
		if err == nil {
			if s.url.Hostname() == "" || s.address() == "" {
				t.Errorf("%q names no host", raw)
			}
			return
		}
		// What it says of itself looks like a URL, too.
		told := strings.ReplaceAll(err.Error(), "rtsp://user:password@host:port/path", "")
		if len(raw) > 8 && strings.Contains(told, raw) {
			t.Errorf("%q is quoted: %v", raw, err)
		}
	})
}
