package ingestsrt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/mpegts"
	"github.com/headgate/gateway/internal/srt"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
	"github.com/headgate/gateway/test/intake"
	"github.com/headgate/gateway/test/peers"
)

func TestMain(m *testing.M) {
	// See docs/adr/0025: what the library leaves of a handshake that was refused.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/datarhei/gosrt.Dial.func1"))
}

// patience is the latency of lines on which nothing may be lost, however long a busy
// machine holds one side up.
const patience = 1500 * time.Millisecond

// send sends the test card in real time until ctx or the connection ends.
func send(ctx context.Context, conn *srt.Conn) {
	c, err := clip.Load()
	if err != nil {
		panic(err)
	}
	mux, err := mpegts.NewMuxer(c.Tracks)
	if err != nil {
		panic(err)
	}
	player := c.NewPlayer()
	start := time.Now()
	for {
		u := player.Next()
		select {
		case <-ctx.Done():
			return
		case <-conn.Done():
			return
		case <-time.After(time.Until(start.Add(u.DTS))):
		}
		ts, err := mux.AppendUnit(nil, u)
		if err != nil {
			panic(err)
		}
		for len(ts) > 0 {
			n := min(len(ts), srt.PayloadBytes)
			if conn.Write(ts[:n]) != nil {
				return
			}
			ts = ts[n:]
		}
	}
}

// serve runs a source that can be pulled.
func serve(t *testing.T) string {
	t.Helper()
	s, err := srt.Listen(srt.Address{Mode: srt.Listener, HostPort: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func(c srt.Call) {
			if c.Verify(secret.String{}) != nil {
				return
			}
			conn, err := c.Accept()
			if err != nil {
				return
			}
			var wg sync.WaitGroup
			wg.Go(conn.Discard)
			send(ctx, conn)
			conn.Close()
			wg.Wait()
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s.Addr()
}

func TestConformanceOfPull(t *testing.T) {
	plugintest.TestIngest(t, Plugin(), plugintest.IngestOptions{
		PullURL: "srt://" + serve(t), BadURL: "srt://127.0.0.1:9?passphrase=SECRET",
	})
}

func TestConformanceOfPublish(t *testing.T) {
	addr := peers.FreeAddr(t)
	plugintest.TestIngest(t, Plugin(), plugintest.IngestOptions{
		Options: fmt.Appendf(nil, `{"listen": %q, "passphrase": "0123456789"}`, addr),
		Publish: intake.Publishers(t, func(ctx context.Context) { encode(ctx, addr) }),
	})
}

// encode calls addr and sends until the connection is over. The port opens a little
// after the plugin starts; who is rejected, as a check wants it, does not come again in
// the next check.
func encode(ctx context.Context, addr string) {
	opening, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for opening.Err() == nil {
		conn, err := srt.Dial(opening, srt.Address{Mode: srt.Caller, HostPort: addr, StreamID: secret.New("studio?token=x"), Passphrase: secret.New("0123456789")}, nil)
		if rejected := (*srt.RejectedError)(nil); errors.As(err, &rejected) {
			return
		}
		if err != nil {
			continue
		}
		var wg sync.WaitGroup
		wg.Go(conn.Discard)
		send(ctx, conn)
		conn.Close()
		wg.Wait()
		return
	}
}

func TestStreamID(t *testing.T) {
	good := func(id, name, token string) {
		t.Helper()
		w, err := parseStreamID(secret.New(id))
		if err != nil || w.name != name || w.token.Reveal() != token {
			t.Errorf("%s: %q %q %v", id, w.name, w.token.Reveal(), err)
		}
	}
	bad := func(id string) {
		t.Helper()
		if w, err := parseStreamID(secret.New(id)); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %+v %v", id, w, err)
		}
	}
	good("studio", "studio", "")
	good("studio/a?token=SECRET", "studio/a", "SECRET")
	good("publish:studio?token=a%26b", "studio", "a&b")
	good("#!::r=studio,m=publish,s=SECRET,t=stream", "studio", "SECRET")
	good("#!::r=/studio,token=SECRET", "studio", "SECRET")
	bad("")
	bad("read:studio?token=SECRET")
	bad("#!::m=publish,s=SECRET")
	bad("#!::r=studio,m=request,s=SECRET")
	bad("#!{r=studio,s=SECRET}")
	bad("#!::SECRET")
	bad("studio?token=%zzSECRET")
}

// assemble reads a transport stream that ffmpeg makes.
func assemble(t *testing.T, program int, args ...string) (*intake.Recorder, *assembler, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "in.ts")
	peers.FFmpeg(t, append(args, "-f", "mpegts", file)...)
	r := &intake.Recorder{}
	a := newAssembler(r, program, slog.New(slog.DiscardHandler))
	a.demux.Write(readFile(t, file))
	a.demux.Flush()
	return r, a, file
}

// TestFFmpegStreams: B-frames in closed and open groups, H.265, over the wrap of the
// timestamps: as many pictures as ffprobe counts, in its order and at its times.
func TestFFmpegStreams(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	source := []string{"-f", "lavfi", "-i", "testsrc2=size=322x182:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", "4", "-pix_fmt", "yuv420p", "-c:a", "aac", "-ac", "2"}
	f := func(name string, codec media.Codec, args ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, a, file := assemble(t, 0, append(append([]string{}, source...), args...)...)
			tracks := r.Tracks()
			if len(tracks) != 2 || tracks[0].Codec != codec || !tracks[0].Complete() || tracks[0].Width != 322 || tracks[0].Height != 182 ||
				tracks[1].Codec != media.AAC || tracks[1].SampleRateHz != 48000 || tracks[1].Channels != 2 {
				t.Fatalf("tracks %+v", tracks)
			}
			intake.CheckPackets(t, r.Units[tracks[0].ID], file, "video")
			intake.CheckPackets(t, r.Units[tracks[1].ID], file, "audio")
			if a.lost+a.damaged+a.jumps != 0 {
				t.Errorf("lost %d, damaged %d, jumps %d", a.lost, a.damaged, a.jumps)
			}
		})
	}
	f("closed", media.H264, "-c:v", "libx264", "-bf", "3", "-g", "25", "-x264-params", "open-gop=0")
	f("open", media.H264, "-c:v", "libx264", "-bf", "3", "-g", "25", "-x264-params", "open-gop=1")
	f("wrap", media.H264, "-c:v", "libx264", "-bf", "2", "-g", "25", "-output_ts_offset", "95441.7")
	f("h265", media.H265, "-c:v", "libx265", "-x265-params", "bframes=3:keyint=25:log-level=none")
}

