// Package reorder puts the RTP packets of one track back in order and decides
// when a missing one is asked for again and when it is given up. It knows sequence
// numbers and time as its caller tells it; it does not know what packets carry, nor
// how they are asked for.
package reorder

import "time"

// A Packet is one RTP packet without its header.
type Packet struct {
	Seq     uint16
	Time    uint32 // RTP timestamp
	Marker  bool
	Payload []byte
	Arrival time.Time
	// AfterGap is set on delivery: packets before this one are lost for good.
	AfterGap bool
}

// window is how many packets a Buffer looks ahead; a power of two.
const window = 1024

// A missing packet is asked for as soon as a later one shows that it is missing,
// again after retryAfter, and then ever more rarely: the answer takes a round trip.
const (
	retryAfter = 20 * time.Millisecond
	maxTries   = 10
)

// A Buffer holds packets back only while one before them is missing, and not
// longer than its hold time. In order, packets pass through uncopied. Not safe
// for concurrent use.
type Buffer struct {
	hold    time.Duration
	emit    func(Packet)
	started bool
	gap     bool // the next delivery follows a loss
	next    uint16
	stored  int
	oldest  time.Time // the earliest arrival among the stored ones
	slots   [window]slot

	highest  uint16 // of the stored ones
	missing  int    // requests that are open
	requests [window]request

	// Lost counts packets given up; Late those that came after that, or twice.
	Lost, Late uint64
}

type slot struct {
	used bool
	Packet
}

// request is what is known of a missing packet.
type request struct {
	open  bool
	tries int
	wait  time.Duration // until the next try
	due   time.Time
}

// New returns a Buffer that waits at most hold for a missing packet and calls
// emit for each one in order. The payload is valid during the call only.
func New(hold time.Duration, emit func(Packet)) *Buffer {
	return &Buffer{hold: hold, emit: emit}
}

// Push takes a packet in and delivers what has become deliverable. The payload
// is not kept.
func (b *Buffer) Push(p Packet) {
	if !b.started {
		b.started, b.next = true, p.Seq
	}
	ahead := int16(p.Seq - b.next)
	if ahead <= -window || ahead >= 4*window {
		// Not a late packet and not a loss: the sender began anew.
		b.flush()
		b.gap, b.next, ahead = true, p.Seq, 0
	}
	for ahead >= window {
		b.skip()
		ahead = int16(p.Seq - b.next)
	}
	switch {
	case ahead < 0:
		b.Late++
	case ahead == 0:
		b.deliver(p)
		b.drain()
	default:
		b.store(p)
	}
	b.Expire(p.Arrival)
}

// Deadline returns when the missing packet is given up; ok is false if none is
// missing. Call Expire then.
func (b *Buffer) Deadline() (at time.Time, ok bool) {
	if b.stored == 0 {
		return time.Time{}, false
	}
	return b.oldest.Add(b.hold), true
}

// Expire gives up what has been missing for too long at now.
func (b *Buffer) Expire(now time.Time) {
	for {
		at, ok := b.Deadline()
		if !ok || now.Before(at) {
			return
		}
		b.skip()
	}
}

// Requests appends to dst the numbers of the packets that are to be asked for now,
// and counts on that being done.
func (b *Buffer) Requests(dst []uint16, now time.Time) []uint16 {
	if b.missing == 0 {
		return dst
	}
	for seq := b.next; seq != b.highest; seq++ {
		r := b.request(seq)
		if !r.open || r.tries == maxTries || now.Before(r.due) {
			continue
		}
		dst = append(dst, seq)
		r.wait = max(retryAfter, r.wait*5/4)
		r.due = now.Add(r.wait)
		r.tries++
	}
	return dst
}

// NextRequest returns when Requests has something to ask for; ok is false if
// nothing is missing.
func (b *Buffer) NextRequest() (at time.Time, ok bool) {
	if b.missing == 0 {
		return time.Time{}, false
	}
	for seq := b.next; seq != b.highest; seq++ {
		if r := b.request(seq); r.open && r.tries < maxTries && (!ok || r.due.Before(at)) {
			at, ok = r.due, true
		}
	}
	return at, ok
}

func (b *Buffer) request(seq uint16) *request { return &b.requests[seq%window] }

// miss opens requests for what is missing before p, which is to be stored.
func (b *Buffer) miss(p Packet) {
	from := b.next
	if b.stored > 0 {
		from = b.highest + 1
		if int16(p.Seq-b.highest) < 0 {
			return
		}
	}
	for seq := from; seq != p.Seq; seq++ {
		*b.request(seq) = request{open: true, due: p.Arrival}
		b.missing++
	}
	b.highest = p.Seq
}

// settle closes the request for a packet that came or was given up.
func (b *Buffer) settle(seq uint16) {
	if r := b.request(seq); r.open {
		r.open = false
		b.missing--
	}
}

func (b *Buffer) slot(seq uint16) *slot { return &b.slots[seq%window] }

// first returns the stored packet with the lowest number.
func (b *Buffer) first() *slot {
	for seq := b.next; ; seq++ {
		if s := b.slot(seq); s.used {
			return s
		}
	}
}

func (b *Buffer) store(p Packet) {
	s := b.slot(p.Seq)
	if s.used {
		b.Late++
		return
	}
	b.miss(p)
	b.settle(p.Seq)
	if b.stored == 0 || p.Arrival.Before(b.oldest) {
		b.oldest = p.Arrival
	}
	p.Payload = append(s.Payload[:0], p.Payload...)
	*s = slot{used: true, Packet: p}
	b.stored++
}

func (b *Buffer) deliver(p Packet) {
	b.settle(p.Seq)
	b.next = p.Seq + 1
	p.AfterGap, b.gap = b.gap, false
	b.emit(p)
}

// drain delivers the stored packets up to the next missing one.
func (b *Buffer) drain() {
	delivered := false
	for b.stored > 0 && b.slot(b.next).used {
		s := b.slot(b.next)
		s.used = false
		b.stored--
		b.deliver(s.Packet)
		delivered = true
	}
	if delivered && b.stored > 0 {
		b.findOldest()
	}
}

func (b *Buffer) findOldest() {
	b.oldest = time.Time{}
	for seq, left := b.next, b.stored; left > 0; seq++ {
		if s := b.slot(seq); s.used {
			if left--; b.oldest.IsZero() || s.Arrival.Before(b.oldest) {
				b.oldest = s.Arrival
			}
		}
	}
}

// skip gives up the missing packets before the first stored one; if none is
// stored, one missing packet.
func (b *Buffer) skip() {
	to := b.next + 1
	if b.stored > 0 {
		to = b.first().Seq
	}
	for seq := b.next; seq != to; seq++ {
		b.settle(seq)
	}
	b.Lost += uint64(to - b.next)
	b.gap, b.next = true, to
	b.drain()
}

// flush delivers all that is stored.
func (b *Buffer) flush() {
	for b.stored > 0 {
		b.skip()
	}
}
