package wire

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/headgate/gateway/sdk/media"
)

// unixPair returns the two ends of a unix socket.
func unixPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

// framed is the message as it is on a socket.
func framed(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// receiver returns a socket on which data arrives in pieces of n bytes, and then the end.
func receiver(t *testing.T, data []byte, n int) *Socket {
	t.Helper()
	a, b := net.Pipe()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for len(data) > 0 {
			k, err := a.Write(data[:min(n, len(data))])
			if data = data[k:]; err != nil {
				return
			}
		}
		_ = a.Close()
	}()
	s := NewSocket(b)
	t.Cleanup(func() { _ = s.Close(); <-sent })
	return s
}

// What either end of a socket sends the other receives, in order: control and media, of
// all sizes.
func TestSocket(t *testing.T) {
	a, b := unixPair(t)
	gateway, plugin := NewSocket(a), NewSocket(b)
	const rounds = 40
	now := time.Now()
	steps := func(i int) []Step {
		if i == rounds/2 { // one of the largest, after which smaller ones follow
			return []Step{{Sessions: []uint32{1}, Item: Item{Unit: &media.AccessUnit{Payload: make([]byte, MaxPayloadBytes)}}}}
		}
		return randomSteps(rand.New(rand.NewPCG(uint64(i), 2)), now)
	}
	sent := make(chan error, 1)
	go func() {
		var err error
		for i := range rounds {
			err = errors.Join(err,
				gateway.SendMsg(&HostMsg{M: &HostMsg_Ping{Ping: &Ping{Id: uint64(i)}}}),
				gateway.SendMsg(&HostUnits{Units{Steps: steps(i), Now: now}}))
		}
		sent <- errors.Join(err, gateway.Close())
	}()
	var in HostInbound
	in.MaxAge = maxAge
	for i := range rounds {
		if err := plugin.RecvMsg(&in); err != nil || in.Msg.GetPing().GetId() != uint64(i) {
			t.Fatalf("round %d: %v, %v", i, in.Msg, err)
		}
		if err := plugin.RecvMsg(&in); err != nil || in.Msg != nil {
			t.Fatalf("round %d: %v, %v", i, in.Msg, err)
		}
		same(t, in.Units, usual(steps(i), now))
	}
	if err := plugin.RecvMsg(&in); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := plugin.SendMsg(&PluginMsg{}); !errors.Is(err, io.EOF) {
		t.Errorf("to nobody: %v", err)
	}
	if n := len(plugin.in); n > maxReadBytes {
		t.Errorf("it keeps %d bytes to read into", n)
	}
}

// It does not matter in which pieces messages arrive.
func TestSocketInPieces(t *testing.T) {
	var data []byte
	var want []*PluginMsg
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 100, minReadBytes - lengthBytes, minReadBytes, 3 * minReadBytes, 200, maxReadBytes + 1, 5, 0, 40_000, 40_000} {
		text := make([]byte, n)
		for i := range text {
			text[i] = 'a' + byte(r.IntN(26))
		}
		m := &PluginMsg{M: &PluginMsg_Enquiry{Enquiry: &Enquiry{Name: string(text)}}}
		want = append(want, m, &PluginMsg{})
		data = append(append(data, framed(t, m)...), framed(t, &PluginMsg{})...)
	}
	for _, piece := range []int{7, 100, 16384, len(data)} {
		s := receiver(t, data, piece)
		for i, w := range want {
			var m PluginMsg
			if err := s.RecvMsg(&m); err != nil || !proto.Equal(&m, w) {
				t.Fatalf("in pieces of %d, message %d: %v", piece, i, err)
			}
		}
		if err := s.RecvMsg(&PluginMsg{}); !errors.Is(err, io.EOF) {
			t.Errorf("in pieces of %d, at the end: %v", piece, err)
		}
	}
}

// What is no message, or too large for one, is told as gRPC tells it, and takes no memory.
func TestSocketRefuses(t *testing.T) {
	f := func(data string, want codes.Code) {
		t.Helper()
		s := receiver(t, []byte(data), len(data))
		if err := s.RecvMsg(&PluginInbound{}); status.Code(err) != want {
			t.Errorf("%q: %v, want %v", data, err, want)
		}
		if n := len(s.in); n > minReadBytes {
			t.Errorf("%q: it made room for %d bytes", data, n)
		}
	}
	f("\xff\xff\xff\xff", codes.ResourceExhausted)
	f("\x01\x01\x00\x01", codes.ResourceExhausted) // one byte too long
	f("\x01\x01\x00\x00rest", codes.Unavailable)   // as long as can be, and cut off
	f("\x00\x00", codes.Unavailable)
	f("\x00\x00\x00\x02\x0a", codes.Unavailable)
	f("\x00\x00\x00\x05\x32\xff\xff\xff\xff", codes.Internal)
	a, _ := unixPair(t)
	large := &PluginMsg{M: &PluginMsg_Offer{Offer: &Offer{Credentials: make([]byte, maxFrameBytes)}}}
	if err := NewSocket(a).SendMsg(large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("sending too much: %v", err)
	}
	if err := NewSocket(a).SendMsg("text"); status.Code(err) != codes.Internal {
		t.Errorf("sending what is no message: %v", err)
	}
}

// Who waits on a socket that is closed hears of it.
func TestSocketCloses(t *testing.T) {
	a, _ := unixPair(t)
	s := NewSocket(a)
	done := make(chan error, 2)
	go func() { done <- s.RecvMsg(&HostInbound{}) }()
	go func() { // nobody reads
		m := &PluginMsg{M: &PluginMsg_Offer{Offer: &Offer{Credentials: make([]byte, 1<<20)}}}
		var err error
		for err == nil {
			err = s.SendMsg(m)
		}
		done <- err
	}()
	s.CloseAfter(10 * time.Millisecond)
	for range 2 {
		if err := <-done; !errors.Is(err, io.EOF) && status.Code(err) != codes.Unavailable {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
