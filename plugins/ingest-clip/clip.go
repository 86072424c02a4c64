// Package clip is the ingest that plays the built-in test card for ever, in real
// time: a source that is always there, for a first look and for tests.
//
// It knows the card and the clock. It reads nothing from files or the network.
package clip

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// Plugin returns the plugin ingest-clip.
func Plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:      "ingest-clip",
		Shardable: true,
		Version:   sdk.Version,
		Ingest: &sdk.IngestPlugin{
			Ingest:  ingest{},
			Codecs:  []media.Codec{media.H264, media.Opus},
			Schemes: []string{"clip"},
		},
	}
}

// ingest plays the clip to every publication on its own. It has no state.
type ingest struct{}

// Serve waits: nobody publishes to this ingest by himself.
func (ingest) Serve(ctx context.Context, _ *sdk.IngestHost) error {
	<-ctx.Done()
	return nil
}

// CheckSource implements [sdk.SourceChecker].
func (ingest) CheckSource(source secret.String) error { return checkURL(source.Reveal()) }

// Pull plays the clip to pub until ctx or the publication ends.
func (ingest) Pull(ctx context.Context, source secret.String, pub *sdk.Publication) error {
	if err := checkURL(source.Reveal()); err != nil {
		return sdk.Permanent(&sdk.Error{Cause: sdk.CauseConfig, Err: err})
	}
	c, err := clip.Load()
	if err != nil {
		return sdk.Permanent(&sdk.Error{Cause: sdk.CausePlugin, Err: err})
	}
	pub.SetTracks(c.Tracks)
	play(ctx, c.NewPlayer(), pub, pub.Done())
	return nil
}

// checkURL accepts the one URL there is, "clip:".
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("not a URL; want \"clip:\"") // the error of url.Parse quotes it
	}
	if u.Scheme != "clip" || raw != "clip:" {
		return fmt.Errorf("a %s URL with more than the scheme, and there is one clip; want \"clip:\"", u.Scheme)
	}
	return nil
}

// A writer takes the units: [sdk.Publication].
type writer interface {
	WriteAccessUnit(unit *media.AccessUnit)
}

// maxBehind is how late a unit may be before the clip goes on from there rather
// than catching up in a burst: the process was stopped, or the machine slept.
const maxBehind = time.Second

// play hands each unit over at its time until ctx ends or done is closed.
func play(ctx context.Context, player *clip.Player, pub writer, done <-chan struct{}) {
	started := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		unit := player.Next()
		due := started.Add(unit.DTS)
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return
		case <-done:
			return
		case <-timer.C:
		}
		now := time.Now()
		if behind := now.Sub(due); behind > maxBehind {
			started = started.Add(behind)
		}
		unit.Received = now
		pub.WriteAccessUnit(unit)
	}
}
