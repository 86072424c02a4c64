package rtmp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bluenviron/gortmplib/pkg/bytecounter"
	"github.com/bluenviron/gortmplib/pkg/rawmessage"

	"github.com/headgate/gateway/sdk/media"
)

// wire writes one video message and returns its bytes.
func wire(t *testing.T, chunkSize int, timestampMS uint32, length int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := newChunkWriter(&b, nil)
	w.size = chunkSize
	payload := bytes.Repeat([]byte{0xEE}, length-5)
	if err := w.write(chunkStreamVideo, TypeVideo, 1, timestampMS, []byte{0x17, 1, 0, 0, 0}, payload); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestChunkBytes(t *testing.T) {
	const size = 5000 // more than is sent as a small message
	f := func(timestampMS uint32, length int, wantFirst string, wantContinuation string, wantChunks int) {
		t.Helper()
		b := wire(t, size, timestampMS, length)
		first := 12
		if timestampMS >= extendedTimestamp {
			first = 16
		}
		if got := fmt.Sprintf("%x", b[:first]); got != wantFirst {
			t.Errorf("at %d: first header %s, want %s", timestampMS, got, wantFirst)
		}
		rest := b[first+min(length, size):]
		chunks := 1
		for len(rest) > 0 {
			n := len(wantContinuation) / 2
			if got := fmt.Sprintf("%x", rest[:n]); got != wantContinuation {
				t.Errorf("at %d: continuation %s, want %s", timestampMS, got, wantContinuation)
			}
			rest = rest[n:]
			rest = rest[min(len(rest), size):]
			chunks++
		}
		if chunks != wantChunks {
			t.Errorf("at %d: %d chunks, want %d", timestampMS, chunks, wantChunks)
		}
	}
	f(0, 100, "060000000000640901000000", "", 1)
	f(40, size, "060000280013880901000000", "", 1)
	f(40, size+1, "060000280013890901000000", "c6", 2)
	f(40, 3*size, "060000280"+"03a980901000000", "c6", 3)
	f(0xFFFFFE, size+1, "06fffffe0013890901000000", "c6", 2)
	f(0xFFFFFF, size+1, "06ffffff001389090100000000ffffff", "c600ffffff", 2)
	f(5*3600*1000, 2*size+7, "06ffffff00271709010000000112a880", "c60112a880", 3)
	f(0xFFFFFFFF, size+1, "06ffffff0013890901000000ffffffff", "c6ffffffff", 2)
}

// TestChunkRoundTrip sends random messages of several chunk streams, with
// timestamps around the limits, and reads them back, with our reader and with
// another one.
func TestChunkRoundTrip(t *testing.T) {
	for _, size := range []int{128, 4096, ChunkSize} {
		var b bytes.Buffer
		w := newChunkWriter(&b, nil)
		if err := w.setChunkSize(size); err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, uint64(size)))
		var sent []Message
		timestamps := []uint32{0, 1, 0xFFFFFE, 0xFFFFFF, 0x1000000, 5 * 3600 * 1000, 0xFFFFFFF0, 0xFFFFFFFF, 3}
		for i := range 60 {
			length := []int{0, 1, 5, size - 5, size - 4, size, 3*size - 5, r.IntN(5 * size)}[r.IntN(8)]
			m := Message{Type: TypeVideo, StreamID: 1, ChunkStream: chunkStreamVideo, TimestampMS: timestamps[i%len(timestamps)], Body: make([]byte, length)}
			if i%3 == 0 {
				m.Type, m.ChunkStream = TypeAudio, chunkStreamAudio
			}
			for j := range m.Body {
				m.Body[j] = byte(r.Uint32())
			}
			head := m.Body[:min(5, len(m.Body))]
			if err := w.write(byte(m.ChunkStream), m.Type, 1, m.TimestampMS, head, m.Body[len(head):]); err != nil {
				t.Fatal(err)
			}
			sent = append(sent, m)
		}

		ours := newChunkReader(bufio.NewReader(bytes.NewReader(b.Bytes())), defaultMaxMessage)
		if _, err := ours.next(); err != nil { // the chunk size
			t.Fatal(err)
		}
		theirs := rawmessage.NewReader(bytes.NewReader(b.Bytes()), bytecounter.NewReader(nil), nil)
		if _, err := theirs.Read(); err != nil {
			t.Fatal(err)
		}
		if err := theirs.SetChunkSize(uint32(size)); err != nil {
			t.Fatal(err)
		}
		for i, want := range sent {
			got, err := ours.next()
			if err != nil {
				t.Fatalf("size %d, message %d: %v", size, i, err)
			}
			if got.Type != want.Type || got.TimestampMS != want.TimestampMS || got.StreamID != 1 || got.ChunkStream != want.ChunkStream || !bytes.Equal(got.Body, want.Body) {
				t.Fatalf("size %d, message %d differs: type %d at %d, %d bytes", size, i, got.Type, got.TimestampMS, len(got.Body))
			}
			other, err := theirs.Read()
			if err != nil {
				t.Fatalf("size %d, message %d: the other reader: %v", size, i, err)
			}
			if other.Timestamp != time.Duration(want.TimestampMS)*time.Millisecond || !bytes.Equal(other.Body, want.Body) {
				t.Fatalf("size %d, message %d: the other reader got %v and %d bytes", size, i, other.Timestamp, len(other.Body))
			}
		}
		if _, err := ours.next(); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
		if ours.extendedFaults != 0 || ours.partial != 0 {
			t.Errorf("%d faults, %d bytes still counted", ours.extendedFaults, ours.partial)
		}
	}
}

