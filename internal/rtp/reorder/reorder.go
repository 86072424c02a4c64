// Package reorder puts the RTP packets of one track back in order and decides
// when a missing one is asked for, when again, and when it is given up. It knows
// sequence numbers and time as its caller tells it; it does not know what packets
// carry, nor how they are asked for.
package reorder

import (
	"slices"
	"time"
)

// A Packet is one RTP packet without its header.
type Packet struct {
	Seq     uint16
	Time    uint32 // RTP timestamp
	Marker  bool
	Payload []byte
	Arrival time.Time
	// Resent: the packet came as a retransmission (RTX), so it was not overtaken.
	Resent bool
	// AfterGap is set on delivery: packets before this one are lost for good.
	AfterGap bool
}

// window is how many packets a Buffer looks ahead, and back; a power of two.
const window = 1024

// maxFree is how many stored packets are kept for the next gap.
const maxFree = 64

// How long a missing packet is waited for: for its retransmission, where those are
// asked for and can come in time, else for a packet that others have overtaken.
const (
	resendHold = 100 * time.Millisecond
	orderHold  = 30 * time.Millisecond
	// farAway is the round trip from which on a retransmission would come too late.
	farAway = resendHold - 5*time.Millisecond
)

// A missing packet is asked for as soon as a later one shows that it is missing,
// or a little later where packets are known to overtake each other; again when the
// answer should have come, and then ever more rarely.
const (
	retryLeast   = 20 * time.Millisecond
	retrySlack   = 8 * time.Millisecond
	maxTries     = 6
	maxTolerance = 20 * time.Millisecond
)

// Counts are the packets of a Buffer so far.
type Counts struct {
	// Lost were given up. Late came after that; Duplicates came again.
	Lost, Late, Duplicates uint64
	// Requested counts requests, repetitions included; Recovered are packets that
	// came after they were asked for; Overtaken came late without that.
	Requested, Recovered, Overtaken uint64
}

// A Buffer holds packets back only while one before them is missing, and never
// longer than 100 ms. In order, packets pass through uncopied. Not safe for
// concurrent use.
type Buffer struct {
	// Counts is for reading.
	Counts Counts

	resends   bool
	emit      func(Packet)
	roundTrip time.Duration // zero if unknown
	tolerance time.Duration // how late overtaken packets are

	started bool
	gap     bool  // the next delivery follows a loss
	next    int64 // extended sequence number that is due
	stored  int
	oldest  time.Time // the earliest arrival among the stored ones
	slots   [window]slot

	highest int64 // of the stored ones
	missing int   // requests that are open

	// Of packets and requests that are not in a slot: to be used again.
	freePackets  []*Packet
	freeRequests []*request

	recovery  [256]time.Duration // how long the last recovered packets were missing
	recovered int
}

// A slot is what is known of one sequence number.
type slot struct {
	packet  *Packet  // stored; nil if none is
	request *request // open; nil if there is none
	// done: of those behind next, the packet was delivered; not that it was lost.
	done bool
}

// A request is what is known of a missing packet.
type request struct {
	tries  int
	missed time.Time // when it was found missing
	wait   time.Duration
	due    time.Time // the next try
}

// New returns a Buffer that calls emit for each packet in order; the payload is
// valid during the call only. resends says that the sender sends again what it is
// asked for.
func New(resends bool, emit func(Packet)) *Buffer {
	return &Buffer{resends: resends, emit: emit}
}

// SetRoundTrip tells how long an answer takes to come.
func (b *Buffer) SetRoundTrip(d time.Duration) { b.roundTrip = d }

// asks reports whether asking for missing packets makes sense.
func (b *Buffer) asks() bool { return b.resends && b.roundTrip < farAway }

func (b *Buffer) hold() time.Duration {
	if b.asks() {
		return resendHold
	}
	return orderHold
}

// extend returns seq without its wrapping around, near what is due.
func (b *Buffer) extend(seq uint16) int64 { return b.next + int64(int16(seq-uint16(b.next))) }

