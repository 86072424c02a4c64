// Package push keeps one target fed: it opens the egress session when there is
// something to send, chooses the tracks that the peer accepts, watches that media
// really arrives, and tries again when it does not. It tells how the target is
// doing.
//
// It knows one stream and one target's settings. It does not know protocols (the
// plugin does), queues and drops (the router does), or who publishes.
//
// A target that has a backup uses its two addresses in turn: one that fails is
// followed by the other, which then stays until it fails itself.
//
// The target's settings can change at any moment, in any state: a session by the
// old ones is ended politely, and the new ones count at once.
//
// # States
//
//   - idle: nobody publishes, and no session is held; or the target is switched off;
//     or it waits for players, and there is none.
//   - connecting: a session is being opened, or is open and has written nothing to
//     its peer so far.
//   - live: the peer took media since the publisher came. A session that is open
//     and has credited nothing is not live.
//   - waiting: nothing is wrong with the session, but something is to be waited
//     for: the time of the next try (NextRetry is set), the publisher who was lost
//     and may come back (the session stays connected), or what he is going to send.
//   - failed: trying again soon does not help. Either the peer refused for good
//     (tried again once a minute, NextRetry is set), or the target cannot carry the
//     stream (looked at again when its tracks change).
package push

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/congestion"
	"github.com/headgate/gateway/core/derive"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/retry"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/core/session"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/media"
)

// Times.
const (
	// slowLane is the time between tries after a permanent failure.
	slowLane = time.Minute
	// stallLimit is how long a peer may take nothing of what was sent to it.
	stallLimit = 10 * time.Second
	// openLimit is how long a session may take to get ready, once its plugin's
	// process could open it.
	openLimit = 20 * time.Second
	// trackPatience is how long a track that is announced but not described is
	// waited for when others could be sent.
	trackPatience = 3 * time.Second
	// derivePatience is how long a ready session waits for a track that is being
	// made.
	derivePatience = 10 * time.Second
	// closeLimit is how long a closed session is waited for.
	closeLimit = 5 * time.Second
	// madeBehind is by how much sound that is made is always behind: what an encoder
	// keeps. madePatience is how long it is waited for that was to come.
	madeBehind   = 60 * time.Millisecond
	madePatience = 500 * time.Millisecond
	// flushInterval is how often it is looked whether a queue is empty.
	flushInterval = 5 * time.Millisecond
	// checkInterval is the pace of looking at a running session.
	checkInterval = time.Second
	// warnAgain is when a failure that stays the same is a warning again.
	warnAgain = 30 * time.Second
)

// An Opener opens egress sessions; see [pluginhost.Host.OpenEgress].
type Opener interface {
	OpenEgress(plugin string, spec pluginhost.EgressSpec, handler pluginhost.SessionHandler, src pluginhost.Source) (pluginhost.Session, error)
}

// A Deriver has tracks made; see [derive.Deriver].
type Deriver interface {
	Need(n derive.Need) (release func())
	Err(n derive.Need) error
}

// Settings are what can change of a target while it runs.
type Settings struct {
	Target config.Target
	// Accepts is what the plugin declares that its targets take; READY may say
	// otherwise.
	Accepts pluginhost.Accepts
	// OpensEarly: the session may be opened before the tracks are known in full.
	OpensEarly bool
}

// Config is what a target is made of.
type Config struct {
	Settings   // to begin with
	Stream     *router.Stream
	Transforms derive.Transforms
	Opener     Opener
	Deriver    Deriver
	Log        *slog.Logger
	// Random is within [0, 1); nil for chance.
	Random func() float64
	// Changed is called when the state, its reason or the settings have changed; it must
	// not block. nil if nobody wants to know.
	Changed func()
}

// A Target sends one stream to one place. Make it with [New].
type Target struct {
	conf Config // without Settings
	log  *slog.Logger

	// Used by Run alone.
	needs   map[derive.Need]func()
	backoff retry.Backoff
	sides   [2]side // the target's own address and its backup
	warned  warning
	limits  limits

	mu      sync.Mutex // guards the fields below
	set     Settings
	version int           // of set
	updated chan struct{} // closed when set changes
	backup  bool          // the next session, or the present one, is with the backup
	figures figures
	state   status.TargetState
	since   time.Time
	attempt int
	due     time.Time // the next try
	err     *status.Error
	sub     *router.Subscription // of the session that is open
	units   uint64               // of the sessions before it
	bytes   uint64
	dropped map[router.Reason]uint64
	plugin  uint64        // units dropped by the plugin itself, of the sessions before
	leftOut []media.Track // as planned last
	feed    *session.Feed
}

