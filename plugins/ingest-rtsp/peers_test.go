package ingestrtsp

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/h265"
	"github.com/headgate/gateway/sdk/wire"
	"github.com/headgate/gateway/test/intake"
	"github.com/headgate/gateway/test/peers"
)

// frames are the checksums of the decoded pictures of a file, in the order of output.
func frames(t *testing.T, file string) []string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "frames")
	peers.FFmpeg(t, "-v", "error", "-y", "-i", file, "-map", "0:v:0", "-vsync", "passthrough", "-f", "framemd5", out)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var sums []string
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "#") {
			fields := strings.Split(line, ",")
			sums = append(sums, strings.TrimSpace(fields[len(fields)-1]))
		}
	}
	return sums
}

// annexB writes the pictures of a track to a file that ffmpeg reads.
func annexB(t *testing.T, track media.Track, units []*media.AccessUnit) string {
	t.Helper()
	var sets [][]byte
	if track.Codec == media.H264 {
		c, err := h264.ParseDecoderConfig(track.DecoderConfig)
		if err != nil {
			t.Fatal(err)
		}
		sets = slices.Concat(c.SPS, c.PPS)
	} else {
		c, err := h265.ParseDecoderConfig(track.DecoderConfig)
		if err != nil {
			t.Fatal(err)
		}
		sets = append(append(c.VPS, c.SPS...), c.PPS...)
	}
	var out []byte
	put := func(nalus [][]byte) {
		for _, n := range nalus {
			out = append(append(out, 0, 0, 0, 1), n...)
		}
	}
	put(sets)
	for _, u := range units {
		nalus, err := h264.SplitLengthPrefixed(nil, u.Payload)
		if err != nil {
			t.Fatal(err)
		}
		put(nalus)
	}
	file := filepath.Join(t.TempDir(), "out."+string(track.Codec))
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// source makes a file of four seconds.
func sourceFile(t *testing.T, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "source.mkv")
	peers.FFmpeg(t, append([]string{"-v", "error", "-f", "lavfi", "-i", "testsrc2=size=322x182:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=48000",
		"-t", "4", "-pix_fmt", "yuv420p", "-ac", "2"}, append(args, file)...)...)
	return file
}

// checkPictures holds that a recording has the pictures of a file: as many, in the
// same order, at the same distances, with rising decoding times.
func checkPictures(t *testing.T, r *intake.Session, codec media.Codec, file string) {
	t.Helper()
	track, units := r.Of(t, codec)
	var want []peers.Packet
	for _, p := range peers.Packets(t, file) {
		if p.Type == "video" {
			want = append(want, p)
		}
	}
	if len(units) != len(want) {
		t.Fatalf("%d pictures, ffprobe counts %d", len(units), len(want))
	}
	if track.Width != 322 || track.Height != 182 {
		t.Errorf("%dx%d, want 322x182", track.Width, track.Height)
	}
	for i, u := range units {
		if i > 0 && u.DTS <= units[i-1].DTS || u.PTS < u.DTS {
			t.Fatalf("picture %d: PTS %v, DTS %v", i, u.PTS, u.DTS)
		}
	}
	// Sound leads: the picture may move towards it, by 2 % or at once at a keyframe. How
	// far depends on how evenly a busy machine lets ffmpeg send.
	var worst time.Duration
	for i, u := range units {
		worst = max(worst, ((u.PTS - units[0].PTS) - (want[i].PTS - want[0].PTS)).Abs())
		if i == 0 || u.RandomAccess {
			continue
		}
		if got, wanted := u.PTS-units[i-1].PTS, want[i].PTS-want[i-1].PTS; (got - wanted).Abs() > 5*time.Millisecond {
			t.Errorf("picture %d is shown %v after the one before, in the source %v", i, got, wanted)
		}
	}
	if worst > time.Second {
		t.Errorf("pictures are up to %v from where they belong", worst)
	}
	got, wanted := frames(t, annexB(t, track, units)), frames(t, file)
	if !slices.Equal(got, wanted) {
		t.Errorf("%d pictures decode, %d in the source, and they differ", len(got), len(wanted))
	}
	t.Logf("%s: %d pictures as in the source, at most %v off, %d keyframes", codec, len(got), worst, count(units, func(u *media.AccessUnit) bool { return u.RandomAccess }))
}

