package ingestrtsp

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
)

// TestDescribe: which tracks are taken of descriptions as cameras write them, and what is
// left out.
func TestDescribe(t *testing.T) {
	f := func(name, text, tracks, leftOut string) {
		t.Helper()
		head := "v=0\r\no=- 1 1 IN IP4 10.0.0.7\r\ns=Media Presentation\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\na=range:npt=now-\r\n"
		d, err := describeText([]byte(head + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\r\n") + "\r\n"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		s := newSession(d, slog.Default())
		defer s.close()
		var got []string
		for _, tr := range s.tracks {
			got = append(got, fmt.Sprintf("%s %dx%d %d/%d", tr.track.Codec, tr.track.Width, tr.track.Height, tr.track.SampleRateHz, tr.track.Channels))
		}
		if text := strings.Join(got, ", "); text != tracks {
			t.Errorf("%s: tracks %q, want %q", name, text, tracks)
		}
		if text := strings.Join(slices.Sorted(maps.Keys(s.leftOut)), ", "); text != leftOut {
			t.Errorf("%s: left out %q, want %q", name, text, leftOut)
		}
	}
	f("metadata and a back channel", `
m=video 0 RTP/AVP 96
a=recvonly
a=control:trackID=1
a=rtpmap:96 H264/90000
a=fmtp:96 profile-level-id=42C01E; packetization-mode=1
m=audio 0 RTP/AVP 8
a=recvonly
a=control:trackID=2
m=audio 0 RTP/AVP 0
a=sendonly
a=control:trackID=3
m=application 0 RTP/AVP 107
a=recvonly
a=control:trackID=4
a=rtpmap:107 vnd.onvif.metadata/90000`,
		"h264 0x0 0/0, pcma 0x0 8000/1", "back channel, vnd.onvif.metadata")
	f("H.265 without sets, sound of many kinds", `
m=video 0 RTP/AVP 96
a=rtpmap:96 H265/90000
m=audio 0 RTP/AVP 97
a=rtpmap:97 MPEG4-GENERIC/16000/1
a=fmtp:97 streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1408
m=audio 0 RTP/AVP 98
a=rtpmap:98 G726-32/8000
m=audio 0 RTP/AVP 99
a=rtpmap:99 PCMU/16000
m=audio 0 RTP/AVP 100
a=rtpmap:100 opus/48000/2`,
		"h265 0x0 0/0, aac 0x0 16000/1, pcmu 0x0 16000/1, opus 0x0 48000/1", "G726")
	f("what is not carried", `
m=video 0 RTP/AVP 26
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=2
m=video 0 RTP/AVP 98 99
a=rtpmap:98 H264/90000
a=rtpmap:99 H265/90000`,
		"h264 0x0 0/0", "H.264 with interleaved packets, M-JPEG, second format of one track")
}

// TestOptions: what cannot be used is said of the option.
func TestOptions(t *testing.T) {
	f := func(o Options, want string) {
		t.Helper()
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
	f(Options{Transport: "quic"}, "transport: there is no such transport; want auto, udp or tcp")
	f(Options{Timeout: time.Millisecond}, "timeout: out of range; want from 1s to 1m0s")
	f(Options{Listen: "8554"}, `listen: "8554" is not an address; want host:port`)
	f(Options{Listen: "127.0.0.1:99999"}, `listen: "127.0.0.1:99999" has no valid port; want a port from 1 to 65535`)
	f(Options{Listen: "127.0.0.1:8554", ListenUDP: "127.0.0.1:8001"}, "listen_udp: the port is odd or 0; want an even port")
	f(Options{ListenUDP: "127.0.0.1:8000"}, "listen_udp: needs listen, ")
	f(Options{ListenTLS: "127.0.0.1:322"}, "listen_tls, certificate and certificate_key belong together; want all of them or none")
	pem := sdk.File{Name: "x.pem", Content: []byte("x")}
	f(Options{ListenTLS: "127.0.0.1:322", Certificate: pem, CertificateKey: pem}, "certificate: x.pem and x.pem are no certificate and its key")
	f(Options{CA: pem}, "ca: no certificate in x.pem")
}
