package ingestsrt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mcts "github.com/bluenviron/mediacommon/v2/pkg/formats/mpegts"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/mpegts/codecs"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/mpegts"
	"github.com/headgate/gateway/internal/srt"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
	"github.com/headgate/gateway/test/peers"
)

// crc is the check sum of a section (ISO/IEC 13818-1, annex A).
func crc(b []byte) uint32 {
	sum := uint32(0xffffffff)
	for _, c := range b {
		sum ^= uint32(c) << 24
		for range 8 {
			if sum&(1<<31) != 0 {
				sum = sum<<1 ^ 0x04c11db7
			} else {
				sum <<= 1
			}
		}
	}
	return sum
}

// cuePID is that of the SCTE-35 stream below.
const cuePID = 0x1f0

// A broadcast is the test card as encoders of drones and of television send it:
// beside picture and sound KLV in both ways, and SCTE-35.
type broadcast struct {
	out             bytes.Buffer
	writer          *mcts.Writer
	video, audio    *mcts.Track
	sync, async     *mcts.Track
	parameterSets   [][]byte
	counter         byte
	cues            int
	pictures, sound int
}

func newBroadcast(t *testing.T, c *clip.Clip) *broadcast {
	t.Helper()
	config, err := h264.ParseDecoderConfig(c.Tracks[0].DecoderConfig)
	if err != nil {
		t.Fatal(err)
	}
	b := &broadcast{
		parameterSets: append(config.SPS, config.PPS...),
		video:         &mcts.Track{Codec: &codecs.H264{}}, audio: &mcts.Track{Codec: &codecs.Opus{ChannelCount: 2}},
		sync: &mcts.Track{Codec: &codecs.KLV{Synchronous: true}}, async: &mcts.Track{Codec: &codecs.KLV{}},
	}
	b.writer = &mcts.Writer{W: &b.out, Tracks: []*mcts.Track{b.video, b.audio, b.sync, b.async}}
	if err := b.writer.Initialize(); err != nil {
		t.Fatal(err)
	}
	return b
}

// unit returns the packets of a unit, and now and then of what goes with it.
func (b *broadcast) unit(u *media.AccessUnit) ([]byte, error) {
	b.out.Reset()
	at := mpegts.Ticks(u.PTS + 10*time.Second)
	var err error
	if u.Track == clip.VideoTrack {
		var nalus [][]byte
		if u.RandomAccess {
			nalus = append(nalus, b.parameterSets...)
		}
		if nalus, err = h264.SplitLengthPrefixed(nalus, u.Payload); err != nil {
			return nil, err
		}
		b.pictures++
		klv := append([]byte{0x06, 0x0e, 0x2b, 0x34, 2, 0x0b, 1, 1, 0x0e, 1, 3, 1, 1, 0, 0, 0, 8}, binary.BigEndian.AppendUint64(nil, uint64(at))...)
		err = errors.Join(b.writer.WriteH264(b.video, at, mpegts.Ticks(u.DTS+10*time.Second), nalus),
			b.writer.WriteKLV(b.sync, at, klv), b.writer.WriteKLV(b.async, at, klv))
	} else {
		b.sound++
		err = b.writer.WriteOpus(b.audio, at, [][]byte{u.Payload})
	}
	return b.withCues(), err
}

// withCues adds an SCTE-35 stream to the packets of a unit: to each program map, and a
// section with a splice_null (ANSI/SCTE 35, 9.7.1) behind it.
func (b *broadcast) withCues() []byte {
	var out []byte
	for ts := b.out.Bytes(); len(ts) > 0; ts = ts[mpegts.PacketBytes:] {
		p := bytes.Clone(ts[:mpegts.PacketBytes])
		if p[1]&0x40 == 0 || p[3]&0x20 != 0 || p[4] != 0 || p[5] != 2 || p[6]&0xf0 != 0xb0 {
			out = append(out, p...)
			continue
		}
		n := 3 + int(binary.BigEndian.Uint16(p[6:])&0xfff)
		section := append(bytes.Clone(p[5:5+n-4]), 0x86, 0xe0|cuePID>>8, cuePID&0xff, 0xf0, 6, 5, 4, 'C', 'U', 'E', 'I')
		binary.BigEndian.PutUint16(section[1:], 0xb000|uint16(len(section)+4-3))
		copy(p[5:], binary.BigEndian.AppendUint32(section, crc(section)))
		out = append(out, p...)

		cue := []byte{0xfc, 0x30, 17, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xf0, 0, 0, 0, 0}
		cue = binary.BigEndian.AppendUint32(cue, crc(cue))
		packet := append([]byte{0x47, 0x40 | cuePID>>8, cuePID & 0xff, 0x10 | b.counter&0xf, 0}, cue...)
		b.counter++
		b.cues++
		out = append(out, packet...)
		out = append(out, bytes.Repeat([]byte{0xff}, mpegts.PacketBytes-len(packet))...)
	}
	return out
}

