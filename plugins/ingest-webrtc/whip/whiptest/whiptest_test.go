package whiptest_test

import (
	"context"
	"flag"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/headgate/gateway/plugins/ingest-webrtc/session"
	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
	"github.com/headgate/gateway/plugins/ingest-webrtc/whip/whiptest"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

var (
	target = flag.String("whip.url", "", "endpoint of another server to check")
	token  = flag.String("whip.token", "", "token for it")
)

// host takes one token.
type host struct{}

func (host) Offer(_ context.Context, o sdk.Offer) (session.Publication, error) {
	if o.Credentials.Reveal() != "right" {
		return nil, &sdk.RejectedError{Reason: sdk.Unauthenticated, Message: "the token is wrong"}
	}
	return publication{}, nil
}

type publication struct{}

func (publication) SetTracks([]media.Track)            {}
func (publication) WriteAccessUnit(*media.AccessUnit)  {}
func (publication) ReportStats(sdk.IngestStats)        {}
func (publication) ReportSilence(bool)                 {}
func (publication) Codecs() []media.Codec              { return nil }
func (publication) Targets() ([]sdk.TargetState, bool) { return nil, false }
func (publication) Done() <-chan struct{}              { return nil }
func (publication) Err() error                         { return nil }
func (publication) Close(error)                        {}

// The gateway's WHIP is RFC 9725's.
func TestConformance(t *testing.T) {
	if *target != "" {
		whiptest.Run(t, whiptest.Target{URL: *target, Token: *token})
		return
	}
	log := slog.New(slog.DiscardHandler)
	s, err := session.Listen(session.Config{UDP: "127.0.0.1:0", Log: log}, host{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	web := httptest.NewServer(whip.NewHandler(s, log))
	defer web.Close()
	whiptest.Run(t, whiptest.Target{URL: web.URL + "/whip/studio", Token: "right", Ours: true})
}