// A warning is the failure that was last logged as one.
type warning struct {
	message string
	at      time.Time
}

// A side is one of the addresses of a target.
type side struct {
	notBefore time.Time // no try earlier: it asked for that, or refuses for good
	permanent bool      // it refused for good when it was last tried
}

// New makes a target. It starts nothing.
func New(c Config) *Target {
	if c.Random == nil {
		c.Random = rand.Float64
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	t := &Target{
		log:   c.Log.With("stream", c.Stream.Name(), "target", c.Target.Name),
		needs: make(map[derive.Need]func()),
		set:   c.complete(), updated: make(chan struct{}),
		state: status.TargetIdle, since: time.Now(),
		dropped: make(map[router.Reason]uint64),
	}
	c.Settings = Settings{}
	t.conf = c
	return t
}

// want is what the target wants if it takes what accepts says.
func (s Settings) want(accepts pluginhost.Accepts) derive.Want {
	w := derive.WantOf(s.Target.Audio, accepts)
	w.NeedsAudio = w.NeedsAudio || s.Target.Preset.GetLimits().GetNeedsAudio()
	return w
}

func (s Settings) complete() Settings {
	if s.Target.MaxLag <= 0 {
		s.Target.MaxLag = config.DefaultMaxLag
	}
	return s
}

// Update changes the settings; the name of the target stays. It returns at once:
// what has to end for it ends in the background. It may be called from any
// goroutine, in any state.
func (t *Target) Update(s Settings) {
	defer t.conf.Changed()
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Target.Name = t.set.Target.Name
	t.set = s.complete()
	t.version++
	t.backup = false
	t.err = nil // it was about what the target is no more
	close(t.updated)
	t.updated = make(chan struct{})
}

// settings are the present ones, their version, and what is closed when they change.
func (t *Target) settings() (s Settings, version int, updated <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.set, t.version, t.updated
}

// droppedByPlugin is the reason that units show under which the plugin left out.
const droppedByPlugin = "plugin"

// Status tells how the target is doing.
func (t *Target) Status() status.Target {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &t.set.Target
	st := status.Target{
		Name: c.Name, State: t.state, Disabled: !c.Enabled, Since: t.since.UTC(), Attempt: t.attempt,
		Preset: c.Preset.GetName(), PresetUnverified: c.Preset.GetUnverified(), Address: config.Address(c.URL), OnBackup: t.backup, ByAPI: c.Restricted,
		BytesSent: t.bytes, UnitsSent: t.units, UnitsDropped: make(map[string]uint64, len(t.dropped)),
		TracksLeftOut: len(t.leftOut), Warnings: t.figures.warnings,
	}
	if t.backup {
		st.Address = config.Address(c.Backup)
	}
	if !t.due.IsZero() {
		next := t.due.UTC()
		st.NextRetry = &next
	}
	if t.err != nil {
		e := *t.err
		st.LastError = &e
	}
	for r, n := range t.dropped {
		st.UnitsDropped[string(r)] = n
	}
	plugin := t.plugin
	if t.sub != nil {
		s := t.sub.Stats()
		st.BytesSent += s.Bytes
		st.UnitsSent += s.Units
		st.LagSeconds = s.Lag.Seconds()
		for r, n := range s.Dropped {
			st.UnitsDropped[string(r)] += n
		}
		peer := t.feed.State().Stats
		plugin += peer.UnitsDropped
		t.figures.fill(&st, s, peer)
	}
	if plugin > 0 {
		st.UnitsDropped[droppedByPlugin] = plugin
	}
	return st
}

// Load tells how the target keeps up, for [congestion.Loop].
func (t *Target) Load() congestion.Load {
	t.mu.Lock()
	sub, feed, state, maxLag := t.sub, t.feed, t.state, t.set.Target.MaxLag
	t.mu.Unlock()
	l := congestion.Load{MaxLag: maxLag}
	if sub == nil || state != status.TargetLive {
		return l
	}
	s, st := sub.Stats(), feed.State().Stats
	l.Live, l.Lag, l.Taken = true, s.Lag, s.Bytes
	// What the socket took is not what the peer took: the kernel holds a lot. A
	// plugin that knows what was acknowledged is believed.
	if st.AckedBytes > 0 {
		l.Taken = st.AckedBytes
	}
	return l
}

func (t *Target) show(s status.TargetState, next time.Time) {
	t.mu.Lock()
	was := t.state
	changed := was != s
	if changed {
		t.state, t.since = s, time.Now()
	}
	t.due = next
	t.mu.Unlock()
	if changed {
		t.conf.Changed()
		level := slog.LevelInfo
		if underway(was) && underway(s) {
			level = slog.LevelDebug // a target that is down would fill the log with its tries
		}
		t.log.Log(context.Background(), level, "target changed", "state", s)
	}
}

// underway reports whether a target in state s is on its way to being live.
func underway(s status.TargetState) bool {
	return s == status.TargetWaiting || s == status.TargetConnecting
}

func (t *Target) fail(e *failure) {
	defer t.conf.Changed()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = &status.Error{Cause: string(e.cause), Class: e.class, Message: e.message, At: time.Now().UTC()}
}

// A failure is why a session ended that was not asked to.
type failure struct {
	cause      pluginhost.Cause
	class      string // one word, as the plugin tells it; empty if it does not
	message    string
	permanent  bool
	retryAfter time.Duration
	worked     time.Duration // how long the peer took media
	// crashed: the plugin's process died under a session that worked.
	crashed bool
}

// Run keeps the target fed until ctx ends; then it closes the session politely.
func (t *Target) Run(ctx context.Context) error {
	defer t.need(nil)
	defer t.show(status.TargetIdle, time.Time{})
	announced := time.Time{} // when the present tracks were first seen without being complete
	seen := 0                // the version of the settings
	for {
		snap, changed := t.conf.Stream.Watch()
		set, version, updated := t.settings()
		if version != seen {
			seen, announced = version, time.Time{}
			t.backoff.Reset()
			t.sides = [2]side{}
			t.warned = warning{}
		}
		var timer <-chan time.Time
		switch {
		case ctx.Err() != nil:
			return nil
		case !set.Target.Enabled:
			t.need(nil)
			t.show(status.TargetIdle, time.Time{})
		case snap.State == router.Idle:
			t.backoff.Reset()
			t.sides = [2]side{}
			t.use(false)
			t.need(nil)
			t.show(status.TargetIdle, time.Time{})
		case snap.State == router.Held || len(snap.Tracks) == 0:
			t.show(status.TargetWaiting, time.Time{})
		default:
			plan := derive.ChooseBefore(snap.Tracks, set.want(set.Accepts), t.conf.Transforms)
			if plan.Refused != "" {
				t.need(nil)
				t.refuse(plan.Refused)
				break
			}
			t.need(plan.Needs)
			if announced.IsZero() {
				announced = time.Now()
			}
			if !set.OpensEarly && !plan.Complete {
				left := trackPatience - time.Since(announced)
				if left > 0 || len(complete(plan.Tracks)) == 0 || t.missing(plan) != nil {
					t.show(status.TargetConnecting, time.Time{})
					timer = time.After(max(left, checkInterval))
					if err := t.missing(plan); err != nil && left <= 0 {
						t.fail(&failure{cause: pluginhost.CausePlugin, message: err.Error()})
					}
					break
				}
			}
			announced = time.Time{}
			if e := t.session(ctx, set, updated, plan); e != nil && ctx.Err() == nil {
				t.pause(ctx, set, updated, e)
			}
			continue
		}
		if snap.State != router.Live || len(snap.Tracks) == 0 {
			announced = time.Time{}
		}
		select {
		case <-changed:
		case <-updated:
		case <-timer:
		case <-ctx.Done():
		}
	}
}

// ClassCodec is the class of a failure whose message is about codecs and tracks alone:
// the target cannot carry the stream.
const ClassCodec = "codec"

// refuse shows that the target cannot carry the stream.
func (t *Target) refuse(why string) {
	t.mu.Lock()
	said := t.state == status.TargetFailed && t.err != nil && t.err.Message == why
	t.mu.Unlock()
	if said {
		return
	}
	t.fail(&failure{cause: pluginhost.CauseConfig, class: ClassCodec, message: why})
	t.show(status.TargetFailed, time.Time{})
	t.log.Error("the target cannot carry this stream", "reason", why)
}

// missing says which derived track of a plan is not there, and why.
func (t *Target) missing(p derive.Plan) error {
	for _, n := range p.Needs {
		if _, there := n.MadeOf(p.Tracks); there {
			continue
		}
		if err := t.conf.Deriver.Err(n); err != nil {
			return err
		}
		return errors.New("waiting for the " + string(n.To) + " track to be made")
	}
	return nil
}

// need asks for the derived tracks of needs and no others.
func (t *Target) need(needs []derive.Need) {
	want := make(map[derive.Need]bool, len(needs))
	for _, n := range needs {
		want[n] = true
		if t.needs[n] == nil {
			t.needs[n] = t.conf.Deriver.Need(n)
		}
	}
	for n, release := range t.needs {
		if !want[n] {
			release()
			delete(t.needs, n)
		}
	}
}

// pause waits for the next try after a failure. It returns early when ctx ends,
// when the settings change, and when the publisher is gone for good.
func (t *Target) pause(ctx context.Context, set Settings, updated <-chan struct{}, e *failure) {
	now := time.Now()
	t.fail(e)
	wait, state := t.next(set, updated, e, now)
	// The tries of the first minute are many, and mostly fail alike: what is new is
	// a warning, and what stays is one again now and then.
	level := slog.LevelDebug
	if e.message != t.warned.message || e.worked > 0 || now.Sub(t.warned.at) >= warnAgain {
		level, t.warned = slog.LevelWarn, warning{e.message, now}
	}
	attrs := []any{"cause", e.cause, "class", e.class, "error", e.message, "permanent", e.permanent, "retry_in", wait.Round(time.Millisecond)}
	if !set.Target.Backup.Empty() {
		attrs = append(attrs, "then", map[bool]string{false: "primary", true: "backup"}[t.onBackup()])
	}
	t.log.Log(ctx, level, "target session ended", attrs...)
	if wait == 0 {
		t.show(status.TargetConnecting, time.Time{})
		return
	}
	t.show(state, now.Add(wait))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		snap, changed := t.conf.Stream.Watch()
		if snap.State == router.Idle {
			return
		}
		select {
		case <-timer.C:
			return
		case <-updated:
			return
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// next chooses the address to try next after a failure at now, and says how long
// to wait for it and what the target is until then.
func (t *Target) next(set Settings, updated <-chan struct{}, e *failure, now time.Time) (time.Duration, status.TargetState) {
	if e.crashed {
		return e.retryAfter, status.TargetWaiting // the session is opened the moment the process is up again
	}
	here := 0
	if t.onBackup() {
		here = 1
	}
	s := &t.sides[here]
	s.permanent, s.notBefore = e.permanent, now.Add(e.retryAfter)
	if e.permanent {
		s.notBefore = now.Add(max(slowLane, e.retryAfter))
	}
	// That the plugin is out of order is true of both addresses.
	there := here
	if !set.Target.Backup.Empty() && e.cause != pluginhost.CausePlugin && e.cause != pluginhost.CauseGateway {
		there = 1 - here
		if t.sides[there].notBefore.After(now) && t.sides[there].notBefore.After(s.notBefore) {
			there = here
		}
	}
	t.mu.Lock()
	if !over(updated) {
		t.backup = there == 1
	}
	t.mu.Unlock()
	to := t.sides[there]
	left := max(0, to.notBefore.Sub(now))
	if to.permanent && left > 0 {
		return left, status.TargetFailed
	}
	return max(left, t.backoff.Next(now, e.worked, t.conf.Random())), status.TargetWaiting
}

// use says whether the next session is with the backup.
func (t *Target) use(backup bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.backup = backup
}

func (t *Target) onBackup() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.backup
}

// complete returns the tracks that a decoder could start on.
func complete(tracks []media.Track) []media.Track {
	var out []media.Track
	for _, t := range tracks {
		if t.Complete() {
			out = append(out, t)
		}
	}
	return out
}
