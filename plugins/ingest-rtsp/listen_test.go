package ingestrtsp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/wire"
	"github.com/headgate/gateway/test/camera"
	"github.com/headgate/gateway/test/intake"
	"github.com/headgate/gateway/test/peers"
)

// A logbook keeps what is logged.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// logged has what is logged from here on kept, until the test ends.
func logged(t *testing.T) *logbook {
	t.Helper()
	logs := &logbook{}
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	t.Cleanup(func() { slog.SetDefault(before); log.SetOutput(os.Stderr) }) // the former does not take the latter back
	return logs
}

// awaitEncoders starts the plugin with an address for encoders.
func awaitEncoders(t *testing.T, format string, args ...any) *plugintest.Gateway {
	t.Helper()
	g := attach(t, fmt.Sprintf(format, args...))
	waitListening(t, args[0].(string))
	return g
}

// announce is a client that announces d; how that went comes from the channel.
func announce(t *testing.T, url string, d *description.Session) (*gortsplib.Client, <-chan error) {
	t.Helper()
	by := gortsplib.TransportTCP
	c := &gortsplib.Client{
		Transport: &by, ReadTimeout: 20 * time.Second,
		OnRequest: func(*base.Request) {}, OnDecodeError: func(error) {},
	}
	done := make(chan error, 1)
	go func() { done <- c.StartRecording(url, d) }()
	return c, done
}

// testCard is the test card, its description and that of its pictures.
func testCard(t *testing.T) (*clip.Clip, *description.Session, *description.Media) {
	t.Helper()
	c, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	d, video, _ := camera.Describe(c, camera.Script{})
	return c, d, video
}

