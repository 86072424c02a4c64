package sdk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

const (
	// openTimeout bounds Egress.Open.
	openTimeout = 20 * time.Second
	// closeTimeout bounds the polite end of one session, from the gateway's Close on.
	closeTimeout = 5 * time.Second
	// hastyTimeout bounds Sink.Close of a session that is closed without draining: all
	// of its end may take 2 s.
	hastyTimeout = time.Second
	// lostTimeout bounds Sink.Close when the gateway is gone.
	lostTimeout = 2 * time.Second
	// statsInterval is how often a session reports its figures, and lagInterval how
	// often while bytes wait in its socket: the gateway counts them as lag, and drops
	// by that.
	statsInterval = time.Second
	lagInterval   = statsInterval / 5
)

// egressSession is one target: a goroutine that opens a sink and writes to it.
type egressSession struct {
	a       *attachment
	id      uint32
	plugin  *EgressPlugin
	target  Target
	redact  secret.Redaction
	in      *inbox
	credits *credits

	// ctx is the author's while he opens and writes. It ends when the session is
	// closed without draining, or does not drain in time.
	ctx    context.Context
	cancel context.CancelFunc

	// Counters that the report reads.
	bytes, dropped atomic.Uint64

	mu      sync.Mutex // guards the fields below
	sink    Sink       // the one that is open
	opened  bool       // one was open
	closeBy time.Time  // when Sink.Close must be over; zero until the end is asked for
}

// openEgress starts a session.
func (a *attachment) openEgress(o *wire.Open) {
	t := o.GetTarget()
	s := &egressSession{
		a:      a,
		id:     o.GetSession(),
		plugin: a.plugin.Egress,
		target: targetOf(t),
		redact: secret.Redact(slices.Concat(a.secrets, secret.InOptions(schemaOf(a.plugin.Egress.TargetOptions), t.GetOptionsJson()), []string{t.GetUrl(), t.GetKey()})...),
		in:     newInbox(),
	}
	tracks := wire.ToTracks(o.GetTracks())
	s.target.Stream, s.target.Attempt = o.GetStream(), int(o.GetAttempt())
	s.target.keyframe = func() {
		a.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Keyframe{Keyframe: &wire.KeyframeRequest{Session: s.id}}})
	}
	s.credits = newCredits(&a.credits, s.id, tracks)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	a.add(s.id, s)
	a.wg.Go(func() {
		defer s.cancel()
		state := s.run(tracks)
		a.end(s.id, state)
	})
}

// targetOf is the target that t describes.
func targetOf(t *wire.Target) Target {
	return Target{
		Name: t.GetName(), URL: secret.New(t.GetUrl()), Key: secret.New(t.GetKey()),
		Restricted: t.GetRestricted(), options: t.GetOptionsJson(), files: t.GetFiles(),
	}
}

// run is the life of the session; it returns how it ended.
func (s *egressSession) run(tracks []media.Track) *wire.SessionState {
	if err := s.open(tracks); err != nil {
		return s.ended(err)
	}
	ready := &wire.SessionState{
		Session: s.id, State: wire.SessionState_READY,
		Accepts: acceptsMessage(s.accepts()), WindowBytes: uint64(s.credits.window),
	}
	s.a.out.Control(stateMsg(ready))

	r := s.report()
	err := s.write(tracks)
	s.credits.flush()
	r.stop()

	if s.current() == nil {
		return s.ended(err)
	}
	if closeErr := s.closeSink(); closeErr != nil && err == nil {
		slog.Warn("closing a target", "target", s.target.Name, "error", redactError(s.redact, closeErr))
	}
	return s.ended(err)
}

// ended returns the last state of a session that ended with err: nil when it was
// closed as asked.
func (s *egressSession) ended(err error) *wire.SessionState {
	s.mu.Lock()
	asked := !s.closeBy.IsZero()
	s.mu.Unlock()
	if err == nil || asked {
		return &wire.SessionState{State: wire.SessionState_CLOSED}
	}
	return failure(redactError(s.redact, err))
}