// TestMetadataIsLeftOut: KLV and SCTE-35 beside picture and sound are left out, which
// is told and counted, and cost the media nothing.
func TestMetadataIsLeftOut(t *testing.T) {
	told := &lines{}
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(told, nil)))
	defer slog.SetDefault(before)
	addr := peers.FreeAddr(t)
	g := plugintest.Attach(t, plugintest.Connect(t, Plugin()), fmt.Appendf(nil, `{"listen": %q}`, addr))
	c, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	b := newBroadcast(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel()
	sent := make(map[uint32][][]byte) // payloads by track; complete when sending is over
	sending.Go(func() {
		conn := call(ctx, addr)
		if conn == nil {
			return
		}
		defer conn.Close()
		sending.Go(conn.Discard)
		player := c.NewPlayer()
		for start := time.Now(); ; {
			u := player.Next()
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(start.Add(u.DTS))):
			}
			ts, err := b.unit(u)
			if err != nil {
				t.Error(err)
				return
			}
			sent[uint32(u.Track)] = append(sent[uint32(u.Track)], u.Payload)
			for len(ts) > 0 {
				n := min(len(ts), srt.PayloadBytes)
				if err := conn.Write(ts[:n]); err != nil {
					t.Error(err)
					return
				}
				ts = ts[n:]
			}
		}
	})
	var offer *wire.Offer
	for offer == nil {
		offer = g.Recv().GetOffer()
	}
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: 1, Kind: wire.SessionKind_SESSION_KIND_INGEST, StreamId: 1, Stream: "studio", Offer: offer.GetOffer(), InitialCreditBytes: 1 << 24,
	}}})
	got := make(map[uint32][][]byte)
	var tracks []*wire.Track
	leftOut := 0.0
	for len(got[1]) < 60 || len(got[2]) < 100 || leftOut == 0 {
		m := g.Recv()
		for _, u := range m.GetMedia().GetUnits() {
			got[u.GetTrack()] = append(got[u.GetTrack()], u.GetPayload())
		}
		if s := m.GetTracks(); s != nil {
			tracks = s.GetTracks()
		}
		if s := m.GetStats(); s != nil {
			leftOut = s.GetValues()["ts_streams_left_out"]
		}
	}
	cancel()
	sending.Wait()
	if len(tracks) != 2 || tracks[0].GetCodec() != "h264" || tracks[1].GetCodec() != "opus" {
		t.Errorf("tracks %v", tracks)
	}
	if leftOut != 3 || !told.have("level=WARN", "kind=klv") || !told.have("level=WARN", "kind=scte-35") {
		t.Errorf("%v streams left out, want two of KLV and one of SCTE-35; told: %q", leftOut, told.all)
	}
	if b.cues < 2 {
		t.Errorf("only %d cues were sent", b.cues)
	}
	for track, units := range got {
		for i, payload := range units {
			if !bytes.Equal(payload, sent[track][i]) {
				t.Fatalf("unit %d of track %d is not what was sent", i, track)
			}
		}
	}
}

// lines are what was logged.
type lines struct {
	mu  sync.Mutex // guards the field below
	all []string
}

// Write implements [io.Writer].
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(b))
	return len(b), nil
}

// have reports whether one line has all the words.
func (l *lines) have(words ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.all, func(line string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
	})
}

// call calls as an encoder does, once the port is open; nil if ctx ends before.
func call(ctx context.Context, addr string) *srt.Conn {
	for ctx.Err() == nil {
		conn, err := srt.Dial(ctx, srt.Address{Mode: srt.Caller, HostPort: addr, StreamID: secret.New("studio"), Latency: patience}, nil)
		if err == nil {
			return conn
		}
	}
	return nil
}
