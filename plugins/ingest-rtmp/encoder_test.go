package ingestrtmp

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/bluenviron/gortmplib/pkg/amf0"
	"github.com/bluenviron/gortmplib/pkg/bytecounter"
	"github.com/bluenviron/gortmplib/pkg/handshake"
	wire "github.com/bluenviron/gortmplib/pkg/message"
	mp4 "github.com/bluenviron/mediacommon/v2/pkg/formats/mp4/codecs"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/pmp4"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h265"
)

// An encoder publishes messages byte by byte as they are given, in chunks of 128 bytes.
// Handshake and commands are another implementation's.
type encoder struct {
	conn     net.Conn
	commands *wire.Writer
	media    *bufio.Writer
	reading  sync.WaitGroup
}

// publishTo connects to addr and asks to publish. It waits for no answer: what follows is
// read when the publisher is let in.
func publishTo(t *testing.T, addr, app, key string) *encoder {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	bc := bytecounter.NewReadWriter(conn)
	if _, _, err := handshake.DoClient(bc, false, false); err != nil {
		t.Fatal(err)
	}
	e := &encoder{conn: conn, commands: wire.NewWriter(bc, bc.Writer, false), media: bufio.NewWriter(conn)}
	e.reading.Go(func() { _, _ = io.Copy(io.Discard, conn) })
	t.Cleanup(func() {
		_ = conn.Close()
		e.reading.Wait()
	})
	// What encoders say of themselves, with and without Enhanced RTMP, and before they publish.
	e.command(t, 0, "connect", amf0.Object{
		{Key: "app", Value: app},
		{Key: "type", Value: "nonprivate"},
		{Key: "flashVer", Value: "FMLE/3.0 (compatible; FMSc/1.0)"},
		{Key: "swfUrl", Value: "rtmp://" + addr + "/" + app},
		{Key: "tcUrl", Value: "rtmp://" + addr + "/" + app},
		{Key: "fourCcList", Value: amf0.StrictArray{"av01", "vp09", "hvc1", "Opus"}},
		{Key: "videoFourCcInfoMap", Value: amf0.Object{{Key: "*", Value: 2.0}}},
		{Key: "capsEx", Value: 15.0},
	})
	e.command(t, 0, "releaseStream", nil, key)
	e.command(t, 0, "FCPublish", nil, key)
	e.command(t, 0, "_checkbw", nil)
	e.command(t, 0, "createStream", nil)
	e.command(t, 1<<24, "publish", nil, key, "live")
	return e
}

func (e *encoder) command(t *testing.T, stream uint32, name string, args ...any) {
	t.Helper()
	if err := e.commands.Write(&wire.CommandAMF0{ChunkStreamID: 3, MessageStreamID: stream, Name: name, CommandID: 1, Arguments: args}); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// send writes messages. Where a timestamp does not fit into 24 bits it is repeated on
// every chunk, as encoders do it.
func (e *encoder) send(t *testing.T, messages []rtmp.Message) {
	t.Helper()
	const chunk, extended = 128, 0xffffff
	for _, m := range messages {
		id := byte(6)
		if m.Type == rtmp.TypeAudio {
			id = 5
		}
		var more []byte
		if m.TimestampMS >= extended {
			more = binary.BigEndian.AppendUint32(nil, m.TimestampMS)
		}
		stamp, size := min(m.TimestampMS, extended), len(m.Body)
		head := []byte{id, byte(stamp >> 16), byte(stamp >> 8), byte(stamp), byte(size >> 16), byte(size >> 8), byte(size), byte(m.Type), 1, 0, 0, 0}
		_, _ = e.media.Write(append(head, more...)) // Flush tells
		for body := m.Body; ; {
			n := min(len(body), chunk)
			_, _ = e.media.Write(body[:n])
			if body = body[n:]; len(body) == 0 {
				break
			}
			_, _ = e.media.Write(append([]byte{3<<6 | id}, more...))
		}
	}
	if err := e.media.Flush(); err != nil {
		t.Fatal(err)
	}
}

// goodbye ends the publication.
func (e *encoder) goodbye(t *testing.T, key string) {
	t.Helper()
	e.command(t, 0, "FCUnpublish", nil, key)
	e.command(t, 0, "deleteStream", nil, 1.0)
}

// Forms of Enhanced RTMP. A picture of H.264 in the old form is the argument.

// secondTrack is a copy of a picture as that of track 1, as OBS sends several.
func secondTrack(m rtmp.Message) rtmp.Message {
	const multitrack, one, id = 6, 0, 1
	body := []byte{0x80 | m.Body[0]&0x70 | multitrack, one<<4 | m.Body[1], 'a', 'v', 'c', '1', id}
	if m.Body[1] == 1 {
		body = append(body, m.Body[2:5]...) // when it is shown
	}
	m.Body = append(body, m.Body[5:]...)
	return m
}

// delayed is the picture with nanoseconds on top of its timestamp.
func delayed(m rtmp.Message, by time.Duration) rtmp.Message {
	const modified, size, nanoseconds = 7, 3, 0
	body := []byte{0x80 | m.Body[0]&0x70 | modified, size - 1, byte(by >> 16), byte(by >> 8), byte(by), nanoseconds<<4 | m.Body[1], 'a', 'v', 'c', '1'}
	if m.Body[1] == 1 {
		body = append(body, m.Body[2:5]...)
	}
	m.Body = append(body, m.Body[5:]...)
	return m
}

// pictures265 are the messages of an MP4 file's pictures of H.265, and what is to come of
// each.
func pictures265(t *testing.T, file string) (messages []rtmp.Message, payloads [][]byte) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var movie pmp4.Presentation
	if err := movie.Unmarshal(f); err != nil {
		t.Fatal(err)
	}
	for _, track := range movie.Tracks {
		codec, ok := track.Codec.(*mp4.H265)
		if !ok {
			continue
		}
		config, err := h265.DecoderConfig{VPS: [][]byte{codec.VPS}, SPS: [][]byte{codec.SPS}, PPS: [][]byte{codec.PPS}}.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		fourCC := rtmp.FourCC(media.H265)
		messages = append(messages, rtmp.Message{Type: rtmp.TypeVideo, Body: append(append([]byte{0x90}, fourCC...), config...)})
		ticks := int64(0)
		milliseconds := func(ticks int64) int64 { return (ticks*1000 + int64(track.TimeScale)/2) / int64(track.TimeScale) }
		for _, s := range track.Samples {
			b, err := s.GetPayload()
			if err != nil {
				t.Fatal(err)
			}
			frame := byte(2)
			if !s.IsNonSyncSample {
				frame = 1
			}
			dts := milliseconds(ticks)
			later := milliseconds(ticks+int64(s.PTSOffset)) - dts
			body := append([]byte{0x80 | frame<<4 | 1}, fourCC...)
			body = append(body, byte(later>>16), byte(later>>8), byte(later))
			messages = append(messages, rtmp.Message{Type: rtmp.TypeVideo, TimestampMS: uint32(dts), Body: append(body, b...)})
			payloads = append(payloads, b)
			ticks += int64(s.Duration)
		}
	}
	return messages, payloads
}
