package egressrtmp

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/codecs"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/test/peers"
)

// An encoding is a codec and how ffmpeg makes a track of it.
type encoding struct {
	codec media.Codec
	args  []string
}

var encodings = []encoding{
	{media.H265, []string{"-c:v", "libx265", "-x265-params", "log-level=none:keyint=15:bframes=2:pools=1"}},
	{media.AV1, []string{"-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-g", "15"}},
	{media.VP9, []string{"-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "15"}},
	{media.Opus, []string{"-c:a", "libopus"}},
	{media.AAC, []string{"-c:a", "aac"}},
}

// encoded makes three seconds of each encoding, once.
var encoded = sync.OnceValues(func() (map[media.Codec]testMedia, error) {
	dir, err := os.MkdirTemp("", "encoded")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	all := make(map[media.Codec]testMedia)
	for i, e := range encodings {
		file := filepath.Join(dir, fmt.Sprintf("%d.mp4", i))
		args := []string{"-v", "error", "-f", "lavfi", "-i", "testsrc2=size=160x96:rate=30", "-t", "3", "-pix_fmt", "yuv420p"}
		if e.codec.Kind() == media.Audio {
			args = []string{"-v", "error", "-f", "lavfi", "-i", "sine=frequency=1000:sample_rate=48000", "-t", "3", "-ac", "2"}
		}
		args = append(append(args, e.args...), file)
		if out, err := exec.Command("ffmpeg", args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ffmpeg: %w: %s", err, out)
		}
		m, err := readMP4(file, e.codec)
		if err != nil {
			return nil, err
		}
		all[e.codec] = m
	}
	return all, nil
})

// readMP4 reads the one track of a file, whose samples are in normal form.
func readMP4(file string, codec media.Codec) (testMedia, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return testMedia{}, err
	}
	track := media.Track{ID: 1, Codec: codec, Width: 160, Height: 96, FrameRate: 30}
	if codec.Kind() == media.Audio {
		track = media.Track{ID: 2, Codec: codec, SampleRateHz: 48000, Channels: 2}
	}
	switch codec {
	case media.H265:
		track.DecoderConfig = box(b, "hvcC")
	case media.AV1:
		track.DecoderConfig = box(b, "av1C")
	case media.Opus:
		// dOps is an OpusHead with another order of bytes, without the magic.
		d := box(b, "dOps")
		head := append([]byte("OpusHead\x01"), d[1])
		head = binary.LittleEndian.AppendUint16(head, binary.BigEndian.Uint16(d[2:]))
		head = binary.LittleEndian.AppendUint32(head, binary.BigEndian.Uint32(d[4:]))
		head = append(head, 0, 0, 0)
		track.DecoderConfig = head
	case media.AAC:
		track.DecoderConfig = []byte{0x11, 0x90}
	}
	m := testMedia{tracks: []media.Track{track}}
	out, err := exec.Command("ffprobe", "-v", "error", "-show_packets", "-of", "json", file).Output()
	if err != nil {
		return testMedia{}, fmt.Errorf("ffprobe: %w", err)
	}
	var list struct {
		Packets []struct {
			PTS   string `json:"pts_time"`
			DTS   string `json:"dts_time"`
			Size  int    `json:"size,string"`
			At    int    `json:"pos,string"`
			Flags string `json:"flags"`
		} `json:"packets"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return testMedia{}, err
	}
	seconds := func(s string) time.Duration {
		f, _ := strconv.ParseFloat(s, 64)
		return time.Duration(f * float64(time.Second))
	}
	const epoch = time.Second // encoders begin before 0
	for _, p := range list.Packets {
		m.units = append(m.units, &media.AccessUnit{
			Track: track.ID, DTS: epoch + seconds(p.DTS), PTS: epoch + seconds(p.PTS),
			RandomAccess: p.Flags[0] == 'K', Payload: b[p.At : p.At+p.Size],
		})
	}
	return m, nil
}

// box returns the content of the first box of a kind.
func box(b []byte, kind string) []byte {
	i := bytes.Index(b, []byte(kind))
	return b[i+4 : i-4+int(binary.BigEndian.Uint32(b[i-4:]))]
}

// mix returns the units of several tracks, with the IDs 1, 2, ..., by time.
func mix(t *testing.T, list ...media.Codec) testMedia {
	t.Helper()
	all, err := encoded()
	if err != nil {
		t.Fatal(err)
	}
	var out testMedia
	for i, c := range list {
		m := all[c]
		track := m.tracks[0]
		track.ID = media.TrackID(i + 1)
		out.tracks = append(out.tracks, track)
		for _, u := range m.units {
			u = u.Clone()
			u.Track = track.ID
			out.units = append(out.units, u)
		}
	}
	slices.SortStableFunc(out.units, func(a, b *media.AccessUnit) int { return cmp.Compare(a.DTS, b.DTS) })
	return out
}

// TestAccepts: what a target takes: what every server does, what its server
// announced, or what the target says.
func TestAccepts(t *testing.T) {
	f := func(caps *rtmp.Capabilities, opts Options, audioTracks int, want ...media.Codec) {
		t.Helper()
		r := receive(t, func(s *rtmp.Server) { s.Announce = caps })
		s := open(t, "rtmp://"+r.addr+"/app/key", opts, nil)
		a := s.Accepts()
		if !slices.Equal(a.Codecs, want) || a.VideoTracks != 1 || a.AudioTracks != audioTracks || len(a.Optional) > 0 {
			t.Errorf("%+v, want %v", a, want)
		}
		closeSink(t, s)
	}
	f(nil, Options{}, 1, media.H264, media.AAC)
	f(&rtmp.Capabilities{VideoFourCCs: []string{"hvc1", "vp08"}, AudioFourCCs: []string{"ac-3"}}, Options{}, 1, media.H264, media.AAC, media.H265)
	f(&rtmp.Capabilities{VideoFourCCs: []string{"*"}, AudioFourCCs: []string{"Opus"}, Flags: 3}, Options{}, 8, carried()...)
	f(&rtmp.Capabilities{VideoFourCCs: []string{"*"}, Flags: 3}, Options{AudioTracks: 2}, 2, carried()...)
	f(nil, Options{Codecs: []media.Codec{media.H265, media.Opus}, AudioTracks: 3}, 3, media.H265, media.Opus)
}

// TestEnhanced publishes every codec and several tracks of sound to our receiver and
// to another implementation: every payload comes out as it went in, in its track, at
// its time.
func TestEnhanced(t *testing.T) {
	peers.Need(t, "ffmpeg")
	for _, list := range [][]media.Codec{
		{media.H265, media.Opus},
		{media.AV1, media.AAC, media.AAC, media.Opus},
		{media.VP9, media.Opus, media.AAC},
	} {
		t.Run(fmt.Sprint(list), func(t *testing.T) {
			m := mix(t, list...)
			opts := Options{Codecs: carried(), AudioTracks: 4}
			t.Run("ours", func(t *testing.T) {
				r := receive(t)
				s := open(t, "rtmp://"+r.addr+"/app/key", opts, m.tracks)
				write(t, s, m.units...)
				closeSink(t, s)
				checkPackets(t, m, r.all(t))
				st := r.Stats()[0]
				if st.Video.Codec != string(list[0]) || !st.Video.Enhanced || st.Audio.Tracks != len(list)-1 || st.Malformed != 0 ||
					st.Video.UnitsBeforeHeader+st.Audio.UnitsBeforeHeader != 0 || st.Video.SequenceHeaders != 1 {
					t.Errorf("%+v", st)
				}
			})
			t.Run("other", func(t *testing.T) {
				r := readElsewhere(t)
				s := open(t, "rtmp://"+r.addr+"/app/key", opts, m.tracks)
				write(t, s, m.units...)
				closeSink(t, s)
				r.check(t, m)
			})
		})
	}
}

// checkPackets compares what was received with what was sent.
func checkPackets(t *testing.T, m testMedia, messages []rtmp.Message) {
	t.Helper()
	audio := func(id media.TrackID) bool { return m.tracks[id-1].Codec.Kind() == media.Audio }
	got := make(map[media.TrackID][]rtmp.Packet)
	at := make(map[media.TrackID][]uint32)
	for _, msg := range messages {
		list, err := rtmp.Packets(nil, msg)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			id := media.TrackID(1)
			if msg.Type == rtmp.TypeAudio {
				id = media.TrackID(p.Track) + 2
			}
			switch p.Kind {
			case rtmp.PacketHeader:
				if config := m.tracks[id-1].DecoderConfig; len(config) > 0 && !bytes.Equal(p.Payload, config) {
					t.Errorf("track %d: header %x, want %x", id, p.Payload, config)
				}
			case rtmp.PacketFrame:
				got[id] = append(got[id], p)
				at[id] = append(at[id], msg.TimestampMS)
			}
		}
	}
	base := roundMS(m.of(1)[0].DTS) // the first picture
	for _, track := range m.tracks {
		want := m.of(track.ID)
		for len(want) > 0 && roundMS(want[0].DTS) < base {
			want = want[1:]
		}
		if len(got[track.ID]) != len(want) {
			t.Errorf("track %d: %d units, want %d", track.ID, len(got[track.ID]), len(want))
			continue
		}
		for i, u := range want {
			p := got[track.ID][i]
			if !bytes.Equal(p.Payload, u.Payload) || p.Codec != track.Codec || !audio(track.ID) && p.Keyframe != u.RandomAccess ||
				int64(at[track.ID][i]) != roundMS(u.DTS)-base || int64(p.CompositionMS) != roundMS(u.PTS)-roundMS(u.DTS) {
				t.Errorf("track %d, unit %d at %d: %s key %v composition %d, %d bytes", track.ID, i, at[track.ID][i], p.Codec, p.Keyframe, p.CompositionMS, len(p.Payload))
			}
		}
	}
}

// An elsewhere is a receiver made of another implementation.
type elsewhere struct {
	addr string
	done chan struct{}
	err  error
	// units counts, and bytes sums up, by number of the audio track from 1, 0 for video.
	units, bytes map[int]int
	kinds        map[int]string
	nalus        [][]byte // of H.265
}

func readElsewhere(t *testing.T) *elsewhere {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &elsewhere{addr: l.Addr().String(), done: make(chan struct{}), units: map[int]int{}, bytes: map[int]int{}, kinds: map[int]string{}}
	t.Cleanup(func() { _ = l.Close(); <-r.done })
	go func() {
		defer close(r.done)
		conn, err := l.Accept()
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
		audio := 0
		for _, track := range reader.Tracks() {
			number := 0
			count := func(payload ...[]byte) {
				r.units[number]++
				for _, b := range payload {
					r.bytes[number] += len(b)
				}
			}
			switch track.Codec.(type) {
			case *codecs.H265:
				reader.OnDataH265(track, func(_, _ time.Duration, au [][]byte) {
					count(au...)
					r.nalus = append(r.nalus, au...)
				})
			case *codecs.AV1:
				reader.OnDataAV1(track, func(_ time.Duration, tu [][]byte) { count(tu...) })
			case *codecs.VP9:
				reader.OnDataVP9(track, func(_ time.Duration, frame []byte) { count(frame) })
			case *codecs.Opus:
				audio++
				number = audio
				reader.OnDataOpus(track, func(_ time.Duration, packet []byte) { count(packet) })
			case *codecs.MPEG4Audio:
				audio++
				number = audio
				reader.OnDataMPEG4Audio(track, func(_ time.Duration, au []byte) { count(au) })
			}
			r.kinds[number] = fmt.Sprintf("%T", track.Codec)
		}
		for reader.Read() == nil {
		}
	}()
	return r
}

func (r *elsewhere) check(t *testing.T, m testMedia) {
	t.Helper()
	<-r.done
	if r.err != nil {
		t.Fatal(r.err)
	}
	names := map[media.Codec]string{media.H265: "*codecs.H265", media.AV1: "*codecs.AV1", media.VP9: "*codecs.VP9", media.Opus: "*codecs.Opus", media.AAC: "*codecs.MPEG4Audio"}
	for i, track := range m.tracks {
		if r.kinds[i] != names[track.Codec] {
			t.Errorf("track %d is read as %s, want %s", i, r.kinds[i], track.Codec)
		}
		n, size := 0, 0
		for _, u := range m.of(track.ID) {
			n++
			size += len(u.Payload)
		}
		if d := n - r.units[i]; d < 0 || d > 2 {
			t.Errorf("track %d: %d units, want %d", i, r.units[i], n)
		}
		if track.Codec == media.VP9 && r.bytes[i] != size {
			t.Errorf("track %d: %d bytes, want %d", i, r.bytes[i], size)
		}
	}
}
