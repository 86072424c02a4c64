package sdk

import (
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// inbox is what an egress or transform session has received and not dealt with.
// The gateway's credit bounds it. The receiving goroutine fills it, the session's
// own goroutine empties it.
type inbox struct {
	notify chan struct{} // holds a token when there may be news

	mu      sync.Mutex // guards the fields below
	items   []wire.Item
	taken   int  // of items, at its front
	closing bool // no more items; the session ends behind them
}

func newInbox() *inbox { return &inbox{notify: make(chan struct{}, 1)} }

func (b *inbox) put(it wire.Item) {
	b.mu.Lock()
	first := len(b.items) == 0
	if !b.closing {
		b.items = append(b.items, it)
	}
	b.mu.Unlock()
	if first { // else the session has more to do already
		b.signal()
	}
}

// close ends the inbox; without drain what is in it goes too.
func (b *inbox) close(drain bool) {
	b.mu.Lock()
	b.closing = true
	if !drain {
		b.items, b.taken = nil, 0
	}
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) signal() {
	select {
	case b.notify <- struct{}{}:
	default:
	}
}

// news is what next returns.
type news int

const (
	newsItem   news = iota
	newsClosed      // closed, and everything before it was returned
	newsFailed      // the channel failed was closed and nothing is queued
	newsQuiet       // nothing came until the channel quiet had a value
)

// next waits for an item, for what ends the session, or for quiet, which may be
// nil.
func (b *inbox) next(failed <-chan struct{}, quiet <-chan time.Time) (wire.Item, news) {
	for {
		b.mu.Lock()
		if len(b.items) > 0 {
			it := b.items[b.taken]
			b.items[b.taken] = wire.Item{}
			if b.taken++; b.taken >= (len(b.items)+1)/2 { // now and then, and whenever nothing is left
				rest := copy(b.items, b.items[b.taken:])
				clear(b.items[rest:])
				b.items, b.taken = b.items[:rest], 0
			}
			b.mu.Unlock()
			return it, newsItem
		}
		closed := b.closing
		b.mu.Unlock()
		if closed {
			return wire.Item{}, newsClosed
		}
		select {
		case <-b.notify:
		case <-failed:
			return wire.Item{}, newsFailed
		case <-quiet:
			return wire.Item{}, newsQuiet
		}
	}
}

// creditDelay is how long a session may owe credit. That of many sessions then travels
// together, and the window covers it. It may not be owed until the next unit is written:
// a target that takes little would seem to lag by what it has taken long ago.
const creditDelay = 20 * time.Millisecond

// A creditor gives back the credit of all sessions of an attachment.
type creditor struct {
	out *wire.Outbox[*wire.PluginMsg]

	mu   sync.Mutex // guards the fields below, and what its credits owe
	late []*credits // that owe something
}

// wait gives what c owes with that of others, soon. It is called with mu held.
func (cr *creditor) wait(c *credits) {
	if c.late {
		return
	}
	c.late = true
	if cr.late = append(cr.late, c); len(cr.late) == 1 {
		time.AfterFunc(creditDelay, cr.flush)
	}
}

func (cr *creditor) flush() {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	m := &wire.Credits{}
	for _, c := range cr.late {
		if c.late = false; c.owed > 0 {
			m.Sessions, m.Bytes = append(m.Sessions, c.session), append(m.Bytes, uint64(c.owed))
			c.owed = 0
		}
	}
	clear(cr.late)
	cr.late = cr.late[:0]
	if len(m.Sessions) > 0 {
		cr.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Credits{Credits: m}})
	}
}

// credits gives back what a session has dealt with, a good part of the window at
// a time, and fits the window to the rate of the media. It belongs to the
// session's goroutine.
type credits struct {
	creditor *creditor
	session  uint32
	window   int

	owed int  // guarded by creditor.mu, as is the rest of this block
	late bool // it is among creditor.late
	gave bool

	started bool
	from    time.Duration // DTS at which the measurement began
	bytes   int           // since then
}

// rateSpan is the media time over which a session's rate is taken: a group of
// pictures of the usual length.
const rateSpan = 2 * time.Second

// newCredits starts with a window for the bitrate that the tracks declare.
func newCredits(cr *creditor, session uint32, tracks []media.Track) *credits {
	bits := 0
	for _, t := range tracks {
		bits += t.BitrateBitsPerSecond
	}
	return &credits{creditor: cr, session: session, window: windowFor(float64(bits) / 8)}
}

// windowFor returns the window for media of so many bytes per second.
func windowFor(bytesPerSecond float64) int {
	return int(min(max(bytesPerSecond*wire.WindowTime.Seconds(), wire.MinWindowBytes), wire.MaxMessageBytes))
}

// done counts a unit as dealt with.
func (c *credits) done(u *media.AccessUnit) {
	window := c.measure(u)
	c.creditor.mu.Lock()
	defer c.creditor.mu.Unlock()
	c.owed += len(u.Payload)
	switch {
	case window != 0:
		c.window = window
		c.give(uint64(window))
	case c.owed >= c.window/4 || !c.gave: // the first one is news
		c.give(0)
	default:
		c.creditor.wait(c)
	}
}

// flush gives back what is owed, because nothing more will be done.
func (c *credits) flush() {
	c.creditor.mu.Lock()
	defer c.creditor.mu.Unlock()
	if c.owed > 0 {
		c.give(0)
	}
}

// give is called under the lock of the creditor.
func (c *credits) give(window uint64) {
	m := &wire.Credit{Session: c.session, Bytes: uint64(c.owed), WindowBytes: window}
	c.owed, c.gave = 0, true
	c.creditor.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Credit{Credit: m}})
}

// measure takes u into account and returns the new window if it should change.
func (c *credits) measure(u *media.AccessUnit) int {
	if !c.started || u.DTS < c.from {
		c.started, c.from, c.bytes = true, u.DTS, 0
	}
	span := u.DTS - c.from
	if span < rateSpan {
		c.bytes += len(u.Payload)
		return 0
	}
	window := windowFor(float64(c.bytes) / span.Seconds())
	c.from, c.bytes = u.DTS, len(u.Payload)
	if window > c.window+c.window/4 || window < c.window/2 {
		return window
	}
	return 0
}