// reader reads the given chunks.
func reader(chunks ...[]byte) *chunkReader {
	return newChunkReader(bufio.NewReader(bytes.NewReader(bytes.Join(chunks, nil))), defaultMaxMessage)
}

func TestChunkReaderHeaders(t *testing.T) {
	r := reader(
		[]byte{0x06, 0, 0, 10, 0, 0, 1, 9, 1, 0, 0, 0, 'a'},                                     // type 0 at 10
		[]byte{0x46, 0, 0, 5, 0, 0, 2, 8, 'b', 'c'},                                             // type 1, 5 later
		[]byte{0x86, 0, 0, 7, 'd', 'e'},                                                         // type 2, 7 later
		[]byte{0xC6, 'f', 'g'},                                                                  // type 3: the same again
		[]byte{0x00, 0, 0, 0, 1, 0, 0, 1, 9, 1, 0, 0, 0, 'h'},                                   // chunk stream 64
		[]byte{0x01, 5, 1, 0, 0, 1, 0, 0, 1, 9, 1, 0, 0, 0, 'i'},                                // chunk stream 64+5+256
		[]byte{0x86, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0xFF, 'j', 'k'},                           // an extended delta
		[]byte{0xC6, 0, 0xFF, 0xFF, 0xFF, 'l', 'm'},                                             // and again
		[]byte{0x07, 0xFF, 0xFF, 0xFF, 0, 0, 129, 9, 1, 0, 0, 0, 1, 0, 0, 0}, make([]byte, 128), // extended at 2^24, in two chunks,
		[]byte{0xC7, 0, 0, 0, 0, 'n'},                                                           // where the repetition is zero
		[]byte{0x07, 0xFF, 0xFF, 0xFF, 0, 0, 132, 9, 1, 0, 0, 0, 1, 0, 0, 0}, make([]byte, 128), // and once more,
		[]byte{0xC7, 'o', 'p', 'q', 'r'},                                        // where it is missing
		[]byte{0x02, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 2},               // chunk size 2
		[]byte{0x06, 0, 0, 1, 0, 0, 3, 9, 1, 0, 0, 0, 's', 't'},                 // begins
		[]byte{0x02, 0, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 0, 0}, []byte{0xC2, 0, 6}, // is aborted
		[]byte{0x06, 0, 0, 2, 0, 0, 2, 9, 1, 0, 0, 0, 'u', 'v'},
		[]byte{0x45, 0, 0, 9, 0, 0, 2, 3, 'w', 'x'}, // type 1 at the beginning of a chunk stream
	)
	f := func(typ MessageType, timestampMS uint32, chunkStream uint32, end string) {
		t.Helper()
		m, err := r.next()
		if err != nil {
			t.Fatalf("%q: %v", end, err)
		}
		if m.Type != typ || m.TimestampMS != timestampMS || m.ChunkStream != chunkStream || !bytes.HasSuffix(m.Body, []byte(end)) {
			t.Errorf("%q: %+v", end, m)
		}
	}
	f(9, 10, 6, "a")
	f(8, 15, 6, "bc")
	f(8, 22, 6, "de")
	f(8, 29, 6, "fg")
	f(9, 1, 64, "h")
	f(9, 1, 325, "i")
	f(8, 29+0xFFFFFF, 6, "jk")
	f(8, 29+2*0xFFFFFF, 6, "lm")
	f(9, 1<<24, 7, "n")
	f(9, 1<<24, 7, "opqr")
	f(1, 0, 2, "\x02")
	f(2, 0, 2, "\x06")
	f(9, 2, 6, "uv")
	f(3, 9, 5, "wx")
	if r.extendedFaults != 2 {
		t.Errorf("%d faults of extended timestamps, want 2", r.extendedFaults)
	}
}