func count(units []*media.AccessUnit, is func(*media.AccessUnit) bool) (n int) {
	for _, u := range units {
		if is(u) {
			n++
		}
	}
	return n
}

// TestFFmpegRecords: B-frames in closed and open groups, H.265 and the kinds of sound,
// over TCP and UDP, and over TCP by itself where there is no UDP: the pictures are those
// of the source.
func TestFFmpegRecords(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	f := func(name string, codec, sound media.Codec, by string, args ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := sourceFile(t, args...)
			addr := peers.FreeAddr(t)
			options, transport := fmt.Sprintf(`{"listen": %q}`, addr), []string(nil)
			if by != "" {
				options, transport = fmt.Sprintf(`{"listen": %q, "listen_udp": %q}`, addr, addrOf(peers.FreePair(t))), []string{"-rtsp_transport", by}
			}
			g := attach(t, options)
			waitListening(t, addr)
			p := peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: slices.Concat([]string{"-nostdin", "-v", "error", "-re",
				"-i", file, "-c", "copy", "-f", "rtsp"}, transport, []string{"rtsp://" + addr + "/studio?token=T0KEN"})})
			o := intake.Accept(g)
			if o.GetName() != "studio" || string(o.GetCredentials()) != "T0KEN" || !slices.Equal(o.GetCodecs(), []string{string(codec), string(sound)}) {
				t.Errorf("offer %v", o)
			}
			r := intake.Take(g, nil)
			if r.End.GetState() != wire.SessionState_CLOSED {
				t.Errorf("ended with %v, want a goodbye\n%s", r.End, p.Output())
			}
			checkPictures(t, r, codec, file)
			_, units := r.Of(t, sound)
			var length time.Duration
			for _, u := range units {
				length += u.Duration
			}
			if length < 3800*time.Millisecond || length > 4200*time.Millisecond || count(units, func(u *media.AccessUnit) bool { return u.Discontinuity }) > 0 {
				t.Errorf("%v of sound in %d units, want 4s without a hole", length, len(units))
			}
		})
	}
	aac := []string{"-c:a", "aac"}
	f("closed", media.H264, media.AAC, "tcp", append(aac, "-c:v", "libx264", "-bf", "3", "-g", "25", "-x264-params", "open-gop=0")...)
	f("open over udp", media.H264, media.AAC, "udp", append(aac, "-c:v", "libx264", "-bf", "3", "-g", "25", "-x264-params", "open-gop=1")...)
	f("h265", media.H265, media.AAC, "tcp", append(aac, "-c:v", "libx265", "-x265-params", "bframes=3:keyint=25:log-level=none")...)
	f("h265 closed over udp", media.H265, media.Opus, "udp", "-c:a", "libopus", "-c:v", "libx265", "-x265-params", "bframes=3:keyint=25:open-gop=0:log-level=none")
	f("telephone sound", media.H264, media.PCMA, "tcp", "-c:a", "pcm_alaw", "-ar", "8000", "-ac", "1", "-c:v", "libx264", "-g", "25")
	f("falls back", media.H264, media.Opus, "", "-c:a", "libopus", "-c:v", "libx264", "-tune", "zerolatency", "-g", "25")
}

// TestPullFromMediaMTX: a server that others publish to, and that sends by TCP alone.
func TestPullFromMediaMTX(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	server := peers.StartMediaMTX(t)
	file := sourceFile(t, "-c:a", "aac", "-c:v", "libx264", "-bf", "3", "-g", "25")
	peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{"-nostdin", "-v", "error", "-re",
		"-i", file, "-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", "rtsp://" + server.RTSPAddr + "/cam"}})
	peers.Wait(t, 20*time.Second, "the publisher", func() error { _, err := server.Path("cam"); return err })
	g := attach(t, `{}`)
	intake.Pull(g, 1, "rtsp://"+server.RTSPAddr+"/cam")
	r := intake.Take(g, nil) // until the server has nothing more
	track, pictures := r.Of(t, media.H264)
	got, want := frames(t, annexB(t, track, pictures)), frames(t, file)
	from := slices.Index(want, got[0])
	if len(got) < 20 || from < 0 || from+len(got) > len(want) || !slices.Equal(got, want[from:from+len(got)]) {
		t.Errorf("%d pictures, not those of the source from picture %d on", len(got), from)
	}
	if _, sound := r.Of(t, media.AAC); len(sound) < 20 || count(sound, func(u *media.AccessUnit) bool { return u.Discontinuity }) > 0 {
		t.Errorf("%d pieces of sound, or with a hole", len(sound))
	}
	t.Logf("%d pictures from the %d. on; ended with %v", len(got), from, r.End)
}