// TestRefusals: an encoder that may not publish is told by the status that the README
// names, the log says why, and neither says more of its URL than the name.
func TestRefusals(t *testing.T) {
	logs := logged(t)
	addr := peers.FreeAddr(t)
	g := awaitEncoders(t, `{"listen": %q}`, addr)
	refused := func(url string, d *description.Session, reason wire.OfferRejected_Reason, want base.StatusCode) {
		t.Helper()
		c, done := announce(t, url, d)
		defer c.Close()
		if reason != wire.OfferRejected_REASON_UNSPECIFIED {
			intake.Reject(g, reason, "because of "+reason.String())
		}
		var status liberrors.ErrClientBadStatusCode
		if err := <-done; !errors.As(err, &status) || status.Code != want {
			t.Errorf("%v: %v, want %d", reason, err, want)
		}
		if text := "because of " + reason.String(); reason != wire.OfferRejected_REASON_UNSPECIFIED && !strings.Contains(logs.String(), text) {
			t.Errorf("the log does not say %q", text)
		}
	}
	_, d, _ := testCard(t)
	url := "rtsp://" + addr + "/studio?token=" + canary
	refused(url, d, wire.OfferRejected_UNAUTHENTICATED, base.StatusUnauthorized)
	refused(url, d, wire.OfferRejected_FORBIDDEN, base.StatusForbidden)
	refused(url, d, wire.OfferRejected_NOT_FOUND, base.StatusNotFound)
	refused(url, d, wire.OfferRejected_CONFLICT, base.StatusMethodNotValidInThisState)
	refused(url, d, wire.OfferRejected_BUSY, base.StatusServiceUnavailable)
	refused(url, d, wire.OfferRejected_UNUSABLE, base.StatusUnsupportedMediaType)
	// These the plugin refuses by itself.
	refused("rtsp://"+addr+"/?token="+canary, d, wire.OfferRejected_REASON_UNSPECIFIED, base.StatusBadRequest)
	refused("rtsp://"+addr+"/"+strings.Repeat("x", 201)+"?token="+canary, d, wire.OfferRejected_REASON_UNSPECIFIED, base.StatusBadRequest)
	refused(url, &description.Session{Medias: []*description.Media{{Type: description.MediaTypeVideo, Formats: []format.Format{&format.MJPEG{}}}}},
		wire.OfferRejected_REASON_UNSPECIFIED, base.StatusUnsupportedMediaType)
	for _, want := range []string{"the URL names no stream", "nothing that the gateway carries"} {
		if !strings.Contains(logs.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if strings.Contains(logs.String(), canary) {
		t.Error("the log holds a token")
	}
}

// TestPassword: an encoder that has the token as its password comes without at first,
// is asked for it, and is let in.
func TestPassword(t *testing.T) {
	addr := peers.FreeAddr(t)
	g := awaitEncoders(t, `{"listen": %q}`, addr)
	_, d, _ := testCard(t)
	c, done := announce(t, "rtsp://anybody:T0%20KEN@"+addr+"/studio", d)
	defer c.Close()
	if n := len(intake.Reject(g, wire.OfferRejected_UNAUTHENTICATED, "").GetCredentials()); n != 0 {
		t.Errorf("credentials before they were asked for: %d bytes", n)
	}
	if o := intake.Accept(g); o.GetName() != "studio" || string(o.GetCredentials()) != "T0 KEN" {
		t.Errorf("offer of %q with %q", o.GetName(), o.GetCredentials())
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestSendOnly: an encoder may say of its tracks that it only sends them.
func TestSendOnly(t *testing.T) {
	addr := peers.FreeAddr(t)
	g := awaitEncoders(t, `{"listen": %q}`, addr)
	_, d, _ := testCard(t)
	for _, m := range d.Medias {
		m.IsBackChannel = true // which is written the same way
	}
	u, err := base.ParseURL("rtsp://" + addr + "/studio?token=x")
	if err != nil {
		t.Fatal(err)
	}
	c := &gortsplib.Client{Scheme: u.Scheme, Host: u.Host, ReadTimeout: 20 * time.Second}
	if err := c.Start2(); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := make(chan error, 1)
	go func() {
		_, err := c.Announce(u, d)
		done <- err
	}()
	if o := intake.Accept(g); len(o.GetCodecs()) != 2 {
		t.Errorf("offer of %v", o.GetCodecs())
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestUnreadableDescription: an encoder whose description is not understood is told so,
// and the log says why.
func TestUnreadableDescription(t *testing.T) {
	logs := logged(t)
	addr := peers.FreeAddr(t)
	awaitEncoders(t, `{"listen": %q}`, addr)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	const description = "v=0\r\nm=video 0 RTP/AVP 96\r\na=mid:rtsp://host/?token=" + canary + "\r\n"
	_, _ = fmt.Fprintf(c, "ANNOUNCE rtsp://%s/studio?token=%s RTSP/1.0\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s",
		addr, canary, len(description), description)
	answer, err := io.ReadAll(c) // the connection ends
	if err != nil || !strings.HasPrefix(string(answer), "RTSP/1.0 400") {
		t.Errorf("%v: %s", err, answer)
	}
	peers.Wait(t, 20*time.Second, "the log", func() error {
		if !strings.Contains(logs.String(), "its description is not understood: media 1 is invalid: invalid mid") {
			return errors.New(logs.String())
		}
		return nil
	})
	if strings.Contains(logs.String(), canary) {
		t.Error("the log holds a token")
	}
}

// TestSuperseded: when the gateway gives the name to another publisher, the connection
// of the one before ends.
func TestSuperseded(t *testing.T) {
	addr := peers.FreeAddr(t)
	g := awaitEncoders(t, `{"listen": %q}`, addr)
	card, d, video := testCard(t)
	c, done := announce(t, "rtsp://"+addr+"/studio?token=x", d)
	defer c.Close()
	intake.Accept(g)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, p := range camera.NewPacker(card, camera.Script{}).Pack(card.NewPlayer().Next()) {
		if err := c.WritePacketRTP(video, p); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Close{Close: &wire.Close{Session: 1}}})
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the connection ended without an error")
		}
	case <-time.After(20 * time.Second):
		t.Error("the connection is still there")
	}
}
