package publish

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/retry"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

const (
	// slowLane is the time between tries after a permanent failure.
	slowLane = time.Minute
	// tellAgain is how often the log says that a source is still away as it was.
	tellAgain = time.Minute
)

// A Puller opens pull sessions; see [pluginhost.Host.OpenPull].
type Puller interface {
	OpenPull(plugin string, streamID uint64, stream string, url secret.String, handler pluginhost.SessionHandler) (pluginhost.Session, error)
}

// A Demand says whether anybody wants a stream, and what is closed when that may
// have changed. It is called from one goroutine.
type Demand func() (wanted bool, changed <-chan struct{})

// A Pull fetches a stream from elsewhere, and again when it ends. Make it with
// [NewPull].
type Pull struct {
	stream *Stream
	from   config.From
	demand Demand
	puller Puller
	log    *slog.Logger

	mu     sync.Mutex // guards the field below
	status status.Source
}

// NewPull makes a pull. It starts nothing. demand counts if the source is fetched on
// demand only.
func NewPull(s *Stream, from config.From, demand Demand, puller Puller) *Pull {
	return &Pull{
		stream: s, from: from, demand: demand, puller: puller, log: s.log.With("plugin", from.Plugin),
		status: status.Source{Plugin: from.Plugin, State: status.SourceIdle, Since: time.Now().UTC()},
	}
}

