// Package session joins one plugin session to one subscription: what the session
// pulls comes from the subscription's queue, what it credits goes back there, and
// what it says of itself waits for the one goroutine that leads it. It knows both
// faces and decides nothing.
package session

import (
	"sync"
	"time"

	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/sdk/media"
)

// A Feed is the gateway's end of an egress or transform session. It implements
// [pluginhost.SessionHandler] and [pluginhost.Source].
//
// Its leader subscribes it, opens the session with it, binds what it got, and
// then reads [Feed.State] whenever [Feed.Changed] says so.
type Feed struct {
	// OnTracks and OnUnit receive what a transform makes; nil for an egress.
	OnTracks func([]media.Track)
	OnUnit   func(*media.AccessUnit)
	// TimeOnly: the session gets units without their payload. What it was spared
	// counts as written at once.
	TimeOnly bool

	changed chan struct{}
	sub     *router.Subscription // set by Subscribe, before the session exists
	items   []router.Item        // used by Pull alone
	pulled  []pluginhost.Item    // what Pull returned, to be used again

	mu      sync.Mutex // guards the fields below
	session pluginhost.Session
	state   State
	await   bool // the next credit is news
}

// A State is what is known of a session.
type State struct {
	Ready   bool
	Accepts pluginhost.Accepts
	// Credited says that the session wrote something to its peer, at FirstCredit
	// for the first and at LastCredit for the newest time. Only the first, and the
	// next one after [Feed.AwaitCredit], is a change that [Feed.Changed] tells.
	Credited                bool
	FirstCredit, LastCredit time.Time
	Stats                   pluginhost.Stats
	Ended                   bool
	End                     pluginhost.End
}

var (
	_ pluginhost.SessionHandler = (*Feed)(nil)
	_ pluginhost.Source         = (*Feed)(nil)
)

// New returns a feed without subscription and session.
func New() *Feed { return &Feed{changed: make(chan struct{}, 1), await: true} }

// Subscribe subscribes the feed to a stream; c.Wake is set here. Call it once,
// before the session is opened.
func (f *Feed) Subscribe(s *router.Stream, c router.SubscriptionConfig) *router.Subscription {
	c.Wake = f.wake
	f.sub = s.Subscribe(c)
	return f.sub
}

// Bind tells the feed its session. Call it before the subscription is started.
func (f *Feed) Bind(s pluginhost.Session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.session = s
}

func (f *Feed) wake() {
	f.mu.Lock()
	s := f.session
	f.mu.Unlock()
	if s != nil {
		s.Wake()
	}
}

// Changed has a value when the state changed since it was last received from.
func (f *Feed) Changed() <-chan struct{} { return f.changed }

// State returns what is known of the session.
func (f *Feed) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

func (f *Feed) update(change func(*State)) {
	f.mu.Lock()
	change(&f.state)
	f.mu.Unlock()
	f.notify()
}

func (f *Feed) notify() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// Pull implements [pluginhost.Source].
func (f *Feed) Pull(maxBytes int) []pluginhost.Item {
	f.items = f.sub.Pull(f.items[:0], maxBytes)
	clear(f.pulled)
	f.pulled = f.pulled[:0]
	spared := 0
	for _, it := range f.items {
		if f.TimeOnly && it.Unit != nil {
			spared += len(it.Unit.Payload)
			it.Unit = it.Unit.Clone()
			it.Unit.Payload = nil
		}
		f.pulled = append(f.pulled, pluginhost.Item(it))
	}
	clear(f.items)
	if spared > 0 {
		f.sub.Credited(spared)
	}
	return f.pulled
}

// Ready implements [pluginhost.SessionHandler].
func (f *Feed) Ready(accepts pluginhost.Accepts) {
	f.update(func(s *State) { s.Ready, s.Accepts = true, accepts })
}

// Tracks implements [pluginhost.SessionHandler].
func (f *Feed) Tracks(tracks []media.Track) {
	if f.OnTracks != nil {
		f.OnTracks(tracks)
	}
}

// Unit implements [pluginhost.SessionHandler].
func (f *Feed) Unit(unit *media.AccessUnit) {
	if f.OnUnit != nil {
		f.OnUnit(unit)
	}
}

// Credited implements [pluginhost.SessionHandler].
func (f *Feed) Credited(n int) {
	f.sub.Credited(n)
	if n <= 0 {
		return
	}
	now := time.Now()
	f.mu.Lock()
	if !f.state.Credited {
		f.state.Credited, f.state.FirstCredit = true, now
	}
	f.state.LastCredit = now
	news := f.await
	f.await = false
	f.mu.Unlock()
	if news {
		f.notify()
	}
}

// AwaitCredit makes the next credit a change of the state.
func (f *Feed) AwaitCredit() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.await = true
}

// Keyframe implements [pluginhost.SessionHandler].
func (f *Feed) Keyframe(track media.TrackID) { f.sub.RequestKeyframe(track) }

// Stats implements [pluginhost.SessionHandler].
func (f *Feed) Stats(st pluginhost.Stats) {
	f.sub.ReportUnsent(st.UnsentAge)
	f.mu.Lock()
	f.state.Stats = st
	f.mu.Unlock()
}

// Ended implements [pluginhost.SessionHandler].
func (f *Feed) Ended(end pluginhost.End) {
	f.update(func(s *State) { s.Ended, s.End = true, end })
}
