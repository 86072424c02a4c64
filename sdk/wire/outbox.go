package wire

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// An Item is one step of a session's media: new tracks, or a unit.
type Item struct {
	Tracks []media.Track     // set: the tracks from here on
	Unit   *media.AccessUnit // else this
	// Discontinuity: units of this track were left out for this session before
	// this one; beside the unit's own flag, which is for all sessions.
	Discontinuity bool
}

// A Source is where a session's media comes from. The sending goroutine calls
// Pull when the session has credit and was woken; it must not block.
type Source interface {
	// Pull takes at most maxBytes of payload from the queue, but at least one
	// item if there is any. What it returns is used until the next call.
	Pull(maxBytes int) []Item
}

// A Step is one step of what an Attach stream carries: new tracks of one
// session, or a unit of one or several.
type Step struct {
	Sessions []uint32
	Item
}

// An Outbox decides what the one sending goroutine of an Attach stream sends
// next: control messages (of type M) first, then media of the sessions that have
// some and have credit for it, in turn. It holds no media itself. A unit that
// several sessions send at the same time becomes one step.
//
// All methods are safe for concurrent use, except that Next and Pull, which it
// calls, belong to the sending goroutine. Sources are called without a lock.
type Outbox[M any] struct {
	wake chan struct{} // holds a token when there may be something to send

	mu       sync.Mutex // guards the fields below
	control  []M
	sessions map[uint32]*outSession
	turn     []*outSession            // those with credit that were woken, in order
	groups   map[uint64][]*outSession // see Group

	batch batch // the sending goroutine's
}

type outSession struct {
	id     uint32
	group  uint64 // 0: none
	source Source
	credit int  // bytes that may be sent; below zero by at most one unit
	sent   int  // bytes sent and not yet credited
	window int  // what credit and sent come to
	woken  bool // its source may have items
	inTurn bool
	muted  bool // nothing more is pulled

	// The sending goroutine's: the batch that it is in, and the index behind its
	// last step there.
	batch, last int
}

// NewOutbox returns an empty outbox.
func NewOutbox[M any]() *Outbox[M] {
	return &Outbox[M]{
		wake:     make(chan struct{}, 1),
		sessions: make(map[uint32]*outSession),
		groups:   make(map[uint64][]*outSession),
		batch:    batch{at: make(map[*media.AccessUnit]int)},
	}
}

// Control appends control messages.
func (o *Outbox[M]) Control(m ...M) {
	if len(m) == 0 {
		return
	}
	o.mu.Lock()
	o.control = append(o.control, m...)
	o.mu.Unlock()
	o.signal()
}

// Backlog is how many control messages wait to be sent.
func (o *Outbox[M]) Backlog() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.control)
}

// Open adds a session with credit for window bytes; zero lets nothing pass until
// [Outbox.SetWindow]. control is sent before its media. A session that sends
// none has no source.
func (o *Outbox[M]) Open(session uint32, source Source, window int, control ...M) {
	o.mu.Lock()
	o.control = append(o.control, control...)
	s := &outSession{id: session, source: source, credit: window, window: window, woken: true}
	o.sessions[session] = s
	o.schedule(s)
	o.mu.Unlock()
	o.signal()
}

// Group says which group the session is of: its media is that of the others in the
// group, and is there for all of them before the first of them is woken. They take
// their turns together, so that what they have in common crosses once.
func (o *Outbox[M]) Group(session uint32, group uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.sessions[session]
	if s == nil || s.muted || s.source == nil {
		return
	}
	o.ungroup(s)
	if group != 0 {
		s.group = group
		o.groups[group] = append(o.groups[group], s)
	}
}

// ungroup takes s out of its group. The caller holds mu.
func (o *Outbox[M]) ungroup(s *outSession) {
	if s.group == 0 {
		return
	}
	rest := slices.DeleteFunc(o.groups[s.group], func(other *outSession) bool { return other == s })
	if len(rest) == 0 {
		delete(o.groups, s.group)
	} else {
		o.groups[s.group] = rest
	}
	s.group = 0
}

