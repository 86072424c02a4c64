package ingestrtsp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"
	"github.com/pion/rtp"
	"go.uber.org/goleak"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/test/camera"
	"github.com/headgate/gateway/test/intake"
	"github.com/headgate/gateway/test/peers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addrOf(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func TestConformanceOfPull(t *testing.T) {
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{})
	plugintest.TestIngest(t, Plugin(), plugintest.IngestOptions{
		PullURL: "rtsp://" + c.Addr + "/stream#transport=tcp", BadURL: "rtsp://user:SECRET@127.0.0.1:9/stream?token=SECRET",
	})
}

func TestConformanceOfPublish(t *testing.T) {
	addr := peers.FreeAddr(t)
	plugintest.TestIngest(t, Plugin(), plugintest.IngestOptions{
		Options: fmt.Appendf(nil, `{"listen": %q}`, addr),
		Publish: intake.Publishers(t, func(ctx context.Context) {
			record(ctx, "rtsp://"+addr+"/studio?token=x", gortsplib.TransportTCP)
		}),
	})
}

// record announces the test card and sends it until ctx or the connection is over. The
// port opens a little after the plugin starts; who is rejected, as a check wants it, does
// not come again in the next check.
func record(ctx context.Context, url string, by gortsplib.Transport) {
	opening, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	card, err := clip.Load()
	if err != nil {
		panic(err)
	}
	for opening.Err() == nil {
		d, video, audio := camera.Describe(card, camera.Script{})
		c := &gortsplib.Client{Transport: &by, OnRequest: func(*base.Request) {}, OnDecodeError: func(error) {}}
		if err := c.StartRecording(url, d); err != nil {
			if status := (liberrors.ErrClientBadStatusCode{}); errors.As(err, &status) {
				return
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-opening.Done():
			}
			continue
		}
		sending, stop := context.WithCancel(ctx)
		camera.NewPacker(card, camera.Script{}).Each(sending, func(u *media.AccessUnit, packets []*rtp.Packet) {
			m := video
			if u.Track == clip.AudioTrack {
				m = audio
			}
			for _, p := range packets {
				if c.WritePacketRTP(m, p) != nil {
					stop()
				}
			}
		})
		stop()
		c.Close()
		return
	}
}
