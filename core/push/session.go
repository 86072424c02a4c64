package push

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/derive"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/core/session"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/media"
)

// run is one session of a target.
type run struct {
	t    *Target
	set  Settings
	feed *session.Feed
	sub  *router.Subscription
	sess pluginhost.Session

	opened   time.Time
	ready    time.Time // zero before READY
	accepts  pluginhost.Accepts
	started  bool      // media flows
	held     bool      // the publisher is gone
	returned time.Time // when he came back; the session's credit must be newer to count

	written  uint64 // bytes written when the peer was last seen to take something
	moved    time.Time
	dropped  uint64 // as last logged
	loggedAt time.Time
}

// session opens a session by the settings and leads it to its end. It returns nil
// if the session ended because the publisher is gone for good, the settings
// changed or ctx ended.
func (t *Target) session(ctx context.Context, set Settings, updated <-chan struct{}, plan derive.Plan) *failure {
	t.show(status.TargetConnecting, time.Time{})
	r := &run{t: t, set: set, feed: session.New(), opened: time.Now()}
	r.sub = r.feed.Subscribe(t.conf.Stream, router.SubscriptionConfig{MaxLag: set.Target.MaxLag})
	attempt, backup := t.begin(r)
	defer t.finish(r)
	spec := pluginhost.EgressSpec{
		StreamID:   t.conf.Stream.ID(),
		Stream:     t.conf.Stream.Name(),
		Target:     set.Target.Name,
		URL:        set.Target.URL,
		Key:        set.Target.KeyFor(t.conf.Stream.Name()),
		Options:    set.Target.Options,
		Files:      set.Target.Files,
		Attempt:    attempt,
		Tracks:     plan.Tracks,
		Restricted: set.Target.Restricted,
	}
	if backup {
		// What the plugin remembers of the one is not about the other.
		spec.Target = config.BackupName(set.Target.Name)
		spec.URL, spec.Key = set.Target.Backup, set.Target.BackupKeyFor(t.conf.Stream.Name())
	}
	sess, err := t.conf.Opener.OpenEgress(set.Target.Plugin, spec, r.feed, r.feed)
	if err != nil {
		f := &failure{cause: pluginhost.CausePlugin, message: err.Error()}
		var out *pluginhost.UnavailableError
		if errors.As(err, &out) {
			f.retryAfter = out.RetryAfter
		}
		return f
	}
	r.sess = sess
	r.feed.Bind(sess)
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	for {
		snap, changed := t.conf.Stream.Watch()
		st := r.feed.State()
		switch {
		case st.Ended:
			return r.ended(st)
		case ctx.Err() != nil:
			r.close("the gateway ends", true)
			return nil
		case snap.State == router.Idle:
			r.flush(ctx)
			r.close("the publisher is gone", true)
			return nil
		case over(updated):
			r.close("the target was changed", true)
			return nil
		}
		if f := r.step(snap, st); f != nil {
			r.close(f.message, false)
			return f
		}
		select {
		case <-changed:
		case <-r.feed.Changed():
		case <-updated:
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// over reports whether c is closed.
func over(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// begin counts the session, and says whether it is one with the backup.
func (t *Target) begin(r *run) (attempt int, backup bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempt++
	t.sub, t.feed, t.figures = r.sub, r.feed, figures{}
	return t.attempt, t.backup && !r.set.Target.Backup.Empty()
}

// finish closes the session's books.
func (t *Target) finish(r *run) {
	r.sub.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := r.sub.Stats()
	t.units += s.Units
	t.bytes += s.Bytes
	for reason, n := range s.Dropped {
		t.dropped[reason] += n
	}
	t.plugin += r.feed.State().Stats.UnitsDropped
	t.sub, t.feed, t.figures = nil, nil, figures{}
	t.limits = limits{}
}

// step looks at an open session; a failure that it returns is the session's end.
func (r *run) step(snap router.Snapshot, st session.State) *failure {
	now := time.Now()
	if !st.Ready {
		if now.Sub(r.opened) > openLimit {
			return &failure{cause: pluginhost.CauseRemote, class: "timeout", message: fmt.Sprintf("not ready %v after opening", openLimit)}
		}
		return nil
	}
	if r.ready.IsZero() {
		r.ready, r.moved = now, now
		r.accepts = st.Accepts
		if len(st.Accepts.Codecs) == 0 && st.Accepts.VideoTracks == 0 && st.Accepts.AudioTracks == 0 {
			r.accepts = r.set.Accepts
		}
	}
	if f := r.choose(snap, now); f != nil {
		return f
	}
	if f := r.watch(now); f != nil {
		return f
	}
	r.show(snap, st, now)
	r.measure(st, now)
	return nil
}

// choose plans the tracks anew and lets media flow once they are there.
func (r *run) choose(snap router.Snapshot, now time.Time) *failure {
	if snap.State != router.Live || len(snap.Tracks) == 0 {
		return nil // those of the publisher who was lost stay
	}
	t := r.t
	plan := derive.Choose(snap.Tracks, r.set.want(r.accepts), t.conf.Transforms)
	if plan.Refused != "" {
		return &failure{cause: pluginhost.CauseConfig, message: plan.Refused, permanent: true}
	}
	t.need(plan.Needs)
	r.warn(plan.LeftOut)
	if r.started {
		return nil // the subscription chooses for itself
	}
	waited := now.Sub(r.ready)
	switch err := t.missing(plan); {
	case plan.Complete:
	case err != nil:
		if waited > derivePatience {
			return &failure{cause: pluginhost.CausePlugin, message: err.Error()}
		}
		return nil
	case waited < trackPatience || len(complete(plan.Tracks)) == 0:
		return nil
	default:
		t.log.Warn("sending what is there: the publisher announced more and has not described it", "after", trackPatience)
	}
	r.started = true
	r.moved = now
	r.sub.Start(choice(r.set.want(r.accepts), t.conf.Transforms))
	return nil
}

// choice picks, of the tracks at any moment, those that can be sent.
func choice(w derive.Want, ts derive.Transforms) router.Choose {
	return func(tracks []media.Track) []media.Track {
		plan := derive.Choose(tracks, w, ts)
		if plan.Refused != "" {
			return nil
		}
		return complete(plan.Tracks)
	}
}

// warn tells which tracks the target does not get, and logs it when they change.
func (r *run) warn(left []media.Track) {
	r.t.mu.Lock()
	before := r.t.leftOut
	r.t.leftOut = left
	r.t.mu.Unlock()
	same := func(a, b media.Track) bool { return a.ID == b.ID && a.Codec == b.Codec }
	if len(left) == 0 || slices.EqualFunc(before, left, same) {
		return
	}
	var s []string
	for _, t := range left {
		s = append(s, fmt.Sprintf("%d (%s)", t.ID, t.Codec))
	}
	r.t.log.Warn("tracks left out: the target takes no more, or not this codec", "tracks", strings.Join(s, ", "))
}

// watch looks for a peer that takes nothing, and says when units are dropped.
func (r *run) watch(now time.Time) *failure {
	st := r.sub.Stats()
	if st.Bytes != r.written || st.FlightBytes == 0 {
		r.written, r.moved = st.Bytes, now
	}
	if now.Sub(r.moved) > stallLimit {
		return &failure{cause: pluginhost.CauseRemote, class: "stalled", message: fmt.Sprintf("the target took nothing for %v", stallLimit)}
	}
	var dropped uint64
	for _, n := range st.Dropped {
		dropped += n
	}
	if dropped > r.dropped && now.Sub(r.loggedAt) >= 10*time.Second {
		r.t.log.Warn("the target is too slow: units dropped", "lag", st.Lag.Round(time.Millisecond),
			"max_lag", r.set.Target.MaxLag, "units", dropped-r.dropped, "remedy", "lower the publisher's bitrate, or see what slows the target down")
		r.dropped, r.loggedAt = dropped, now
	}
	return nil
}

// show sets the state that the evidence allows.
func (r *run) show(snap router.Snapshot, st session.State, now time.Time) {
	if snap.State == router.Held {
		r.held = true
		r.t.show(status.TargetWaiting, time.Time{})
		return
	}
	if r.held {
		r.held, r.returned = false, now
		r.feed.AwaitCredit()
		st = r.feed.State()
	}
	switch {
	case st.Stats.Idle:
		r.t.show(status.TargetIdle, time.Time{})
	case st.Credited && !st.LastCredit.Before(r.returned):
		r.t.show(status.TargetLive, time.Time{})
	}
}

// ended translates the end of the session as its plugin tells it.
func (r *run) ended(st session.State) *failure {
	f := &failure{
		cause: st.End.Cause, class: st.End.Class, message: st.End.Message,
		permanent: st.End.Permanent, retryAfter: st.End.RetryAfter,
	}
	if st.Credited {
		f.worked = time.Since(st.FirstCredit)
	}
	if f.cause == "" {
		f.cause = pluginhost.CauseRemote
	}
	if f.message == "" {
		f.message = "the target ended the session"
	}
	f.crashed = f.cause == pluginhost.CausePlugin && st.Credited && !f.permanent
	return f
}

// flush waits until the session has been sent what the publisher sent before the end, and
// what is made of it. What would have been dropped while the publisher was there is
// dropped now.
func (r *run) flush(ctx context.Context) {
	limit := time.NewTimer(min(r.set.Target.MaxLag, closeLimit))
	defer limit.Stop()
	look := time.NewTicker(flushInterval)
	defer look.Stop()
	began := time.Now()
	waits := func() bool {
		return r.sub.Stats().QueuedUnits > 0 || r.sub.Behind() > madeBehind && time.Since(began) < madePatience
	}
	for !r.feed.State().Ended && waits() {
		select {
		case <-look.C:
		case <-limit.C:
			n := r.sub.Stats().QueuedUnits
			r.t.log.Warn("the publisher is gone, and the target too far behind for all that he sent: units dropped", "units", n)
			r.t.mu.Lock()
			r.t.dropped[router.DroppedLag] += uint64(n)
			r.t.mu.Unlock()
			return
		case <-ctx.Done():
			return
		}
	}
}

// close ends the session and waits until it is over.
func (r *run) close(reason string, drain bool) {
	r.sess.Close(reason, drain)
	limit := time.NewTimer(closeLimit)
	defer limit.Stop()
	for !r.feed.State().Ended {
		select {
		case <-r.feed.Changed():
		case <-limit.C:
			r.t.log.Error("the session does not end; it is left to its plugin")
			return
		}
	}
}
