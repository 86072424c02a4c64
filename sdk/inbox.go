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
	closing bool // no more items; the session ends behind them
}

func newInbox() *inbox { return &inbox{notify: make(chan struct{}, 1)} }

func (b *inbox) put(it wire.Item) {
	b.mu.Lock()
	if !b.closing {
		b.items = append(b.items, it)
	}
	b.mu.Unlock()
	b.signal()
}

// close ends the inbox; without drain what is in it goes too.
func (b *inbox) close(drain bool) {
	b.mu.Lock()
	b.closing = true
	if !drain {
		b.items = nil
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
)

// next waits for an item, or for what ends the session. It calls idle before it
// waits.
func (b *inbox) next(failed <-chan struct{}, idle func()) (wire.Item, news) {
	for {
		b.mu.Lock()
		if len(b.items) > 0 {
			it := b.items[0]
			b.items[0] = wire.Item{}
			b.items = b.items[1:]
			b.mu.Unlock()
			return it, newsItem
		}
		closed := b.closing
		b.mu.Unlock()
		idle()
		if closed {
			return wire.Item{}, newsClosed
		}
		select {
		case <-b.notify:
		case <-failed:
			return wire.Item{}, newsFailed
		}
	}
}

// credits gives back what a session has dealt with, a good part of the window at
// a time, and fits the window to the rate of the media. It belongs to the
// session's goroutine.
type credits struct {
	out     *wire.Outbox[*wire.PluginMsg]
	session uint32
	window  int
	owed    int

	started bool
	from    time.Duration // DTS at which the measurement began
	bytes   int           // since then
}

// rateSpan is the media time over which a session's rate is taken: a group of
// pictures of the usual length.
const rateSpan = 2 * time.Second

// newCredits starts with a window for the bitrate that the tracks declare.
func newCredits(out *wire.Outbox[*wire.PluginMsg], session uint32, tracks []media.Track) *credits {
	bits := 0
	for _, t := range tracks {
		bits += t.BitrateBitsPerSecond
	}
	return &credits{out: out, session: session, window: windowFor(float64(bits) / 8)}
}

// windowFor returns the window for media of so many bytes per second.
func windowFor(bytesPerSecond float64) int {
	return int(min(max(bytesPerSecond*wire.WindowTime.Seconds(), wire.MinWindowBytes), wire.MaxMessageBytes))
}

// done counts a unit as dealt with.
func (c *credits) done(u *media.AccessUnit) {
	c.owed += len(u.Payload)
	if window := c.measure(u); window != 0 {
		c.window = window
		c.give(uint64(window))
	} else if c.owed >= c.window/8 {
		c.give(0)
	}
}

// flush gives back what is owed, because nothing more is there to be done.
func (c *credits) flush() {
	if c.owed > 0 {
		c.give(0)
	}
}

func (c *credits) give(window uint64) {
	m := &wire.Credit{Session: c.session, Bytes: uint64(c.owed), WindowBytes: window}
	c.owed = 0
	c.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Credit{Credit: m}})
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