// Status tells how the source is.
func (p *Pull) Status() status.Source {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// show changes the status: its state to is, and what change does beside that.
func (p *Pull) show(is status.SourceState, change func(*status.Source)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.status
	if s.State != is {
		s.State, s.Since = is, time.Now().UTC()
	}
	s.NextRetry = nil
	if change != nil {
		change(s)
	}
}

// Run fetches the stream until ctx ends.
func (p *Pull) Run(ctx context.Context) error {
	if !p.from.OnDemand {
		p.fetch(ctx)
		return nil
	}
	for ctx.Err() == nil {
		wanted, changed := p.demand()
		if !wanted {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		fetching, stop := context.WithCancel(ctx)
		var fetch sync.WaitGroup
		fetch.Go(func() { p.fetch(fetching) })
		for wanted && ctx.Err() == nil {
			select {
			case <-changed:
				wanted, changed = p.demand()
			case <-ctx.Done():
			}
		}
		stop()
		fetch.Wait()
		p.show(status.SourceIdle, nil)
	}
	return nil
}

// fetch fetches the stream until ctx ends, again and again.
func (p *Pull) fetch(ctx context.Context) {
	var backoff retry.Backoff
	told := complaint{log: p.log}
	for ctx.Err() == nil {
		end, worked := p.once(ctx)
		wait := backoff.Next(time.Now(), worked, rand.Float64())
		if end.Permanent {
			wait = slowLane
		}
		wait = max(wait, end.RetryAfter)
		if ctx.Err() == nil {
			told.about(end, worked, wait)
		}
		p.pause(ctx, wait, end)
	}
}

// A complaint says in the log why a source ends: each time that it had delivered, and
// otherwise when the reason is another one or a minute has passed.
type complaint struct {
	log  *slog.Logger
	last pluginhost.End
	at   time.Time
	same int // tries in a row that failed as the last one
}

func (c *complaint) about(end pluginhost.End, delivered, wait time.Duration) {
	args := []any{"cause", end.Cause, "class", end.Class, "error", end.Message, "in", wait.Round(time.Millisecond)}
	if delivered > 0 {
		c.log.Warn("source ended; it is opened again", append(args, "delivered_for", delivered.Round(time.Millisecond))...)
		*c = complaint{log: c.log}
		return
	}
	level := slog.LevelWarn
	if again := end.Cause == c.last.Cause && end.Class == c.last.Class && (end.Class != "" || end.Message == c.last.Message); again {
		c.same++
		if time.Since(c.at) < tellAgain {
			level = slog.LevelDebug
		}
		args = append(args, "tries", c.same)
	} else {
		c.last, c.same = end, 1
	}
	if level == slog.LevelWarn {
		c.at = time.Now()
	}
	c.log.Log(context.Background(), level, "source cannot be opened; it is tried again", args...)
}

// pause waits for the next try, or for the end of ctx.
func (p *Pull) pause(ctx context.Context, wait time.Duration, end pluginhost.End) {
	if ctx.Err() != nil {
		return
	}
	is := status.SourceWaiting
	if end.Permanent {
		is = status.SourceFailed
	}
	p.show(is, func(s *status.Source) {
		now := time.Now().UTC()
		again := now.Add(wait)
		s.NextRetry, s.LastError = &again, &status.Error{Cause: string(end.Cause), Class: end.Class, Message: end.Message, At: now}
	})
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// once runs one session to its end, and says for how long it delivered.
func (p *Pull) once(ctx context.Context) (end pluginhost.End, worked time.Duration) {
	p.show(status.SourceConnecting, func(s *status.Source) { s.Attempt++ })
	done := make(chan pluginhost.End, 1)
	// The stream gets its publisher when the source delivers, not while it is tried.
	h := &pullHandler{pull: p, done: done}
	s, err := p.puller.OpenPull(p.from.Plugin, p.stream.router.ID(), p.stream.router.Name(), p.from.URL, h)
	if err != nil {
		end := pluginhost.End{Failed: true, Cause: pluginhost.CausePlugin, Message: err.Error()}
		var out *pluginhost.UnavailableError
		if errors.As(err, &out) {
			end.RetryAfter = out.RetryAfter
		}
		return end, 0
	}
	h.bind(s)
	select {
	case end = <-done:
	case <-ctx.Done():
		h.settle()
		s.Close("the gateway does not want it any more", false)
		end = <-done
	}
	return end, h.worked()
}

// pullHandler stands in for a publisher until the source delivers: a stream whose
// source cannot be reached has none. It implements [pluginhost.SessionHandler].
type pullHandler struct {
	pull *Pull
	done chan<- pluginhost.End

	mu        sync.Mutex // guards the fields below
	session   pluginhost.Session
	publisher *publisher
	since     time.Time // when publisher was made
}

var (
	_ pluginhost.SessionHandler = (*pullHandler)(nil)
	_ pluginhost.SilenceHandler = (*pullHandler)(nil)
)

func (h *pullHandler) bind(s pluginhost.Session) {
	h.mu.Lock()
	h.session = s
	p := h.publisher
	h.mu.Unlock()
	if p != nil {
		p.bind(s)
	}
}

// delivers makes the publisher. It is called from the receiving goroutine alone.
func (h *pullHandler) delivers() *publisher {
	if p := h.delivered(); p != nil {
		return p
	}
	h.pull.show(status.SourceLive, nil)
	p := h.pull.stream.attach(h.pull.from.Plugin, "")
	p.ended = func(end pluginhost.End) { h.done <- end }
	h.mu.Lock()
	h.publisher, h.since = p, time.Now()
	s := h.session
	h.mu.Unlock()
	if s != nil {
		p.bind(s)
	}
	return p
}

// worked is for how long the source has been delivering.
func (h *pullHandler) worked() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.publisher == nil {
		return 0
	}
	return time.Since(h.since)
}

// settle says that the end to come is that of the pull.
func (h *pullHandler) settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.publisher != nil {
		h.publisher.settled.Store(true)
	}
}

// Ready implements [pluginhost.SessionHandler]. It says that the plugin has taken the
// session, and nothing of the source: a try that comes to nothing must not put off
// the end of a hold.
func (h *pullHandler) Ready(pluginhost.Accepts) {}

// Tracks implements [pluginhost.SessionHandler].
func (h *pullHandler) Tracks(tracks []media.Track) { h.delivers().Tracks(tracks) }

// Unit implements [pluginhost.SessionHandler].
func (h *pullHandler) Unit(u *media.AccessUnit) { h.delivers().Unit(u) }

// Credited implements [pluginhost.SessionHandler].
func (h *pullHandler) Credited(int) {}

// Keyframe implements [pluginhost.SessionHandler].
func (h *pullHandler) Keyframe(media.TrackID) {}

// Stats implements [pluginhost.SessionHandler].
func (h *pullHandler) Stats(st pluginhost.Stats) {
	if p := h.delivered(); p != nil {
		p.Stats(st)
	}
}

// Silence implements [pluginhost.SilenceHandler].
func (h *pullHandler) Silence(silent bool) {
	if p := h.delivered(); p != nil {
		p.Silence(silent)
	}
}

// Ended implements [pluginhost.SessionHandler].
func (h *pullHandler) Ended(end pluginhost.End) {
	p := h.delivered()
	if p == nil {
		h.done <- end
		return
	}
	p.Ended(end)
}

// delivered returns the publisher, nil while the source has not been reached.
func (h *pullHandler) delivered() *publisher {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.publisher
}
