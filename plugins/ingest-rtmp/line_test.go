package ingestrtmp

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
	"github.com/headgate/gateway/test/peers"
)

// TestSilentPublisher: one whose connection stands but brings nothing is noticed soon,
// and sent away after a while with the reason.
func TestSilentPublisher(t *testing.T) {
	t.Parallel()
	addr := peers.FreeAddr(t)
	g := plugintest.Attach(t, plugintest.Connect(t, Plugin()), fmt.Appendf(nil, `{"listen": %q}`, addr))
	peers.Wait(t, 20*time.Second, "the port", func() error { return peers.Listening(addr) })
	target, err := rtmp.ParseTarget(secret.New("rtmp://"+addr+"/live/studio"), secret.New("?user=me&pass=T"))
	if err != nil {
		t.Fatal(err)
	}
	type dialed struct {
		conn *rtmp.Conn
		err  error
	}
	came := make(chan dialed, 1)
	go func() {
		conn, err := rtmp.Dial(t.Context(), rtmp.ClientConfig{Target: target, DialTimeout: 30 * time.Second})
		came <- dialed{conn, err}
	}()
	var offer *wire.Offer
	for offer == nil {
		offer = g.Recv().GetOffer()
	}
	if offer.GetName() != "live/studio" || string(offer.GetCredentials()) != "T" || !strings.Contains(offer.GetAgent(), "Headgate") {
		t.Errorf("offer %v", offer)
	}
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: 1, Kind: wire.SessionKind_SESSION_KIND_INGEST, StreamId: 1, Stream: "live/studio", Offer: offer.GetOffer(), InitialCreditBytes: 1 << 22,
	}}})
	d := <-came
	if d.err != nil {
		t.Fatal(d.err)
	}
	defer func() { _ = d.conn.Close(t.Context()) }()
	_, track, picture := testCard(t)
	for _, tag := range []*rtmp.Tag{rtmp.H264HeaderTag(track.DecoderConfig), rtmp.H264Tag(picture, true, 0)} {
		if err := d.conn.WriteTag(tag, 0); err != nil {
			t.Fatal(err)
		}
	}
	for silent := false; !silent; {
		silent = g.Recv().GetSilence().GetSilent()
	}
	select {
	case <-d.conn.Failed():
	case <-time.After(60 * time.Second):
		t.Fatal("it is still there")
	}
	if err := d.conn.Err(); err == nil || !strings.Contains(err.Error(), "no picture and no sound came for 10s") {
		t.Errorf("it was told %v", err)
	}
	for {
		if s := g.Recv().GetState(); s.GetState() == wire.SessionState_FAILED {
			if !strings.Contains(s.GetMessage(), "no picture and no sound") {
				t.Errorf("the gateway was told %v", s)
			}
			break
		}
	}
}
