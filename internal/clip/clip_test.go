package clip

import (
	"math"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/thesyncim/gopus"
)

func load(t testing.TB) *Clip {
	t.Helper()
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClipIsSmallAndWhatItSays(t *testing.T) {
	if n := len(videoFile) + len(audioFile); n > 1<<20 {
		t.Errorf("clip of %d bytes, want at most 1 MB", n)
	}
	c := load(t)
	sps, err := h264.ParseSPS(c.SPS)
	if err != nil {
		t.Fatal(err)
	}
	if sps.Width() != Width || sps.Height() != Height || sps.FrameRate() != FrameRate || sps.MayReorder() {
		t.Errorf("SPS says %dx%d at %v, reorder %v", sps.Width(), sps.Height(), sps.FrameRate(), sps.MayReorder())
	}
	if constrained := sps.ConstraintFlags&0x40 != 0; sps.ProfileIDC != 66 || !constrained {
		t.Errorf("profile %d, flags %x: want constrained baseline", sps.ProfileIDC, sps.ConstraintFlags)
	}
	for i, u := range c.Video {
		if want := i%FrameRate == 0; u.RandomAccess != want {
			t.Errorf("picture %d: random access %v, want %v", i, u.RandomAccess, want)
		}
		nalus, err := h264.SplitLengthPrefixed(nil, u.Payload)
		if err != nil || len(nalus) != 1 || !h264.TypeOf(nalus[0]).IsVCL() {
			t.Fatalf("picture %d: %d NAL units, %v: want one slice", i, len(nalus), err)
		}
	}
	for _, track := range c.Tracks {
		if !track.Complete() {
			t.Errorf("track %d has no decoder config", track.ID)
		}
	}
	if c.Tracks[1].Channels != 2 {
		t.Errorf("%d channels, want 2", c.Tracks[1].Channels)
	}
}

func TestPlayerKeepsPictureAndSoundTogetherForHours(t *testing.T) {
	p := load(t).NewPlayer()
	last := map[media.TrackID]*media.AccessUnit{}
	var end time.Duration
	for range 50 * 3600 * 3 {
		u := p.Next()
		if u.PTS != u.DTS || u.PTS < end-time.Second/FrameRate {
			t.Fatalf("track %d: PTS %v DTS %v after %v", u.Track, u.PTS, u.DTS, end)
		}
		if before := last[u.Track]; before != nil && (before.PTS+before.Duration != u.PTS || before.Seq+1 != u.Seq) {
			t.Fatalf("track %d: %v+%v is followed by %v", u.Track, before.PTS, before.Duration, u.PTS)
		}
		last[u.Track], end = u, max(end, u.PTS)
		content := u.PTS % Duration
		if u.Track == VideoTrack && u.RandomAccess != (content%KeyframeEvery == 0) {
			t.Fatalf("at %v: random access %v", u.PTS, u.RandomAccess)
		}
	}
	if end < time.Hour {
		t.Errorf("played %v, want more than an hour", end)
	}
}

func TestUnitsAreOneRound(t *testing.T) {
	c := load(t)
	check := func(track media.TrackID, want int) {
		t.Helper()
		u := c.Units(track)
		if len(u) != want || u[0].PTS != 0 || u[want-1].PTS+u[want-1].Duration != Duration {
			t.Errorf("track %d: %d units from %v to %v", track, len(u), u[0].PTS, u[len(u)-1].PTS)
		}
	}
	check(VideoTrack, len(c.Video))
	check(AudioTrack, len(c.Audio))
}

// Decodes two rounds of the clip and looks where the beeps begin, left and right.
func TestBeepsAreWhereTheyShouldBe(t *testing.T) {
	c := load(t)
	dec, err := gopus.NewDecoder(gopus.DefaultDecoderConfig(48000, 2))
	if err != nil {
		t.Fatal(err)
	}
	var left []float64
	pcm := make([]float32, 2*5760)
	for i := range 2 * len(c.Audio) {
		n, err := dec.Decode(c.Audio[i%len(c.Audio)].Payload, pcm)
		if err != nil || n != 960 {
			t.Fatalf("packet %d: %d samples, %v", i, n, err)
		}
		for s := range n {
			left = append(left, float64(pcm[2*s]))
		}
	}
	// Loud begins where the energy of 1 ms rises over a tenth of full beep energy.
	const step = 48
	var starts []time.Duration
	loud := false
	quiet := 0
	for at := 0; at+step <= len(left); at += step {
		e := 0.0
		for _, v := range left[at : at+step] {
			e += v * v / step
		}
		if rms := math.Sqrt(e); rms > 0.1 {
			if !loud && quiet > 100 {
				starts = append(starts, time.Duration(at)*time.Second/48000)
			}
			loud, quiet = true, 0
		} else {
			loud = false
			quiet++
		}
	}
	if len(starts) != 20 {
		t.Fatalf("beeps at %v, want 20", starts)
	}
	for i, got := range starts {
		want := FlashOffset + time.Duration(i)*FlashEvery
		if d := (got - want).Abs(); d > time.Millisecond {
			t.Errorf("beep %d at %v, want %v", i, got, want)
		}
	}
}