// open opens a sink for tracks.
func (s *egressSession) open(tracks []media.Track) error {
	ctx, cancel := context.WithTimeout(s.ctx, openTimeout)
	defer cancel()
	return s.guard(ctx, func() error {
		sink, err := s.plugin.Egress.Open(ctx, s.target, tracks)
		if err != nil {
			return err
		}
		if sink == nil {
			return &Error{Cause: CausePlugin, Err: errors.New("the plugin opened nothing and reported no error")}
		}
		s.mu.Lock()
		s.sink, s.opened = sink, true
		s.mu.Unlock()
		return nil
	})
}

// closeSink closes the open sink within what the end may still take.
func (s *egressSession) closeSink() error {
	s.mu.Lock()
	sink := s.sink
	s.sink = nil
	by := s.closeBy
	s.mu.Unlock()
	if by.IsZero() {
		by = time.Now().Add(closeTimeout)
	}
	ctx, cancel := context.WithDeadline(context.Background(), by)
	defer cancel()
	return s.guard(ctx, func() error { return sink.Close(ctx) })
}

// guard calls f, the author's code. What he panics with may quote the target.
func (s *egressSession) guard(ctx context.Context, f func() error) error {
	return guard(ctx, s.id, s.redact, f)
}

func (s *egressSession) current() Sink {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sink
}

// accepts is what the peer takes, as far as it is known.
func (s *egressSession) accepts() Accepts {
	if a, ok := s.current().(Accepter); ok {
		var accepts Accepts
		if s.guard(s.ctx, func() error { accepts = a.Accepts(); return nil }) == nil {
			return accepts
		}
	}
	return s.plugin.Accepts
}

// write passes the session's media to the sink, until the session is closed (nil)
// or fails.
func (s *egressSession) write(opened []media.Track) error {
	var failed <-chan struct{}
	watch := func() {
		failed = nil
		if f, ok := s.current().(Failer); ok {
			failed = f.Failed()
		}
	}
	watch()
	now := opened          // the tracks that the sink has
	var next []media.Track // those that it shall be opened anew with
	for {
		it, what := s.in.next(failed, nil)
		switch what {
		case newsClosed:
			return nil
		case newsFailed:
			return s.whyFailed()
		case newsItem:
		}
		if it.Unit == nil {
			if slices.EqualFunc(it.Tracks, now, equalTracks) {
				next = nil
				continue
			}
			setter, ok := s.current().(TrackSetter)
			if !ok {
				if next = it.Tracks; slices.EqualFunc(it.Tracks, now, compatible) {
					next = nil
				}
				continue
			}
			switch err := s.guard(s.ctx, func() error { return setter.SetTracks(s.ctx, it.Tracks) }); {
			case errors.Is(err, ErrReopen):
				next = it.Tracks
				continue
			case err != nil:
				return fmt.Errorf("changing the tracks: %w", err)
			}
			now, next = it.Tracks, nil
			continue
		}
		if next != nil {
			if !joinsAt(it.Unit, next) {
				s.dropped.Add(1)
				s.credits.done(it.Unit)
				continue
			}
			if err := s.reopen(next); err != nil {
				return err
			}
			now, next = next, nil
			watch()
		}
		sink := s.current()
		if err := s.guard(s.ctx, func() error { return sink.WriteAccessUnit(s.ctx, it.Unit) }); err != nil {
			return err
		}
		s.bytes.Add(uint64(len(it.Unit.Payload)))
		s.credits.done(it.Unit)
	}
}

// reopen replaces the sink by one for tracks.
func (s *egressSession) reopen(tracks []media.Track) error {
	if err := s.closeSink(); err != nil {
		slog.Warn("closing a target to change its tracks", "target", s.target.Name, "error", redactError(s.redact, err))
	}
	return s.open(tracks)
}

// whyFailed returns why the sink said, between writes, that its peer is gone.
func (s *egressSession) whyFailed() error {
	if e, ok := s.current().(interface{ Err() error }); ok {
		var why error
		if err := s.guard(s.ctx, func() error { why = e.Err(); return nil }); err != nil {
			return err
		}
		if why != nil {
			return why
		}
	}
	return errors.New("the peer ended the connection")
}

// A report sends a session's figures, at once and until it is stopped, more often while
// bytes wait in the sink's socket. It is a timer and no goroutine that waits: there are as
// many as sessions, and of a waiting one the stack is looked at in each collection of
// garbage.
type report struct {
	s *egressSession

	mu     sync.Mutex // guards the fields below
	over   bool
	timer  *time.Timer
	looks  int
	waited bool // when last looked
	idle   bool
}

