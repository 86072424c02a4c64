package rtmp

import (
	"fmt"
	"io"
	"net"
	"testing"
)

// discardServer accepts connections and throws away what comes.
func discardServer(b *testing.B) (addr string) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 1<<20))
				_ = conn.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

// BenchmarkWrite sends one picture of 12.5 KB, the mean of 720p30 at 3 Mb/s, to
// one and to ten targets.
func BenchmarkWrite(b *testing.B) {
	payload := make([]byte, 12_500)
	for _, size := range []int{4096, ChunkSize} {
		for _, targets := range []int{1, 10} {
			b.Run(fmt.Sprintf("discard/chunk=%d/targets=%d", size, targets), func(b *testing.B) {
				var writers []*chunkWriter
				for range targets {
					w := newChunkWriter(io.Discard, discardVector{})
					w.size = size
					writers = append(writers, w)
				}
				run(b, writers, payload)
			})
			b.Run(fmt.Sprintf("tcp/chunk=%d/targets=%d", size, targets), func(b *testing.B) {
				addr := discardServer(b)
				var writers []*chunkWriter
				for range targets {
					conn, err := net.Dial("tcp", addr)
					if err != nil {
						b.Fatal(err)
					}
					b.Cleanup(func() { _ = conn.Close() })
					sock := newSocket(conn.(*net.TCPConn), defaultStallTimeout)
					w := newChunkWriter(sock, sock)
					w.size = size
					writers = append(writers, w)
				}
				run(b, writers, payload)
			})
		}
	}
}

func run(b *testing.B, writers []*chunkWriter, payload []byte) {
	b.ReportAllocs()
	b.SetBytes(int64(len(payload)))
	ts := uint32(0)
	for b.Loop() {
		ts += 33
		t := H264Tag(payload, false, 0) // once per picture
		for _, w := range writers {
			if err := w.write(chunkStreamVideo, t.typ, 1, ts, t.head[:t.headLen], t.payload); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// A discardVector takes pieces as a socket would.
type discardVector struct{}

func (discardVector) writeBuffers(v *net.Buffers) error {
	_, err := v.WriteTo(io.Discard)
	return err
}

// BenchmarkRead parses what BenchmarkWrite sends.
func BenchmarkRead(b *testing.B) {
	addr := ""
	s := &Server{OnPublish: func(*Publish) {}}
	addr = serve(b, s)
	c := dial(b, "rtmp://"+addr+"/live/key")
	t := H264Tag(make([]byte, 12_500), false, 0)
	b.SetBytes(12_500)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.WriteTag(t, 0); err != nil {
			b.Fatal(err)
		}
	}
	_ = c.Close(b.Context())
}
