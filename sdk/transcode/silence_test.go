package transcode

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

func startSilence(t testing.TB, s sdk.TransformSettings) sdk.Transformer {
	t.Helper()
	tr, err := Silence().Open(context.Background(), media.Track{ID: 3, Codec: media.H264}, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	return tr
}

// picture is a mark of time, as the gateway sends it.
func picture(at time.Duration) *media.AccessUnit {
	return &media.AccessUnit{PTS: at + 80*time.Millisecond, DTS: at, Duration: 40 * time.Millisecond, Captured: time.Unix(5000, 0).Add(at + 80*time.Millisecond)}
}

// Silence is there when its picture is, and no more than two units ahead of it; the
// units follow each other, and decode to nothing.
func TestSilenceGoesWithThePicture(t *testing.T) {
	for _, n := range []int{1, 2} {
		tr, c := startSilence(t, sdk.TransformSettings{Channels: n}), &collector{t: t}
		const begin = 7 * time.Second
		for i := range 250 {
			at := begin + time.Duration(i)*40*time.Millisecond
			c.feed(tr, picture(at))
			last := c.units[len(c.units)-1]
			if ahead := last.DTS - at; ahead < 0 || ahead > 2*samplesToTime(frameSamples) {
				t.Fatalf("silence up to %v at the picture of %v", last.DTS, at)
			}
			if !last.Captured.Equal(time.Unix(5000, 0).Add(last.PTS)) {
				t.Fatalf("captured %v, want that of %v", last.Captured, last.PTS)
			}
		}
		steady(t, c.units)
		track := tr.Track()
		if c.units[0].DTS != begin || track.DerivedFrom != 3 || track.Channels != n || track.Codec != media.AAC || track.SampleRateHz != 48000 {
			t.Errorf("first unit at %v, track %+v", c.units[0].DTS, track)
		}
		if want := []byte{0x11, 0x80 | byte(n)<<3}; !bytes.Equal(track.DecoderConfig, want) {
			t.Errorf("config %x, want %x", track.DecoderConfig, want)
		}
		if s := decodeChannels(t, c.units, n); rms(s.left[int(timeToSamples(begin)):]) > 0 || rms(s.right[int(timeToSamples(begin)):]) > 0 {
			t.Error("it is heard")
		}
		if v := tr.(sdk.TransformReporter).Figures()["silent_seconds_total"]; v < 9.9 || v > 10.1 {
			t.Errorf("%v s counted, want 10", v)
		}
	}
}

// Pictures that do not come, or come all at once, leave no hole and no step.
func TestSilenceGoesOnWithoutPictures(t *testing.T) {
	tr, c := startSilence(t, sdk.TransformSettings{}), &collector{t: t}
	c.idles(tr, time.Second)
	if len(c.units) > 0 {
		t.Errorf("%d units before the first picture", len(c.units))
	}
	for i := range 25 {
		c.feed(tr, picture(time.Duration(i)*40*time.Millisecond))
	}
	c.idles(tr, 5*time.Second)
	if end, want := c.units[len(c.units)-1].DTS, 6*time.Second-idleBehind; (end - want).Abs() > 30*time.Millisecond {
		t.Errorf("silence up to %v, want %v", end, want)
	}
	for i := range 250 {
		c.feed(tr, picture(time.Second+time.Duration(i)*40*time.Millisecond))
	}
	steady(t, c.units)
	// A jump of the publisher's clock is one here too.
	n := len(c.units)
	c.feed(tr, picture(time.Hour))
	if u := c.units[n]; u.DTS != time.Hour || !u.Discontinuity || c.units[n+1].Discontinuity {
		t.Errorf("after the jump: %+v", u)
	}
	steady(t, c.units[n+1:])
}

func TestSilenceRefuses(t *testing.T) {
	if _, err := Silence().Open(context.Background(), media.Track{ID: 3, Codec: media.H264}, sdk.TransformSettings{Channels: 6}); !sdk.IsPermanent(err) {
		t.Errorf("six channels: %v", err)
	}
}
