package srt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/gateway/sdk/secret"
)

func TestMain(m *testing.M) {
	// See docs/adr/0025: what the library leaves of a handshake that was refused.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/datarhei/gosrt.Dial.func1"))
}

func TestParseAddress(t *testing.T) {
	a, err := ParseAddress(secret.New("srt://host.example:9000?mode=caller&streamid=%23%21%3A%3Ar%3Dx&passphrase=0123456789ab&pbkeylen=32&latency=250&transtype=live"))
	if err != nil {
		t.Fatal(err)
	}
	if a.Mode != Caller || a.HostPort != "host.example:9000" || a.StreamID.Reveal() != "#!::r=x" || a.Passphrase.Reveal() != "0123456789ab" ||
		a.KeyBits != 256 || a.Latency != 250*time.Millisecond {
		t.Errorf("%+v", a)
	}
	for _, url := range []string{"srt://:9000", "srt://127.0.0.1:9000?mode=listener", "srt://[::1]:9000?mode=server"} {
		if a, err := ParseAddress(secret.New(url)); err != nil || a.Mode != Listener {
			t.Errorf("%s: %+v %v", url, a, err)
		}
	}
	if _, err := a.Overlay(Address{StreamID: secret.New("SECRET")}); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("two stream ids: %v", err)
	}
	if b, err := a.Overlay(Address{StreamID: a.StreamID, KeyBits: 256}); err != nil || b != a {
		t.Errorf("the same twice: %+v %v", b, err)
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add("srt://host:9000?latency=100&passphrase=SECRETSECRET&pbkeylen=16")
	f.Add("srt://:1")
	f.Fuzz(func(t *testing.T, url string) {
		a, err := ParseAddress(secret.New(url))
		if err == nil {
			c := a.config()
			err = c.Validate()
		}
		if err != nil && len(url) > 40 && strings.Contains(err.Error(), url[10:30]) {
			t.Errorf("the error quotes the URL: %v", err)
		}
	})
}

// TestConversation: a caller and a listener, with the right passphrase, a wrong one
// and none.
func TestConversation(t *testing.T) {
	s, err := Listen(Address{Mode: Listener, HostPort: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Address{Mode: Listener, HostPort: s.Addr()}); !errors.Is(err, ErrInUse) {
		t.Errorf("the same port again: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	got := make(chan string, 1)
	go func() {
		ended <- s.Run(ctx, func(c Call) {
			if c.StreamID().Reveal() == "nothing" {
				c.Reject(NotFound)
				return
			}
			if c.Verify(secret.New("0123456789ab")) != nil {
				return
			}
			conn, err := c.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 2000)
			n, _ := conn.Read(b)
			got <- string(b[:n])
			conn.Discard()
		})
	}()
	bits := 0
	call := func(id, pass string) (*Conn, error) {
		return Dial(t.Context(), Address{Mode: Caller, HostPort: s.Addr(), StreamID: secret.New(id), Passphrase: secret.New(pass), KeyBits: bits}, nil)
	}
	code := func(id, pass string, want uint32) {
		t.Helper()
		var e *RejectedError
		if _, err := call(id, pass); !errors.As(err, &e) || e.Code != want {
			t.Errorf("%v, want code %d", err, want)
		}
	}
	code("x", "", Unsecure)
	code("x", "0123456789xx", BadSecret)
	code("nothing", "0123456789ab", NotFound)
	bits = 256 // over a relay, as this listener names no length
	code("x", "0123456789xx", BadSecret)
	conn, err := call("x", "0123456789ab")
	if err != nil {
		t.Fatal(err)
	}
	if conn.relay == nil {
		t.Error("there is no relay")
	}
	if err := conn.Write(make([]byte, PayloadBytes+1)); err == nil {
		t.Error("no error for a datagram that is too long")
	}
	if err := conn.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	if text := <-got; text != "hello" {
		t.Errorf("received %q", text)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	conn.Discard() // until the goodbye comes
	select {
	case <-conn.Done():
	default:
		t.Error("it is not done")
	}
	if err := conn.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	conn.Close()
}

// TestKeyLength: it is named where it was not, and nothing else is touched.
func TestKeyLength(t *testing.T) {
	message := func(kind uint32, field byte) []byte {
		b := induction()
		binary.BigEndian.PutUint32(b[36:], kind)
		b[21] = field
		return b
	}
	f := func(in []byte, bits int, want uint16) {
		t.Helper()
		out := bytes.Clone(in)
		nameKeyLength(out, bits)
		if got := keyField(out); got != want {
			t.Errorf("it names %d, want %d", got, want)
		}
		if copy(out[20:22], in[20:22]); !bytes.Equal(out, in) {
			t.Error("it changed more")
		}
	}
	f(message(0xffffffff, 0), 256, 4)
	f(message(0xffffffff, 0), 192, 3)
	f(message(0xffffffff, 2), 256, 2)
	f(message(1, 0), 256, 0)    // the first message
	f(message(1010, 0), 256, 0) // a rejection
	data := message(0xffffffff, 0)
	data[0] = 0
	f(data, 256, 0)
}
