package egressrtmp

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/codecs"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/test/peers"
)

// checkRecording checks what a peer recorded of the whole card.
func checkRecording(t *testing.T, file string, m testMedia) {
	t.Helper()
	var haveVideo, haveAudio bool
	for _, s := range peers.Streams(t, file) {
		switch s.Type {
		case "video":
			haveVideo = s.Codec == "h264" && s.Width == m.tracks[0].Width && s.Height == m.tracks[0].Height
		case "audio":
			haveAudio = s.Codec == "aac" && s.Profile == "LC" && s.SampleRate == "48000" && s.Channels == 2
		}
	}
	if !haveVideo || !haveAudio {
		t.Errorf("%s: streams %+v", file, peers.Streams(t, file))
	}
	packets := peers.Packets(t, file)
	if n, want := peers.Count(packets, "video"), len(m.of(videoID)); n != want {
		t.Errorf("%d pictures, want %d", n, want)
	}
	if n, want := peers.Count(packets, "audio"), len(m.of(audioID)); n < want-2 || n > want {
		t.Errorf("%d audio frames, want %d", n, want)
	}
	if packets[0].DTS != 0 {
		t.Errorf("it begins at %v", packets[0].DTS)
	}
	if err := errors.Join(peers.CheckMonotonic(packets), peers.CheckDecodes(t, file)); err != nil {
		t.Error(err)
	}
}

// recorded waits until nginx has closed the n-th recording of an app.
func recorded(t *testing.T, n *peers.Nginx, app, key string, count int) string {
	t.Helper()
	var file string
	peers.Wait(t, 20*time.Second, "a recording", func() error {
		if _, _, err := n.Publisher(app, key); err == nil {
			return errors.New("nginx still has a publisher")
		}
		list := n.Recordings(t, app)
		if len(list) < count {
			return errors.New("there is no file yet")
		}
		file = list[count-1]
		return nil
	})
	return file
}

// TestNginx publishes the card, of which the timeline is five hours old, to a
// legacy CDN, both ways of interleaving, and through TLS.
func TestNginx(t *testing.T) {
	peers.Need(t, "nginx", "ffmpeg", "ffprobe", "stunnel")
	n := peers.StartNginx(t)
	m := load(t, 5*time.Hour)
	publish := func(url string, opts Options) {
		t.Helper()
		s := open(t, url, opts, m.tracks)
		write(t, s, m.units...)
		closeSink(t, s)
	}
	publish(n.URL("a", "low"), Options{})
	checkRecording(t, recorded(t, n, "a", "low", 1), m)
	publish(n.URL("a", "strict"), Options{Interleave: InterleaveStrict})
	checkRecording(t, recorded(t, n, "a", "strict", 2), m)

	ca := peers.NewCA(t)
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := ca.Issue(t, "127.0.0.1", "localhost")
	addr, _ := peers.StartStunnel(t, certFile, keyFile, n.RTMPAddr)
	root := sdk.File{Name: ca.File, Content: pem}
	publish("rtmps://"+addr+"/b/key", Options{CA: root})
	checkRecording(t, recorded(t, n, "b", "key", 1), m)

	// The wrong root, and the wrong name.
	other, err := os.ReadFile(peers.NewCA(t).File)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&egress{}).open(t.Context(), target("rtmps://"+addr+"/b/key"), Options{Interleave: InterleaveLow, CA: sdk.File{Content: other}}, m.tracks); !sdk.IsPermanent(err) {
		t.Errorf("with the wrong root: %v", err)
	}
	certFile, keyFile = ca.Issue(t, "cdn.example")
	addr, _ = peers.StartStunnel(t, certFile, keyFile, n.RTMPAddr)
	if _, err := (&egress{}).open(t.Context(), target("rtmps://"+addr+"/b/key"), Options{Interleave: InterleaveLow, CA: root}, m.tracks); !sdk.IsPermanent(err) {
		t.Errorf("with a certificate for another name: %v", err)
	}
}

// TestNginxRefusals: an app that does not exist, and a key in use.
func TestNginxRefusals(t *testing.T) {
	peers.Need(t, "nginx")
	n := peers.StartNginx(t)
	m := load(t, 0)
	_, err := (&egress{}).open(t.Context(), target(n.URL("nowhere", "SECRETKEY")), Options{Interleave: InterleaveLow}, m.tracks)
	t.Logf("app that does not exist: %v", err)
	if err == nil {
		t.Error("no error for an app that does not exist")
	}
	s := open(t, n.URL("live", "key"), Options{}, m.tracks)
	_, err = (&egress{}).open(t.Context(), target(n.URL("live", "key")), Options{Interleave: InterleaveLow}, m.tracks)
	t.Logf("key in use: %v", err)
	if err == nil || sdk.IsPermanent(err) {
		t.Errorf("key in use: %v", err)
	}
	closeSink(t, s)
}

// TestOtherReader publishes to another implementation, which takes the stream
// apart: every payload comes out as it went in.
func TestOtherReader(t *testing.T) {
	m := load(t, time.Hour)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	type result struct {
		video, audio []time.Duration
		videoBytes   int
		err          error
	}
	results := make(chan result, 1)
	go func() {
		var r result
		defer func() { results <- r }()
		conn, err := listener.Accept()
		if err != nil {
			r.err = err
			return
		}
		defer func() { _ = conn.Close() }()
		sc := &gortmplib.ServerConn{RW: conn}
		if r.err = errors.Join(sc.Initialize(), sc.AcceptConn()); r.err != nil {
			return
		}
		reader := &gortmplib.Reader{Conn: sc}
		if r.err = reader.Initialize(); r.err != nil {
			return
		}
		for _, track := range reader.Tracks() {
			switch track.Codec.(type) {
			case *codecs.H264:
				reader.OnDataH264(track, func(_, dts time.Duration, au [][]byte) {
					for _, nalu := range au {
						if t := h264.TypeOf(nalu); t == h264.TypeSPS || t == h264.TypePPS {
							continue // this reader puts the sequence header into the stream
						}
						if len(r.video) == 0 || r.video[len(r.video)-1] != dts {
							r.video = append(r.video, dts)
						}
						r.videoBytes += len(nalu)
					}
				})
			case *codecs.MPEG4Audio:
				reader.OnDataMPEG4Audio(track, func(pts time.Duration, _ []byte) { r.audio = append(r.audio, pts) })
			}
		}
		for {
			if err := reader.Read(); err != nil {
				return
			}
		}
	}()
	s := open(t, "rtmp://"+listener.Addr().String()+"/app/key", Options{}, m.tracks)
	write(t, s, m.units...)
	closeSink(t, s)
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	if len(r.video) != len(m.of(videoID)) || len(r.audio) < len(m.of(audioID))-2 {
		t.Fatalf("%d pictures and %d audio frames, want %d and %d", len(r.video), len(r.audio), len(m.of(videoID)), len(m.of(audioID)))
	}
	base := m.of(videoID)[0].DTS
	for i, u := range m.of(videoID) {
		if d := (u.DTS - base - r.video[i]).Abs(); d > time.Millisecond {
			t.Fatalf("picture %d at %v, want %v", i, r.video[i], u.DTS-base)
		}
	}
	want := 0
	for _, u := range m.of(videoID) {
		for b := u.Payload; len(b) > 0; {
			n := int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
			want += n
			b = b[4+n:]
		}
	}
	if r.videoBytes != want {
		t.Errorf("%d bytes of video, want %d", r.videoBytes, want)
	}
}