// Push takes a packet in and delivers what has become deliverable. The payload
// is not kept.
func (b *Buffer) Push(p Packet) {
	if !b.started {
		b.started = true
		b.next += int64(p.Seq - uint16(b.next))
	}
	seq := b.extend(p.Seq)
	if ahead := seq - b.next; ahead <= -window || ahead >= 4*window {
		// Not a late packet and not a loss: the sender began anew.
		b.Restart()
		b.started = true
		seq = b.next + int64(p.Seq-uint16(b.next))
		b.next = seq
	}
	for seq-b.next >= window {
		b.skip()
	}
	switch ahead := seq - b.next; {
	case ahead < 0:
		b.behind(seq)
	case ahead == 0:
		b.settle(seq, p)
		b.deliver(p)
		b.drain()
	default:
		b.store(seq, p)
	}
	b.Expire(p.Arrival)
}

// Restart delivers what is stored; the next packet begins a sequence of its own.
func (b *Buffer) Restart() {
	for b.stored > 0 {
		b.skip()
	}
	for i := range b.slots {
		b.slots[i].done = false
	}
	b.gap = b.started
	if b.started {
		b.next += 2 * window // nothing of before is near
	}
	b.started = false
}

// behind counts a packet that is of no use any more.
func (b *Buffer) behind(seq int64) {
	s := b.slot(seq)
	if s.done {
		b.Counts.Duplicates++
		return
	}
	s.done = true
	b.Counts.Late++
}

// Deadline returns when the missing packet is given up; ok is false if none is
// missing. Call Expire then.
func (b *Buffer) Deadline() (at time.Time, ok bool) {
	if b.stored == 0 {
		return time.Time{}, false
	}
	return b.oldest.Add(b.hold()), true
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
	if b.missing == 0 || !b.asks() {
		return dst
	}
	for seq := b.next; seq < b.highest; seq++ {
		r := b.slot(seq).request
		if r == nil || r.tries == maxTries || now.Before(r.due) {
			continue
		}
		dst = append(dst, uint16(seq))
		if r.wait == 0 {
			r.wait = max(retryLeast, b.roundTrip*11/10+retrySlack)
		} else {
			r.wait = r.wait * 5 / 4
		}
		r.due = now.Add(r.wait)
		r.tries++
		b.Counts.Requested++
	}
	return dst
}

// NextRequest returns when Requests has something to ask for; ok is false if
// nothing is missing.
func (b *Buffer) NextRequest() (at time.Time, ok bool) {
	if b.missing == 0 || !b.asks() {
		return time.Time{}, false
	}
	for seq := b.next; seq < b.highest; seq++ {
		if r := b.slot(seq).request; r != nil && r.tries < maxTries && (!ok || r.due.Before(at)) {
			at, ok = r.due, true
		}
	}
	return at, ok
}

// Recovery returns how long the packets that were recovered last had been missing:
// half of them no longer than median, 99 of 100 no longer than p99, all no longer than
// most.
func (b *Buffer) Recovery() (median, p99, most time.Duration) {
	n := min(b.recovered, len(b.recovery))
	if n == 0 {
		return 0, 0, 0
	}
	d := slices.Clone(b.recovery[:n])
	slices.Sort(d)
	return d[n/2], d[n*99/100], d[n-1]
}

func (b *Buffer) slot(seq int64) *slot { return &b.slots[uint64(seq)%window] }

// miss opens requests for what is missing before seq, which is to be stored.
func (b *Buffer) miss(seq int64, arrival time.Time) {
	from := b.next
	if b.stored > 0 {
		if seq < b.highest {
			return
		}
		from = b.highest + 1
	}
	for n := from; n < seq; n++ {
		var r *request
		if k := len(b.freeRequests); k > 0 {
			r, b.freeRequests = b.freeRequests[k-1], b.freeRequests[:k-1]
		} else {
			r = new(request)
		}
		*r = request{missed: arrival, due: arrival.Add(b.tolerance + b.tolerance/4)}
		b.slot(n).request = r
		b.missing++
	}
	b.highest = seq
}