// Mute stops pulling from the session's source and appends control messages,
// which go out after the media that was pulled before. Credit is still counted.
func (o *Outbox[M]) Mute(session uint32, control ...M) {
	o.mu.Lock()
	if s := o.sessions[session]; s != nil {
		s.muted = true
		o.ungroup(s)
	}
	o.control = append(o.control, control...)
	o.mu.Unlock()
	o.signal()
}

// Close removes the session and appends control messages, which go out after the
// media that it has sent. What its source still holds is not sent.
func (o *Outbox[M]) Close(session uint32, control ...M) {
	o.mu.Lock()
	if s := o.sessions[session]; s != nil {
		delete(o.sessions, session)
		o.ungroup(s)
	}
	o.control = append(o.control, control...)
	o.mu.Unlock()
	o.signal()
}

// Wake says that the session's source may have items.
func (o *Outbox[M]) Wake(session uint32) {
	o.mu.Lock()
	s := o.sessions[session]
	if s == nil {
		o.mu.Unlock()
		return
	}
	s.woken = true
	added := o.schedule(s)
	o.mu.Unlock()
	if added {
		o.signal()
	}
}

// Grant gives back credit for bytes that were dealt with, and returns how many
// of them had really been sent: the other side may claim too much.
func (o *Outbox[M]) Grant(session uint32, bytes uint64) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.sessions[session]
	if s == nil {
		return 0
	}
	n := int(min(bytes, uint64(s.sent)))
	s.sent -= n
	s.credit += n
	if o.schedule(s) {
		o.signal()
	}
	return n
}

// SetWindow changes how many bytes the session may have outstanding.
func (o *Outbox[M]) SetWindow(session uint32, window int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.sessions[session]
	if s == nil {
		return
	}
	s.credit += window - s.window
	s.window = window
	if o.schedule(s) {
		o.signal()
	}
}

