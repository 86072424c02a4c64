package negotiate_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pion/sdp/v3"

	"github.com/headgate/gateway/plugins/ingest-webrtc/negotiate"
	"github.com/headgate/gateway/sdk/media"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func fixture(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func refused(t *testing.T, offer string, want negotiate.Reason, words ...string) {
	t.Helper()
	o, err := negotiate.Parse([]byte(offer))
	if err == nil {
		err = o.Choose(nil)
	}
	var r *negotiate.Refusal
	if !errors.As(err, &r) || r.Reason != want {
		t.Errorf("error %v, want %s", err, want)
		return
	}
	for _, w := range words {
		if !strings.Contains(r.Detail, w) {
			t.Errorf("%q does not say %q", r.Detail, w)
		}
	}
}

func TestChromium(t *testing.T) {
	o, err := negotiate.Parse([]byte(fixture(t, "chromium-156-opus-h264.sdp")))
	if err != nil {
		t.Fatal(err)
	}
	var pts []uint8
	for _, f := range o.Video.Formats {
		pts = append(pts, f.PayloadType)
	}
	if !slices.Equal(pts, []uint8{102, 108, 116}) {
		t.Errorf("payload types %v", pts)
	}
	if o.Video.SSRC != 3966389204 || o.Video.MID != "1" || o.Audio.MID != "0" || o.Passive || o.Ufrag != "c5dO" {
		t.Errorf("video %+v, offer %+v", o.Video, o)
	}
	want := []media.Codec{media.Opus, media.PCMU, media.PCMA, media.VP8, media.H264, media.AV1, media.VP9}
	if !slices.Equal(o.Codecs, want) {
		t.Errorf("codecs %v, want %v", o.Codecs, want)
	}
	if fb := o.Video.Formats[0].Feedback; !slices.Equal(fb, []string{"goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"}) {
		t.Errorf("feedback %q", fb)
	}
}

func TestFirefoxWithoutH264(t *testing.T) {
	refused(t, fixture(t, "firefox-esr-153-no-h264.sdp"), negotiate.UnusableCodec,
		"your browser offered VP8, VP9, AV1; this route needs H264")
}

// Layers are taken out: the gateway receives one picture.
func TestSimulcast(t *testing.T) {
	o, err := negotiate.Parse([]byte(fixture(t, "chromium-156-simulcast-qhf.sdp")))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(o.SDP, "a=simulcast") || strings.Contains(o.SDP, "a=rid:") {
		t.Error("the layers are still in the offer")
	}
}

func TestRefusals(t *testing.T) {
	good := fixture(t, "chromium-156-opus-h264.sdp")
	change := func(old, with string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in the offer", old)
		}
		return strings.ReplaceAll(good, old, with)
	}
	head, _, _ := strings.Cut(good, "m=audio")
	at := strings.Index(good, "m=video")
	refused(t, "", negotiate.Malformed)
	refused(t, "hello", negotiate.Malformed)
	refused(t, good[:at/2], negotiate.Malformed)
	refused(t, head, negotiate.NoMedia)
	refused(t, change("a=sendonly", "a=recvonly"), negotiate.Direction, "recvonly")
	refused(t, change("a=sendonly", "a=inactive"), negotiate.Direction, "inactive")
	refused(t, change("m=video 9", "m=video 0"), negotiate.Direction)
	refused(t, good+good[at:], negotiate.TooManyTracks, "video")
	refused(t, change("opus/48000/2", "vorbis/48000/2"), negotiate.UnusableCodec, "needs Opus", "vorbis")
	refused(t, change("a=rtcp-mux\r\n", ""), negotiate.Transport, "rtcp-mux")
	refused(t, change("a=ice-ufrag:c5dO\r\n", ""), negotiate.Malformed, "ice-ufrag")
	refused(t, change("a=fingerprint:", "a=thumbprint:"), negotiate.Malformed, "fingerprint")
	refused(t, good+"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:2\r\n", negotiate.Unsupported, "data channel")
	refused(t, good+"m=text 9 UDP/TLS/RTP/SAVPF 98\r\n", negotiate.Unsupported, "text")
	refused(t, good+strings.Repeat("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", 20), negotiate.Malformed, "16")
	refused(t, change("m=audio 9 UDP/TLS/RTP/SAVPF 111", "m=audio 9 UDP/TLS/RTP/SAVPF"+strings.Repeat(" 111", 70)), negotiate.Malformed, "64")
	refused(t, change("a=mid:0\r\n", strings.Repeat("a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n", 80)), negotiate.Malformed, "candidates")
}