// close ends the request for seq and returns it; nil if there is none.
func (b *Buffer) close(seq int64) *request {
	s := b.slot(seq)
	r := s.request
	if r != nil {
		s.request = nil
		b.missing--
		b.freeRequests = append(b.freeRequests, r)
	}
	return r
}

// settle closes the request for a packet that has come.
func (b *Buffer) settle(seq int64, p Packet) {
	r := b.close(seq)
	if r == nil {
		return
	}
	late := p.Arrival.Sub(r.missed)
	if r.tries > 0 && (p.Resent || late >= b.roundTrip*4/5) {
		b.Counts.Recovered++
		b.recovery[b.recovered%len(b.recovery)] = late
		b.recovered++
		return
	}
	b.Counts.Overtaken++
	// Up at once, down slowly: most of those that are overtaken come within it.
	b.tolerance = min(maxTolerance, max(late, b.tolerance-b.tolerance/16))
}

// giveUp closes the request for a packet that will not come.
func (b *Buffer) giveUp(seq int64) {
	b.slot(seq).done = false
	if b.close(seq) != nil {
		b.tolerance -= b.tolerance / 16
	}
}

// first returns the number of the first packet that is stored.
func (b *Buffer) first() int64 {
	for seq := b.next; ; seq++ {
		if b.slot(seq).packet != nil {
			return seq
		}
	}
}

func (b *Buffer) store(seq int64, p Packet) {
	s := b.slot(seq)
	if s.packet != nil {
		b.Counts.Duplicates++
		return
	}
	b.miss(seq, p.Arrival)
	b.settle(seq, p)
	if b.stored == 0 || p.Arrival.Before(b.oldest) {
		b.oldest = p.Arrival
	}
	kept := new(Packet)
	if k := len(b.freePackets); k > 0 {
		kept, b.freePackets = b.freePackets[k-1], b.freePackets[:k-1]
	}
	p.Payload = append(kept.Payload[:0], p.Payload...)
	*kept = p
	s.packet, s.done = kept, false
	b.stored++
}

func (b *Buffer) deliver(p Packet) {
	b.slot(b.next).done = true
	b.next++
	p.AfterGap, b.gap = b.gap, false
	b.emit(p)
}

// drain delivers the stored packets up to the next missing one.
func (b *Buffer) drain() {
	delivered := false
	for b.stored > 0 && b.slot(b.next).packet != nil {
		s := b.slot(b.next)
		p := s.packet
		s.packet = nil
		b.stored--
		b.deliver(*p)
		if len(b.freePackets) < maxFree {
			b.freePackets = append(b.freePackets, p)
		}
		delivered = true
	}
	if delivered && b.stored > 0 {
		b.findOldest()
	}
}

func (b *Buffer) findOldest() {
	b.oldest = time.Time{}
	for seq, left := b.next, b.stored; left > 0; seq++ {
		if p := b.slot(seq).packet; p != nil {
			if left--; b.oldest.IsZero() || p.Arrival.Before(b.oldest) {
				b.oldest = p.Arrival
			}
		}
	}
}

// skip gives up the missing packets before the first stored one; if none is
// stored, one missing packet.
func (b *Buffer) skip() {
	to := b.next + 1
	if b.stored > 0 {
		to = b.first()
	}
	for seq := b.next; seq < to; seq++ {
		b.giveUp(seq)
	}
	b.Counts.Lost += uint64(to - b.next)
	b.gap, b.next = true, to
	b.drain()
}

// Misses reports whether the packet seq is waited for.
func (b *Buffer) Misses(seq uint16) bool {
	if !b.started {
		return false
	}
	n := b.extend(seq)
	return n >= b.next && n-b.next < window && b.slot(n).packet == nil
}