// Next waits until there is something to send and returns it: control messages,
// to be sent first, and steps with about [BatchBytes] of payload, or one unit.
// Either may be empty, not both. The steps are valid until the next call. It fails only when ctx ends.
func (o *Outbox[M]) Next(ctx context.Context) ([]M, []Step, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		control, steps := o.take()
		if len(control) > 0 || len(steps) > 0 {
			return control, steps, nil
		}
		select {
		case <-o.wake:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// take returns what can be sent now.
func (o *Outbox[M]) take() ([]M, []Step) {
	o.mu.Lock()
	control := o.control
	o.control = nil
	o.mu.Unlock()

	b := &o.batch
	b.reset()
	for b.bytes < BatchBytes && len(b.steps) < batchSteps {
		o.mu.Lock()
		var s *outSession
		if len(o.control) == 0 { // else it is said before what a session says that was opened since
			s = o.pop()
		}
		o.mu.Unlock()
		if s == nil {
			break
		}
		o.pull(s)
	}
	o.mu.Lock()
	if len(o.turn) > 0 || len(o.control) > 0 {
		o.signal()
	}
	o.mu.Unlock()
	return control, b.steps
}

// pull takes into the batch what s may send in one round, and the others of its
// group that were to have their turn, or are about to be woken.
func (o *Outbox[M]) pull(s *outSession) {
	b := &o.batch
	o.mu.Lock()
	b.pulling = append(b.pulling[:0], s)
	for _, other := range o.groups[s.group] {
		if other != s && other.credit > 0 {
			b.pulling = append(b.pulling, other)
		}
	}
	o.mu.Unlock()
	room, most := BatchBytes-b.bytes, BatchBytes
	for i, s := range b.pulling {
		if i == 1 {
			most = max(most, b.bytes)
		} else if b.bytes > most {
			break // they have less in common than was thought
		}
		o.mu.Lock()
		s.woken = false
		limit := min(s.credit, RoundBytes, room)
		shares := len(o.groups[s.group]) > 1
		o.mu.Unlock()

		items := s.source.Pull(limit)
		sent := b.add(s, items, shares)

		o.mu.Lock()
		s.credit -= sent
		s.sent += sent
		s.woken = s.woken || len(items) > 0
		if o.sessions[s.id] == s {
			o.schedule(s)
		}
		o.mu.Unlock()
	}
}

// pop takes the session whose turn it is, or nil. The caller holds mu.
func (o *Outbox[M]) pop() *outSession {
	for len(o.turn) > 0 {
		s := o.turn[0]
		o.turn[0] = nil
		o.turn = o.turn[1:]
		s.inTurn = false
		if o.sessions[s.id] == s && s.woken && s.credit > 0 && !s.muted {
			return s
		}
	}
	return nil
}

// schedule queues s for its turn if it can send, and reports whether it did. The
// caller holds mu.
func (o *Outbox[M]) schedule(s *outSession) bool {
	if s.inTurn || !s.woken || s.credit <= 0 || s.muted || s.source == nil {
		return false
	}
	s.inTurn = true
	o.turn = append(o.turn, s)
	return true
}

func (o *Outbox[M]) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// A batch gathers steps. Each session's items keep their order; a unit that is
// in the batch already is joined where that order allows.
type batch struct {
	steps   []Step
	bytes   int                       // payload that crosses
	at      map[*media.AccessUnit]int // of sessions that share
	number  int                       // of this batch
	ids     []uint32                  // room for the sessions of steps
	pulling []*outSession
}

func (b *batch) reset() {
	clear(b.steps)
	clear(b.pulling)
	clear(b.at)
	b.number++
	b.steps, b.ids, b.bytes = b.steps[:0], b.ids[:0], 0
}

// add appends the items of one session and returns the payload that they count for.
// Units of a session that shares may be in the batch already, or be joined later.
func (b *batch) add(s *outSession, items []Item, shares bool) int {
	sent := 0
	if s.batch != b.number {
		s.batch, s.last = b.number, 0
	}
	for _, it := range items {
		if it.Unit != nil {
			sent += len(it.Unit.Payload)
			if shares {
				i, ok := b.at[it.Unit]
				if ok && i >= s.last && b.steps[i].Discontinuity == it.Discontinuity {
					b.steps[i].Sessions = append(b.steps[i].Sessions, s.id)
					s.last = i + 1
					continue
				}
				b.at[it.Unit] = len(b.steps)
			}
			b.bytes += len(it.Unit.Payload)
		}
		b.ids = append(b.ids, s.id)
		n := len(b.ids)
		b.steps = append(b.steps, Step{Sessions: b.ids[n-1 : n : n], Item: it})
		s.last = len(b.steps)
	}
	return sent
}

// batchSteps bounds a batch of units that carry next to nothing.
const batchSteps = 1024

// Messages passes the steps on as messages: runs of units of at most [BatchBytes]
// of payload, a larger unit alone, and track changes between them. It stops at the
// first error.
func Messages(steps []Step, now time.Time, units func(Units) error, tracks func(*TrackSet) error) error {
	first, bytes := 0, 0
	flush := func(end int) error {
		run := steps[first:end]
		first, bytes = end, 0
		if len(run) == 0 {
			return nil
		}
		return units(Units{Steps: run, Now: now})
	}
	for i, s := range steps {
		if s.Unit != nil {
			if n := len(s.Unit.Payload); bytes > 0 && bytes+n > BatchBytes {
				if err := flush(i); err != nil {
					return err
				}
			}
			bytes += len(s.Unit.Payload)
			continue
		}
		if err := flush(i); err != nil {
			return err
		}
		first = i + 1
		if err := tracks(&TrackSet{Sessions: s.Sessions, Tracks: FromTracks(s.Tracks)}); err != nil {
			return err
		}
	}
	return flush(len(steps))
}