func TestVideoOnlyAndAudioOnly(t *testing.T) {
	good := fixture(t, "chromium-156-opus-h264.sdp")
	audio, video := strings.Index(good, "m=audio"), strings.Index(good, "m=video")
	o, err := negotiate.Parse([]byte(good[:video]))
	if err != nil || o.Video != nil || o.Audio == nil {
		t.Errorf("audio only: %+v, %v", o, err)
	}
	o, err = negotiate.Parse([]byte(good[:audio] + good[video:]))
	if err != nil || o.Video == nil || o.Audio != nil {
		t.Errorf("video only: %+v, %v", o, err)
	}
}

// Only single NAL unit mode, and parameter sets in the description: as simple
// senders have it.
func TestSimpleSender(t *testing.T) {
	const offer = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=setup:passive\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n" +
		"a=fingerprint:sha-256 A4:93:20:1C:F9:AF:72:C7:5C:5F:2E:0B:8A:F2:A5:21:43:86:7A:4B:D4:EE:80:61:4C:E1:E0:B0:A6:D8:1E:AE\r\n" +
		"m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:v\r\na=rtcp-mux\r\na=sendonly\r\na=rtpmap:96 h264/90000\r\n" +
		"a=fmtp:96 profile-level-id=42c01f; sprop-parameter-sets=Z0LAHtkDxWhAAAADAEAAAAwDxYuS,aMuMsg==\r\n"
	o, err := negotiate.Parse([]byte(offer))
	if err != nil {
		t.Fatal(err)
	}
	if !o.Passive || len(o.Video.Formats) != 1 || len(o.Video.ParameterSets) != 2 || o.Video.ParameterSets[1][0] != 0x68 {
		t.Errorf("%+v", o.Video)
	}
}

const plainAnswer = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n" +
	"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=setup:passive\r\na=mid:0\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\na=rtcp-mux\r\na=rtcp-rsize\r\n" +
	"a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1;usedtx=1;maxplaybackrate=48000\r\n" +
	"a=candidate:1 1 udp 2130706431 fd00::2 8189 typ host\r\na=candidate:1 2 udp 2130706431 fd00::2 8189 typ host\r\n" +
	"a=candidate:2 1 udp 2130706431 10.0.0.2 8189 typ host\r\na=candidate:2 2 udp 2130706431 10.0.0.2 8189 typ host\r\n" +
	"a=candidate:3 1 udp 2130706431 192.0.2.7 8189 typ host\r\na=end-of-candidates\r\na=recvonly\r\n" +
	"m=video 9 UDP/TLS/RTP/SAVPF 102\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=rtcp-mux\r\na=rtpmap:102 H264/90000\r\n" +
	"a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\na=recvonly\r\n"

func TestFinish(t *testing.T) {
	got, err := negotiate.Finish(plainAnswer, 0)
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/finish.golden"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	again, err := negotiate.Finish(got, 0)
	if err != nil || again != got {
		t.Errorf("finished twice: %v\n%s", err, again)
	}
}

// The video has the ceiling that is set, the sound has none.
func TestCeiling(t *testing.T) {
	got, err := negotiate.Finish(plainAnswer, 6_000_000)
	if err != nil {
		t.Fatal(err)
	}
	audio, video, _ := strings.Cut(got, "m=video")
	if strings.Contains(audio, "b=") || !strings.Contains(video, "b=AS:6000\r\nb=TIAS:6000000\r\n") {
		t.Error(got)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"chromium-156-opus-h264.sdp", "chromium-156-simulcast-qhf.sdp", "firefox-esr-153-no-h264.sdp"} {
		f.Add([]byte(fixture(f, name)))
	}
	f.Add([]byte(plainAnswer))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := negotiate.Parse(b)
		if err != nil {
			var r *negotiate.Refusal
			if !errors.As(err, &r) || r.Detail == "" || len(r.Detail) > 1000 {
				t.Fatalf("error %v", err)
			}
			return
		}
		var d sdp.SessionDescription
		if err := d.UnmarshalString(o.SDP); err != nil {
			t.Fatalf("the offer cannot be read again: %v", err)
		}
	})
}
