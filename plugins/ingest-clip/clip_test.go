package clip

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

type recorder struct {
	onWrite func()
	times   []time.Duration // of writing, since the start
	units   []*media.AccessUnit
	start   time.Time
}

func (r *recorder) WriteAccessUnit(u *media.AccessUnit) {
	r.units = append(r.units, u)
	r.times = append(r.times, time.Since(r.start))
	if r.onWrite != nil {
		r.onWrite()
	}
}

func player(t *testing.T) *clip.Player {
	t.Helper()
	c, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	return c.NewPlayer()
}

// Every unit is written at the instant of its DTS, through the loop and beyond.
func TestPlaysInRealTime(t *testing.T) {
	p := player(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second-time.Millisecond)
		defer cancel()
		r := &recorder{start: time.Now()}
		play(ctx, p, r, nil)
		if want := 25*30 + 25*50; len(r.units) != want {
			t.Errorf("%d units in 25 s, want %d", len(r.units), want)
		}
		for i, u := range r.units {
			if r.times[i] != u.DTS {
				t.Fatalf("unit %d with DTS %v was written at %v", i, u.DTS, r.times[i])
			}
			if got := u.Received.Sub(r.start); got != r.times[i] {
				t.Fatalf("unit %d says it was received at %v, was at %v", i, got, r.times[i])
			}
		}
	})
}

// A process that was stopped goes on without a burst, and without a gap in time.
func TestGoesOnAfterAStop(t *testing.T) {
	p := player(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r := &recorder{start: time.Now()}
		r.onWrite = func() {
			if len(r.units) == 100 {
				time.Sleep(10 * time.Second) // the stop
			}
		}
		play(ctx, p, r, nil)
		last := r.units[len(r.units)-1].DTS
		if want := 10 * time.Second; (last - want).Abs() > 50*time.Millisecond {
			t.Errorf("played to %v, want %v", last, want)
		}
		for i := 102; i < len(r.units); i++ {
			if r.times[i]-r.times[i-1] != r.units[i].DTS-r.units[i-1].DTS {
				t.Fatalf("unit %d came %v after the one before, want %v", i, r.times[i]-r.times[i-1], r.units[i].DTS-r.units[i-1].DTS)
			}
		}
	})
}

func TestURLs(t *testing.T) {
	good := func(u string) {
		t.Helper()
		if err := checkURL(u); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
	bad := func(u string) {
		t.Helper()
		if err := checkURL(u); err == nil {
			t.Errorf("%s: no error", u)
		}
	}
	good("clip:")
	bad("")
	bad("clip")
	bad("clip:///etc/passwd")
	bad("clip:?audio=none")
	bad("rtmp://host/app")
	bad("%zz")
}

func TestPluginIsComplete(t *testing.T) {
	p := Plugin()
	if p.Name == "" || p.Version == "" || p.Ingest == nil {
		t.Errorf("incomplete: %+v", p)
	}
	if _, ok := p.Ingest.Ingest.(sdk.Puller); !ok {
		t.Error("declares a scheme but cannot pull")
	}
}