// TestOthersAreLeftOut: a codec that the gateway does not carry is counted, and the
// program that is asked for is taken.
func TestOthersAreLeftOut(t *testing.T) {
	peers.Need(t, "ffmpeg")
	two := []string{"-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", "1", "-pix_fmt", "yuv420p",
		"-map", "0", "-map", "1", "-map", "0", "-c:v", "libx264", "-c:a", "ac3", "-s:v:1", "640x360",
		"-program", "program_num=7:st=0:st=1", "-program", "program_num=9:st=2"}
	r, a, _ := assemble(t, 0, two...)
	if len(r.Tracks()) != 1 || r.Tracks()[0].Width != 320 || a.leftOut["ac-3"] != 1 {
		t.Errorf("first program: %+v, left out %v", r.Tracks(), a.leftOut)
	}
	r, a, _ = assemble(t, 9, two...)
	if len(r.Tracks()) != 1 || r.Tracks()[0].Width != 640 {
		t.Errorf("program 9: %+v, left out %v; there are %v", r.Tracks(), a.leftOut, a.demux.Programs())
	}
}

// TestUseless: what cannot be used is told, with what to do.
func TestUseless(t *testing.T) {
	peers.Need(t, "ffmpeg")
	f := func(program int, want string, ts []byte) {
		t.Helper()
		a := newAssembler(&intake.Recorder{}, program, slog.New(slog.DiscardHandler))
		a.demux.Write(ts)
		a.demux.Flush()
		if why := a.useless(); (why == "") != (want == "") || !strings.Contains(why, want) {
			t.Errorf("%q, want %q", why, want)
		}
	}
	c, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	// mux makes a stream of the clip's units, without those that leave says.
	mux := func(leave func(*media.AccessUnit) bool) (ts []byte) {
		m, err := mpegts.NewMuxer(c.Tracks)
		if err != nil {
			t.Fatal(err)
		}
		player := c.NewPlayer()
		for range 60 {
			if u := player.Next(); !leave(u) {
				if ts, err = m.AppendUnit(ts, u); err != nil {
					t.Fatal(err)
				}
			}
		}
		return ts
	}
	isVideo := func(u *media.AccessUnit) bool { return u.Track == clip.VideoTrack }
	good := mux(func(*media.AccessUnit) bool { return false })
	f(0, "", good)
	f(7, "no program 7, and has [1]", good)
	f(0, "no MPEG transport stream", []byte(strings.Repeat("FLV and nothing else ", 100)))
	// Every 188th byte of something else may be that of a packet.
	f(0, "no MPEG transport stream", []byte(strings.Repeat("G"+strings.Repeat(".", 187)+"G"+strings.Repeat(".", 1000), 10)))
	var nameless []byte
	for b := good; len(b) > 0; b = b[mpegts.PacketBytes:] {
		if mpegts.PID(b) != 0 {
			nameless = append(nameless, b[:mpegts.PacketBytes]...)
		}
	}
	f(0, "names no program", nameless)
	f(0, "what is in its program", good[:mpegts.PacketBytes])
	f(0, "no keyframe", mux(func(u *media.AccessUnit) bool { return isVideo(u) && u.RandomAccess }))
	scrambled := slices.Clone(good)
	for b := scrambled; len(b) > 0; b = b[mpegts.PacketBytes:] {
		if pid := mpegts.PID(b); pid >= 0x100 && pid < 0x110 {
			b[3] |= 0x80
		}
	}
	f(0, "scrambled", scrambled)
	_, _, file := assemble(t, 0, "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-t", "1", "-c:v", "mpeg2video")
	f(0, "nothing that the gateway carries", readFile(t, file))
}

