package derive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/retry"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/core/session"
	"github.com/headgate/gateway/sdk/media"
)

// maxLag is how far a transform may be behind: it is quick or it is broken.
const maxLag = 2 * time.Second

// An Opener opens transform sessions; see [pluginhost.Host.OpenTransform].
type Opener interface {
	OpenTransform(spec pluginhost.TransformSpec, handler pluginhost.SessionHandler, src pluginhost.Source) (pluginhost.Session, error)
}

// A Deriver makes the derived tracks of one stream. [Deriver.Need] may be called
// from any goroutine; nothing is made before and after [Deriver.Run].
type Deriver struct {
	stream *router.Stream
	opener Opener
	log    *slog.Logger

	wake chan struct{} // has a value when needs changed

	mu    sync.Mutex // guards the fields below
	needs map[Need]*need
}

// need is one track that is made.
type need struct {
	holders int
	err     error // of the newest try; nil while it works
	track   media.TrackID
	feed    *session.Feed // of the newest session; nil before the first
}

// New makes a deriver. It starts nothing.
func New(stream *router.Stream, opener Opener, log *slog.Logger) *Deriver {
	return &Deriver{
		stream: stream, opener: opener, log: log,
		wake: make(chan struct{}, 1), needs: make(map[Need]*need),
	}
}

// Need asks for a derived track until release is called, once. The track is made
// as long as anybody needs it.
func (d *Deriver) Need(n Need) (release func()) {
	d.mu.Lock()
	e := d.needs[n]
	if e == nil {
		e = &need{}
		d.needs[n] = e
	}
	e.holders++
	d.mu.Unlock()
	d.poke()
	return func() {
		d.mu.Lock()
		e.holders--
		if e.holders == 0 {
			delete(d.needs, n)
		}
		d.mu.Unlock()
		d.poke()
	}
}

// Err says why the track of n is not being made; nil if it is, or will be.
func (d *Deriver) Err(n Need) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.needs[n]; e != nil {
		return e.err
	}
	return nil
}

// Figures are those that whoever makes a derived track has of it; nil for others.
func (d *Deriver) Figures(track media.TrackID) map[string]float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.needs {
		if n.track == track && n.feed != nil {
			return n.feed.State().Stats.Values
		}
	}
	return nil
}

func (d *Deriver) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run makes what is needed until ctx ends.
func (d *Deriver) Run(ctx context.Context) error {
	type maker struct {
		of     *need
		cancel context.CancelFunc
		done   chan struct{}
	}
	makers := make(map[Need]maker)
	stop := func(n Need) {
		m := makers[n]
		delete(makers, n)
		m.cancel()
		<-m.done
	}
	for {
		d.mu.Lock()
		var stale, fresh []Need
		for n, m := range makers {
			if d.needs[n] != m.of {
				stale = append(stale, n)
			}
		}
		for n := range d.needs {
			if m, ok := makers[n]; !ok || m.of != d.needs[n] {
				fresh = append(fresh, n)
			}
		}
		d.mu.Unlock()
		for _, n := range stale {
			stop(n)
		}
		for _, n := range fresh {
			d.mu.Lock()
			of := d.needs[n]
			d.mu.Unlock()
			if of == nil {
				continue
			}
			mctx, cancel := context.WithCancel(ctx)
			m := maker{of: of, cancel: cancel, done: make(chan struct{})}
			makers[n] = m
			go func() {
				defer close(m.done)
				d.make(mctx, n, of)
			}()
		}
		select {
		case <-d.wake:
		case <-ctx.Done():
			for n := range makers {
				stop(n)
			}
			return nil
		}
	}
}

func (d *Deriver) setErr(of *need, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	of.err = err
}

// make keeps one transform going until ctx ends. The derived track stays among
// the stream's tracks while the transform is started again: a reader sees a gap.
func (d *Deriver) make(ctx context.Context, n Need, of *need) {
	track := d.stream.Derive(n.From)
	defer track.End()
	log := d.log.With("stream", d.stream.Name(), "track", n.From, "to", n.To)
	var backoff retry.Backoff
	for {
		in, ok := d.input(ctx, n.From)
		if !ok {
			return
		}
		worked, err := d.session(ctx, n, in, track, of)
		if ctx.Err() != nil {
			return
		}
		wait := backoff.Next(time.Now(), worked, rand.Float64())
		var out *pluginhost.UnavailableError
		if errors.As(err, &out) {
			wait = max(wait, out.RetryAfter)
		}
		d.setErr(of, err)
		log.Warn("transform ended; it is started again", "error", err, "in", wait)
		if !sleep(ctx, wait) {
			return
		}
		track.Restarted()
	}
}

// input waits for the original and returns it.
func (d *Deriver) input(ctx context.Context, id media.TrackID) (media.Track, bool) {
	for {
		snap, changed := d.stream.Watch()
		for _, t := range snap.Tracks {
			if t.ID == id {
				return t, true
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return media.Track{}, false
		}
	}
}

// session runs one transform session to its end and says how long it worked.
func (d *Deriver) session(ctx context.Context, n Need, in media.Track, track *router.Derivation, of *need) (time.Duration, error) {
	f := session.New()
	f.OnTracks = func(tracks []media.Track) {
		if len(tracks) == 1 {
			tracks[0].DerivedAs = n.Setting.name()
			track.SetTrack(tracks[0])
		}
	}
	f.OnUnit = track.Write
	spec := pluginhost.TransformSpec{
		StreamID: d.stream.ID(), Stream: d.stream.Name(), In: in, To: n.To, Out: track.ID(),
		Bitrate: n.Setting.BitsPerSecond, Channels: n.Setting.Channels, Quality: n.Setting.Quality,
	}
	f.TimeOnly = spec.Silent()
	d.mu.Lock()
	of.track, of.feed = track.ID(), f
	d.mu.Unlock()
	sub := f.Subscribe(d.stream, router.SubscriptionConfig{MaxLag: maxLag, NoVideo: n.To.Kind() == media.Audio})
	defer sub.Close()
	s, err := d.opener.OpenTransform(spec, f, f)
	if err != nil {
		return 0, fmt.Errorf("opening the transform %s to %s: %w", in.Codec, n.To, err)
	}
	f.Bind(s)
	defer s.Close("not needed any more", false)
	var ready time.Time
	for {
		select {
		case <-f.Changed():
		case <-ctx.Done():
			s.Close("not needed any more", false)
			for !f.State().Ended {
				<-f.Changed()
			}
			return 0, ctx.Err()
		}
		st := f.State()
		if st.Ready && ready.IsZero() {
			ready = time.Now()
			sub.Start(only(n.From))
			d.setErr(of, nil)
		}
		if st.Ended {
			var worked time.Duration
			if !ready.IsZero() {
				worked = time.Since(ready)
			}
			if st.End.Message == "" {
				st.End.Message = "it ended by itself"
			}
			return worked, fmt.Errorf("transform %s to %s: %s", in.Codec, n.To, st.End.Message)
		}
	}
}

// only chooses one track.
func only(id media.TrackID) router.Choose {
	return func(tracks []media.Track) []media.Track {
		for i, t := range tracks {
			if t.ID == id {
				return tracks[i : i+1 : i+1]
			}
		}
		return nil
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
