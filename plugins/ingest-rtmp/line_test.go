package ingestrtmp

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
	"github.com/headgate/gateway/test/intake"
	"github.com/headgate/gateway/test/peers"
)

// await starts the plugin and waits for its port.
func await(t *testing.T) (g *plugintest.Gateway, addr string) {
	t.Helper()
	addr = peers.FreeAddr(t)
	g = plugintest.Attach(t, plugintest.Connect(t, Plugin()), fmt.Appendf(nil, `{"listen": %q}`, addr))
	peers.Wait(t, 20*time.Second, "the port", func() error { return peers.Listening(addr) })
	return g, addr
}

// TestSilentPublisher: one whose connection stands but brings nothing is noticed soon,
// and sent away after a while with the reason.
func TestSilentPublisher(t *testing.T) {
	t.Parallel()
	g, addr := await(t)
	target, err := rtmp.ParseTarget(secret.New("rtmp://"+addr+"/live/studio"), secret.New("?user=me&pass=T"))
	if err != nil {
		t.Fatal(err)
	}
	type dialed struct {
		conn *rtmp.Conn
		err  error
	}
	came := make(chan dialed, 1)
	go func() {
		conn, err := rtmp.Dial(t.Context(), rtmp.ClientConfig{Target: target, DialTimeout: 30 * time.Second})
		came <- dialed{conn, err}
	}()
	offer := intake.Accept(g)
	if offer.GetName() != "live/studio" || string(offer.GetCredentials()) != "T" || !strings.Contains(offer.GetAgent(), "Headgate") {
		t.Errorf("offer %v", offer)
	}
	d := <-came
	if d.err != nil {
		t.Fatal(d.err)
	}
	defer func() { _ = d.conn.Close(t.Context()) }()
	_, track, picture := testCard(t)
	for _, tag := range []*rtmp.Tag{rtmp.H264HeaderTag(track.DecoderConfig), rtmp.H264Tag(picture, true, 0)} {
		if err := d.conn.WriteTag(tag, 0); err != nil {
			t.Fatal(err)
		}
	}
	for silent := false; !silent; {
		silent = g.Recv().GetSilence().GetSilent()
	}
	select {
	case <-d.conn.Failed():
	case <-time.After(60 * time.Second):
		t.Fatal("it is still there")
	}
	if err := d.conn.Err(); err == nil || !strings.Contains(err.Error(), "no picture and no sound came for 10s") {
		t.Errorf("it was told %v", err)
	}
	for {
		if s := g.Recv().GetState(); s.GetState() == wire.SessionState_FAILED {
			if !strings.Contains(s.GetMessage(), "no picture and no sound") {
				t.Errorf("the gateway was told %v", s)
			}
			break
		}
	}
}

// TestEncoders: B-frames with timestamps that begin at 5 h and that wrap, beside a second
// track of pictures and with nanoseconds, and in H.265: every unit, its bytes and its time
// are those of the source, to the last one before the goodbye.
func TestEncoders(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	source := func(t *testing.T, file string, args ...string) string {
		t.Helper()
		file = filepath.Join(t.TempDir(), file)
		peers.FFmpeg(t, slices.Concat([]string{"-f", "lavfi", "-i", "testsrc2=size=322x182:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=48000",
			"-t", "4", "-pix_fmt", "yuv420p", "-c:a", "aac", "-ac", "2"}, args, []string{file})...)
		return file
	}
	session := func(t *testing.T, messages []rtmp.Message, leftOut int) *intake.Session {
		t.Helper()
		g, addr := await(t)
		e := publishTo(t, addr, "live", "studio?token=x")
		intake.Accept(g)
		e.send(t, messages)
		// Figures come each second: the goodbye waits for what they are to say.
		s := intake.Take(g, func(s *intake.Session) bool { return leftOut == 0 || s.Stats["rtmp_left_out"] == float64(leftOut) })
		e.goodbye(t, "studio")
		rest := intake.Take(g, nil)
		for id, units := range rest.Units {
			s.Units[id] = append(s.Units[id], units...)
		}
		if rest.Tracks != nil {
			s.Tracks = rest.Tracks
		}
		if rest.End.GetState() != wire.SessionState_CLOSED {
			t.Errorf("ended with %v, want a goodbye", rest.End)
		}
		return s
	}
	h264 := func(name string, shift uint32, change func(m rtmp.Message) []rtmp.Message) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := source(t, "in.flv", "-c:v", "libx264", "-bf", "3", "-g", "25")
			var messages []rtmp.Message
			original := tags(t, file, shift)
			for _, m := range original {
				if m.Type == rtmp.TypeVideo && m.Body[1] < 2 {
					messages = append(messages, change(m)...)
				} else {
					messages = append(messages, m)
				}
			}
			s := session(t, messages, len(messages)-len(original))
			if len(s.Tracks) != 2 || s.Tracks[0].Codec != media.H264 || s.Tracks[1].Codec != media.AAC {
				t.Fatalf("tracks %+v", s.Tracks)
			}
			intake.CheckPackets(t, s.Units[s.Tracks[0].ID], file, "video")
			intake.CheckPackets(t, s.Units[s.Tracks[1].ID], file, "audio")
			checkBytes(t, original, &intake.Recorder{Sets: [][]media.Track{s.Tracks}, Units: s.Units})
		})
	}
	h264("from 5 h, with a second track", 5*3600*1000, func(m rtmp.Message) []rtmp.Message { return []rtmp.Message{m, secondTrack(m)} })
	h264("wrap", ^uint32(0)-1999, func(m rtmp.Message) []rtmp.Message { return []rtmp.Message{m} })
	h264("nanoseconds", 0, func(m rtmp.Message) []rtmp.Message { return []rtmp.Message{delayed(m, 400*time.Microsecond)} })
	t.Run("h265", func(t *testing.T) {
		t.Parallel()
		file := source(t, "in.mp4", "-c:v", "libx265", "-x265-params", "bframes=3:keyint=25:log-level=none")
		messages, payloads := pictures265(t, file)
		s := session(t, messages, 0)
		_, units := s.Of(t, media.H265)
		intake.CheckPackets(t, units, file, "video")
		for i, u := range units {
			if !bytes.Equal(u.Payload, payloads[i]) {
				t.Fatalf("picture %d is another one", i)
			}
		}
	})
}