func TestChunkReaderRefuses(t *testing.T) {
	f := func(want string, chunks ...[]byte) {
		t.Helper()
		r := reader(chunks...)
		var err error
		for err == nil {
			_, err = r.next()
		}
		if err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
	}
	f("unexpected EOF", []byte{0x06, 0, 0})
	f("chunk stream 6 begins with a chunk of type 3", []byte{0xC6, 0})
	f("chunk stream 6 begins with a chunk of type 2", []byte{0x86, 0, 0, 0})
	f("chunk stream 6 begins a message inside another",
		[]byte{0x06, 0, 0, 0, 0, 1, 0, 9, 1, 0, 0, 0}, make([]byte, 128), []byte{0x06, 0, 0, 0})
	f("message of type 9 announces 8388609 bytes, more than 8388608", []byte{0x06, 0, 0, 0, 0x80, 0, 1, 9, 1, 0, 0, 0})
	f("message of type 20 announces 65537 bytes, more than 65536", []byte{0x03, 0, 0, 0, 1, 0, 1, 20, 0, 0, 0, 0})
	f("message of type 4 announces 65 bytes, more than 64", []byte{0x02, 0, 0, 0, 0, 0, 65, 4, 0, 0, 0, 0})
	f("chunk size 0 is not allowed", []byte{0x02, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f("chunk size 2147483648 is not allowed", []byte{0x02, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0x80, 0, 0, 0})

	var many [][]byte
	for i := range maxChunkStreams + 1 {
		many = append(many, []byte{0, byte(i), 0, 0, 0, 0, 0, 0, 9, 1, 0, 0, 0})
	}
	f("more than 64 chunk streams", many...)

	var unfinished [][]byte
	for i := range 3 {
		unfinished = append(unfinished, []byte{0, byte(i), 0, 0, 0, 0x40, 0, 0, 9, 1, 0, 0, 0}, make([]byte, 128))
	}
	f("unfinished messages announce more than 9437184 bytes", unfinished...)
}

// TestChunkReaderAllocates what came, not what was announced.
func TestChunkReaderAllocates(t *testing.T) {
	header := []byte{0x06, 0, 0, 0, 0x80, 0, 0, 9, 1, 0, 0, 0}
	r := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			if _, err := reader(header, make([]byte, 100)).next(); err == nil {
				b.Fatal("no error")
			}
		}
	})
	if n := r.AllocedBytesPerOp(); n > 200<<10 {
		t.Errorf("a client that announces 8 MiB and sends 100 bytes costs %d bytes", n)
	}
}

func TestAcknowledgement(t *testing.T) {
	var window [4]byte
	binary.BigEndian.PutUint32(window[:], 10_000)
	chunks := [][]byte{{0x02, 0, 0, 0, 0, 0, 4, 5, 0, 0, 0, 0}, window[:]}
	for range 300 {
		chunks = append(chunks, []byte{0x06, 0, 0, 0, 0, 0, 100, 9, 1, 0, 0, 0}, make([]byte, 100))
	}
	r := reader(chunks...)
	var acks []uint32
	r.onAck = func(total uint32) error { acks = append(acks, total); return nil }
	var err error
	for err == nil {
		_, err = r.next()
	}
	if len(acks) != 3 || acks[0] < 10_000 || acks[0] > 10_112 || acks[2]-acks[1] < 10_000 {
		t.Errorf("acknowledgements %v", acks)
	}
}

// FuzzReader feeds what a hostile peer may send to everything that reads.
func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	w := newChunkWriter(&b, nil)
	_ = w.setChunkSize(4096)
	_ = w.command(3, 0, "connect", 1, connectObject("live", "rtmp://h/live"))
	_ = w.command(3, 0, "createStream", 2, nil)
	_ = w.command(4, 1, "publish", 3, nil, "key", "live")
	_ = w.write(4, TypeData, 1, 0, nil, Metadata{Video: &media.Track{Codec: media.H264}, Audio: []media.Track{{Codec: media.AAC}}}.Tag().payload)
	_ = w.write(6, TypeVideo, 1, 0, []byte{0x17, 0, 0, 0, 0}, []byte{1, 66, 192, 30, 255, 225, 0, 4, 0x67, 66, 192, 30, 1, 0, 2, 0x68, 0})
	_ = w.write(5, TypeAudio, 1, 0, []byte{0xAF, 0}, []byte{0x11, 0x90})
	_ = w.write(6, TypeVideo, 1, 0xFFFFFF, []byte{0x90, 'h', 'v', 'c', '1'}, make([]byte, 5000))
	f.Add(b.Bytes())
	f.Add([]byte{0x03, 0, 0, 0, 0, 0, 6, 20, 0, 0, 0, 0, 0x0A, 0, 0, 0, 1, 0x0A})
	f.Fuzz(func(_ *testing.T, input []byte) {
		r := newChunkReader(bufio.NewReader(bytes.NewReader(input)), 1<<20)
		m := newMeter(time.Now())
		flv, _ := NewFLVWriter(io.Discard, true, true)
		for {
			msg, err := r.next()
			if err != nil {
				return
			}
			m.observe(msg, time.Now())
			_ = flv.WriteMessage(msg)
			if cmd, err := parseCommand(msg.Type, msg.Body); err == nil {
				cmd.status()
				cmd.number(1)
				parseCapabilities(cmd)
				reconnectURL(cmd)
			}
		}
	})
}