// TestPortInUse: who has the port is not known, but that it is taken is said, and where.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	err = listen(t.Context(), nil, Options{Listen: l.Addr().String()}, nil)
	if err == nil || !strings.Contains(err.Error(), "address already in use") || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("the port in use: %v", err)
	}
}

// waitListening waits until somebody listens on addr.
func waitListening(t *testing.T, addr string) {
	t.Helper()
	peers.Wait(t, 20*time.Second, "the port", func() error { return peers.Listening(addr) })
}

// markEachSlice sets the marker on every packet of the picture, on channel 0, that ends a
// NAL unit, in what a client sends over one connection.
func markEachSlice(codec media.Codec) func([]byte) []byte {
	var rest []byte // of a message that has not come whole
	return func(b []byte) (out []byte) {
		rest = append(rest, b...)
		for len(rest) > 0 {
			if rest[0] != '$' { // a request; ffmpeg sends none amid the packets but the last
				out, rest = append(out, rest...), nil
				break
			}
			if len(rest) < 4 || len(rest) < 4+int(binary.BigEndian.Uint16(rest[2:])) {
				break
			}
			m := rest[:4+int(binary.BigEndian.Uint16(rest[2:]))]
			if payload := m[min(len(m), 4+12):]; m[1] == 0 && len(payload) > 3 && endsUnit(codec, payload) {
				m[5] |= 0x80
			}
			out, rest = append(out, m...), rest[len(m):]
		}
		return out
	}
}

// endsUnit reports whether a payload is no fragment, or the last one.
func endsUnit(codec media.Codec, payload []byte) bool {
	const endBit = 0x40
	if codec == media.H264 {
		return payload[0]&0x1f != 28 || payload[1]&endBit != 0
	}
	return payload[0]>>1&0x3f != 49 || payload[2]&endBit != 0
}

// TestMarkerOnEachSlice: pictures in several slices, with the marker on each, are whole
// from the second keyframe on.
func TestMarkerOnEachSlice(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	f := func(codec media.Codec, args ...string) {
		t.Run(string(codec), func(t *testing.T) {
			t.Parallel()
			file := sourceFile(t, append([]string{"-c:a", "aac"}, args...)...)
			addr := peers.FreeAddr(t)
			g := awaitEncoders(t, `{"listen": %q}`, addr)
			relay := between(t, addr, markEachSlice(codec), func(b []byte) []byte { return b })
			peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{"-nostdin", "-v", "error", "-re",
				"-i", file, "-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", "rtsp://" + relay + "/studio?token=x"}})
			intake.Accept(g)
			track, pictures := intake.Take(g, nil).Of(t, codec)
			if len(pictures) < 70 || !pictures[1].RandomAccess || !pictures[1].Discontinuity || count(pictures[2:], func(u *media.AccessUnit) bool { return u.Discontinuity }) > 0 {
				t.Fatalf("%d pictures, or with other cuts than at the second keyframe", len(pictures))
			}
			const from = 25 // the second keyframe
			got, want := frames(t, annexB(t, track, pictures[1:])), frames(t, file)
			if from+len(got) > len(want) || !slices.Equal(got, want[from:from+len(got)]) {
				t.Errorf("%d pictures, and not those of the source from the %d. on", len(got), from)
			}
		})
	}
	f(media.H264, "-c:v", "libx264", "-bf", "0", "-g", "25", "-sc_threshold", "0", "-x264-params", "slices=4")
	f(media.H265, "-c:v", "libx265", "-x265-params", "slices=2:ctu=16:bframes=0:keyint=25:min-keyint=25:scenecut=0:log-level=none")
}
