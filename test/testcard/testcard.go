// Package testcard is the built-in test card as an egress gets it: its sound in AAC.
// It is for tests, and knows the card and the transcoder.
package testcard

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/transcode"
)

// The tracks of the card.
const (
	Video media.TrackID = clip.VideoTrack
	Audio media.TrackID = 3
)

type card struct {
	tracks []media.Track
	units  []*media.AccessUnit
	err    error
}

//nolint:gochecknoglobals // made once, and never changed
var once = sync.OnceValue(func() (c card) { c.err = c.make(); return c })

// AAC returns the tracks of the card, H.264 and AAC, and the units of its ten seconds
// by decoding time. Both are shared: do not change them.
func AAC(t testing.TB) ([]media.Track, []*media.AccessUnit) {
	t.Helper()
	c := once()
	if c.err != nil {
		t.Fatal(c.err)
	}
	return c.tracks, c.units
}

func (c *card) make() error {
	in, err := clip.Load()
	if err != nil {
		return err
	}
	tr, err := transcode.OpusToAAC().Open(context.Background(), in.Tracks[1], sdk.TransformSettings{})
	if err != nil {
		return err
	}
	defer tr.Close()
	audio := tr.Track()
	audio.ID = Audio
	c.tracks, c.units = []media.Track{in.Tracks[0], audio}, in.Units(clip.VideoTrack)
	for _, u := range in.Units(clip.AudioTrack) {
		err := tr.Transform(u, func(u *media.AccessUnit) {
			u.Track = Audio
			c.units = append(c.units, u)
		})
		if err != nil {
			return err
		}
	}
	slices.SortStableFunc(c.units, func(a, b *media.AccessUnit) int { return cmp.Compare(a.DTS, b.DTS) })
	return nil
}