// TestProgramOfASource: the program that is asked for is taken of a source, too.
func TestProgramOfASource(t *testing.T) {
	peers.Need(t, "ffmpeg")
	addr := peers.FreeAddr(t)
	peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{"-nostdin", "-v", "error", "-re",
		"-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-t", "60", "-pix_fmt", "yuv420p", "-map", "0", "-map", "0", "-c:v", "libx264", "-g", "25",
		"-s:v:1", "640x360", "-program", "program_num=7:st=0", "-program", "program_num=9:st=1", "-f", "mpegts", "srt://" + addr + "?mode=listener"}})
	g := plugintest.Attach(t, plugintest.Connect(t, Plugin()), []byte(`{"programs": {"studio": 9}}`))
	session := uint32(0)
	peers.Wait(t, 30*time.Second, "the source", func() error {
		session++
		intake.Pull(g, session, "srt://"+addr)
		s := intake.Take(g, func(s *intake.Session) bool { return len(s.Units) > 0 })
		if s.End != nil {
			return errors.New(s.End.GetMessage())
		}
		if len(s.Tracks) != 1 || s.Tracks[0].Width != 640 {
			t.Errorf("tracks %+v", s.Tracks)
		}
		return nil
	})
}

// TestOptions: all that is wrong is told at once, and no passphrase.
func TestOptions(t *testing.T) {
	r := sdk.Validate(Plugin(), &wire.ValidateRequest{OptionsJson: []byte(
		`{"listen": "8890", "passphrase": "SECRET", "passphrases": {"studio": "SECRET2"}, "latency": "1m", "programs": {"studio": -4, "stage": 9}}`)})
	var paths []string
	for _, d := range r.GetDiagnostics() {
		paths = append(paths, d.GetPath())
		if strings.Contains(d.String(), "SECRET") {
			t.Errorf("it tells a secret: %v", d)
		}
	}
	if want := []string{"options.listen", "options.passphrases.studio", "options.passphrase", "options.latency", "options.programs.studio"}; !slices.Equal(paths, want) {
		t.Errorf("%v, want %v", r.GetDiagnostics(), want)
	}
}

// TestSenderBeginsAnew: when its clock is set back the stream goes on.
func TestSenderBeginsAnew(t *testing.T) {
	r := &intake.Recorder{}
	a := newAssembler(r, 0, slog.New(slog.DiscardHandler))
	s := &stream{track: media.Track{ID: 1}}
	for _, dts := range []int64{900000, 903600, 5400, 9000, 8_000_000_000, 8_000_003_600, 7_999_000_000} {
		a.write(s, &media.AccessUnit{}, dts, dts)
	}
	for i := 1; i < len(r.Units[1]); i++ {
		if step := r.Units[1][i].DTS - r.Units[1][i-1].DTS; step != 40*time.Millisecond {
			t.Errorf("unit %d comes %v after the one before", i, step)
		}
	}
	if a.jumps != 3 {
		t.Errorf("%d jumps", a.jumps)
	}
}

// TestFFmpegPublishes: over the line, with a passphrase.
func TestFFmpegPublishes(t *testing.T) {
	peers.Need(t, "ffmpeg")
	addr := peers.FreeAddr(t)
	g := plugintest.Attach(t, plugintest.Connect(t, Plugin()), fmt.Appendf(nil, `{"listen": %q, "passphrases": {"studio": "correcthorse"}}`, addr))
	url := func(pass string) string {
		return "srt://" + addr + "?latency=1500000&passphrase=" + pass + "&pbkeylen=32&streamid=publish:studio?token=T"
	}
	publish := func(pass string) *peers.Process {
		return peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{"-nostdin", "-v", "error", "-re",
			"-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", "20",
			"-pix_fmt", "yuv420p", "-c:v", "libx264", "-g", "25", "-c:a", "aac", "-f", "mpegts", url(pass)}})
	}
	if code := publish("wrongpassphrase").ExitCode(t, 20*time.Second); code == 0 {
		t.Error("the wrong passphrase was good enough")
	}
	publish("correcthorse")
	if offer := intake.Accept(g); offer.GetName() != "studio" || string(offer.GetCredentials()) != "T" {
		t.Errorf("offer %v", offer)
	}
	intake.Take(g, func(s *intake.Session) bool { return len(s.Units[1]) > 50 && len(s.Units[2]) > 50 })
}