// report starts to report.
func (s *egressSession) report() *report {
	r := &report{s: s}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer = time.AfterFunc(0, r.look)
	return r
}

// stop returns when nothing is reported any more.
func (r *report) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	r.timer.Stop()
}

// look reports what there is to report now.
func (r *report) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	m, ok := r.figures(r.looks%int(statsInterval/lagInterval) == 0)
	if !ok {
		return
	}
	if m != nil {
		r.s.a.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Stats{Stats: m}})
	}
	r.looks++
	r.timer.Reset(lagInterval)
}

// figures returns the session's figures; nil if there is no need to tell them now, and
// false if there will be none.
func (r *report) figures(due bool) (*wire.SessionStats, bool) {
	s := r.s
	reporter, ok := s.current().(StatsReporter)
	if !due && !ok {
		return nil, true
	}
	m := &wire.SessionStats{Session: s.id, Bytes: s.bytes.Load(), UnitsDropped: s.dropped.Load()}
	if !ok {
		return m, true
	}
	var st SinkStats
	if s.guard(s.ctx, func() error { st = reporter.Stats(); return nil }) != nil {
		return nil, false // logged; the figures are no reason to end the session
	}
	waits := st.UnsentAge > 0
	if !due && !waits && !r.waited && st.Idle == r.idle {
		return nil, true
	}
	r.waited, r.idle = waits, st.Idle
	m.Bytes = st.Bytes
	m.AckedBytes = st.AckedBytes
	m.UnsentBytes = st.UnsentBytes
	m.UnsentAgeNs = uint64(max(st.UnsentAge, 0))
	m.DeliveryBps = st.DeliveryBPS
	m.RttNs = uint64(max(st.RTT, 0))
	m.UnackedAgeNs = uint64(max(st.UnackedAge, 0))
	m.Retransmits = st.Retransmits
	m.UnitsDropped += st.UnitsDropped
	m.Values = st.Values
	m.Idle = st.Idle
	return m, true
}

// joinsAt reports whether a sink with these tracks can begin with u: at a random
// access point of a picture, or of anything if there is no picture.
func joinsAt(u *media.AccessUnit, tracks []media.Track) bool {
	if !u.RandomAccess {
		return false
	}
	i := slices.IndexFunc(tracks, func(t media.Track) bool { return t.ID == u.Track })
	if i < 0 {
		return false
	}
	return tracks[i].Codec.Kind() == media.Video ||
		!slices.ContainsFunc(tracks, func(t media.Track) bool { return t.Codec.Kind() == media.Video })
}

// equalTracks reports whether a and b are the same in everything.
func equalTracks(a, b media.Track) bool {
	config := bytes.Equal(a.DecoderConfig, b.DecoderConfig)
	a.DecoderConfig, b.DecoderConfig = nil, nil
	return config && reflect.DeepEqual(a, b)
}

// compatible reports whether a sink that was opened with a can go on with b:
// what a decoder needs to know is the same.
func compatible(a, b media.Track) bool {
	return a.ID == b.ID && a.Codec == b.Codec && a.SampleRateHz == b.SampleRateHz && a.Channels == b.Channels &&
		bytes.Equal(a.DecoderConfig, b.DecoderConfig)
}

// The rest is the receiving goroutine's.

func (s *egressSession) receive(it wire.Item) { s.in.put(it) }
func (s *egressSession) keyframe(uint32)      {} // for ingests
func (s *egressSession) targetBitrate(uint64) {} // for ingests

func (s *egressSession) close(_ string, drain, lost bool) {
	limit := s.a.closeTime()
	switch {
	case lost:
		limit = lostTimeout
	case !drain:
		limit = min(limit, hastyTimeout)
	}
	s.mu.Lock()
	if by := time.Now().Add(limit); s.closeBy.IsZero() || lost || by.Before(s.closeBy) {
		s.closeBy = by
	}
	opened := s.opened
	s.mu.Unlock()
	s.in.close(drain)
	if !drain || !opened { // a target that does not answer has nothing to drain
		s.cancel()
		return
	}
	// A drain that the target does not take ends in time for Sink.Close to say
	// goodbye. The timer does no harm to a session that is over.
	time.AfterFunc(limit/2, s.cancel)
}
