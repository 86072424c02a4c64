package egresssrt

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/headgate/gateway/internal/mpegts"
	"github.com/headgate/gateway/internal/srt"
	"github.com/headgate/gateway/sdk/media"
)

const (
	// tick is the pace at which packets leave; the library looks as often.
	tick = 10 * time.Millisecond
	// burst is how many packets may leave in a tick at the least, and spread into
	// how many ticks a large picture is cut: no burst is longer than what routers
	// buffer, and no picture takes longer than its lead.
	burst  = 16
	spread = 16
	// lead is how far the program clock is before the units. A constant rate needs
	// more: a large picture takes longer then.
	lead         = 250 * time.Millisecond
	constantLead = 900 * time.Millisecond
	// clockEvery is the time between two samples of the program clock; 100 ms are
	// allowed.
	clockEvery = 40 * time.Millisecond
	// soundWaits is how long packets of sound wait for others to fill a datagram.
	soundWaits = 20 * time.Millisecond
	// bufferBytes may be on their way to the line before a write waits.
	bufferBytes = 64 << 10
	// unackedLimit is for how long the peer may acknowledge nothing, beyond the
	// latency, before no more is sent: what waits then is the gateway's to drop.
	unackedLimit = 500 * time.Millisecond
	statsEvery   = 100 * time.Millisecond
	// shortAfter is for how long a constant rate may have no packet to spare, and units
	// wait, before it is told that it is too low.
	shortAfter = 5 * time.Second
	never      = time.Duration(1<<63 - 1)
	// perDatagram packets of a transport stream make a datagram.
	perDatagram = srt.PayloadBytes / mpegts.PacketBytes
)

// A line takes datagrams: *[srt.Conn].
type line interface {
	Write(datagram []byte) error
	Stats() srt.Stats
	Done() <-chan struct{}
}

// A player is one connection that takes the stream. Write hands units over and sends
// of them what is due; run sends the rest.
type player struct {
	line  line
	log   *slog.Logger
	rate  int // bits per second that are kept; 0: what comes
	start time.Time

	mu      sync.Mutex // guards the fields below
	mux     *mpegts.Muxer
	clock   mpegts.Clock
	queue   []byte        // whole packets that wait
	sent    int           // of queue, at its front
	share   int           // packets to send in a tick
	flushAt time.Duration // when what does not fill a datagram goes out
	room    chan struct{} // closed when the queue is short again; nil: nobody waits
	stats   srt.Stats
	bytes   uint64
	full    uint64 // datagrams that the library had no room for at once
	unacked unacked
	units   uint64 // left out

	datagram  []byte        // what is made up
	lastClock time.Duration // when a sample went out
	clocked   bool
	counters  map[uint16]byte
	slots     int64 // packets sent at the constant rate
	spare     int64 // of them the last that carried nothing
	short     bool  // it was told that the rate is too low
	spent     int   // packets sent since the last tick
	looked    time.Duration
}

func newPlayer(l line, tracks []media.Track, rate int, log *slog.Logger) (*player, error) {
	mux, err := mpegts.NewMuxer(tracks)
	if err != nil {
		return nil, err
	}
	p := &player{
		line: l, log: log, rate: rate, start: time.Now(), mux: mux, flushAt: never,
		clock: mpegts.Clock{Ahead: lead, MaxSlew: 100e-6}, counters: make(map[uint16]byte),
	}
	if rate > 0 {
		p.clock = mpegts.Clock{Ahead: constantLead, MaxSlew: 8e-6}
	}
	return p, nil
}

// setTracks changes the tracks.
func (p *player) setTracks(tracks []media.Track) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mux.SetTracks(tracks)
}

// write hands a unit over and waits until it is on its way.
func (p *player) write(ctx context.Context, u *media.AccessUnit, isVideo, alone bool) error {
	p.mu.Lock()
	now := p.now()
	before := len(p.queue)
	var err error
	if p.queue, err = p.mux.AppendUnit(p.queue, u); err != nil {
		p.units++ // a unit that is none costs itself
	}
	if added := (len(p.queue) - before) / mpegts.PacketBytes; added > 0 {
		p.clock.Sent(p.mux.Timestamp(u.DTS), now)
		p.share = max(p.share, burst, (len(p.queue)-p.sent)/mpegts.PacketBytes/spread+1)
		at := time.Since(p.start)
		if !isVideo && !alone {
			at += soundWaits
		}
		p.flushAt = min(p.flushAt, at)
	}
	p.turn()
	var room chan struct{}
	if len(p.queue)-p.sent > bufferBytes {
		if p.room == nil {
			p.room = make(chan struct{})
		}
		room = p.room
	}
	p.mu.Unlock()
	if room == nil {
		return nil
	}
	select {
	case <-room:
		return nil
	case <-p.line.Done():
		return srt.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// now is the time that the program clock runs with: the line's own where the rate
// is constant. The caller holds mu.
func (p *player) now() time.Duration {
	if p.rate > 0 {
		return p.slotTime(p.slots)
	}
	return time.Since(p.start)
}

// slotTime is when the n-th packet of a constant rate begins.
func (p *player) slotTime(n int64) time.Duration {
	const bits = mpegts.PacketBytes * 8
	whole, rest := n*bits/int64(p.rate), n*bits%int64(p.rate)
	return time.Duration(whole)*time.Second + time.Duration(float64(rest)/float64(p.rate)*1e9)
}

// run sends what waits until the line is over or ctx ends. The library looks as
// often, from the same moment on: the two share the times when the process wakes.
func (p *player) run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.line.Done():
			return
		case <-ticker.C:
		}
		p.mu.Lock()
		p.spent = 0
		p.turn()
		p.mu.Unlock()
	}
}

// turn sends what is due. The caller holds mu.
func (p *player) turn() {
	since := time.Since(p.start)
	if since-p.looked >= statsEvery {
		p.looked = since
		p.stats = p.line.Stats()
		p.unacked.note(p.stats, since)
	}
	switch {
	case p.unacked.age(since) > unackedLimit+p.stats.Latency: // the peer is to come up first
	case p.rate > 0:
		p.constant(since)
	default:
		p.variable(since)
	}
}

// variable sends what is there, a share per tick.
func (p *player) variable(since time.Duration) {
	free := p.hasRoom()
	if free && p.clock.Started() && (!p.clocked || since-p.lastClock >= clockEvery) {
		p.addClock(since)
		p.flushAt = min(p.flushAt, since)
	}
	for free && p.spent < p.share && p.sent < len(p.queue) {
		if free = p.hasRoom(); free {
			p.add(p.take())
			p.spent++
		}
	}
	if p.sent == len(p.queue) {
		p.share = 0
		if free && since >= p.flushAt && p.flush() {
			p.flushAt = never
		}
	}
	p.made()
}

// constant sends as many packets as the rate has come to, null ones where there is
// nothing else.
func (p *player) constant(since time.Duration) {
	if behind := since - p.slotTime(p.slots); behind > time.Second {
		p.start = p.start.Add(behind) // the process stood still: that is no time to make up
		since -= behind
	}
	every := max(int64(clockEvery.Seconds()*float64(p.rate)/8/mpegts.PacketBytes), 1)
	for p.slotTime(p.slots) <= since && p.hasRoom() {
		switch {
		case p.clock.Started() && (!p.clocked || p.slots%every == 0):
			p.addClock(p.slotTime(p.slots))
		case p.sent < len(p.queue):
			p.add(p.take())
		default:
			p.datagram = mpegts.AppendNull(p.datagram)
			p.spare = p.slots
			p.sendFull()
		}
		p.slots++
	}
	if !p.short && p.room != nil && p.slotTime(p.slots-p.spare) > shortAfter {
		p.short = true
		p.log.Warn("the stream has more than muxrate: pictures come late or not at all; raise it, or send less", "muxrate", p.rate)
	}
	p.made()
}

// take takes the next packet from the queue.
func (p *player) take() []byte {
	b := p.queue[p.sent : p.sent+mpegts.PacketBytes]
	p.sent += mpegts.PacketBytes
	return b
}

// made tells who waits for room, and forgets what was sent.
func (p *player) made() {
	if p.sent == len(p.queue) || p.sent > bufferBytes {
		n := copy(p.queue, p.queue[p.sent:])
		p.queue, p.sent = p.queue[:n], 0
		if n == 0 && cap(p.queue) > 4<<20 {
			p.queue = nil // a picture of that size is rare
		}
	}
	if p.room != nil && len(p.queue)-p.sent <= bufferBytes {
		close(p.room)
		p.room = nil
	}
}

// add puts a packet into the datagram, and sends it when it is full.
func (p *player) add(packet []byte) {
	p.counters[mpegts.PID(packet)] = mpegts.Counter(packet)
	p.datagram = append(p.datagram, packet...)
	p.sendFull()
}

// addClock adds a sample of the program clock at the time now.
func (p *player) addClock(now time.Duration) {
	pid := p.mux.ClockPID()
	if pid == 0 {
		return
	}
	at, jumped := p.clock.Sample(now)
	p.datagram = mpegts.AppendClock(p.datagram, pid, p.counters[pid], at, jumped)
	p.lastClock, p.clocked = now, true
	p.sendFull()
}

func (p *player) sendFull() {
	if len(p.datagram) >= perDatagram*mpegts.PacketBytes {
		p.flush()
	}
}

// flush sends the datagram, and reports false where it has to wait: the library's
// queue is full, and the goroutine that empties it needs the processor.
func (p *player) flush() bool {
	if len(p.datagram) == 0 {
		return true
	}
	if err := p.line.Write(p.datagram); err != nil {
		select {
		case <-p.line.Done(): // nobody is to be sent anything any more
		default:
			p.full++
			return false
		}
	} else {
		p.bytes += uint64(len(p.datagram))
		p.unacked.sent++
	}
	p.datagram = p.datagram[:0]
	return true
}

// hasRoom reports whether there is room in the datagram for a packet.
func (p *player) hasRoom() bool {
	return len(p.datagram) < perDatagram*mpegts.PacketBytes || p.flush()
}

const (
	// closeWait bounds how long the last datagrams are waited for, beside the latency.
	closeWait = 1500 * time.Millisecond
	// closeMost bounds both: a session has 5 s for its end.
	closeMost = 4500 * time.Millisecond
)

// drain waits until the peer has acknowledged everything and its latency is over,
// for it forgets what it has not handed on when it hears goodbye; or until ctx ends. One
// that does not acknowledge is not waited for.
func (p *player) drain(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, min(closeWait+p.line.Stats().Latency, closeMost))
	defer stop()
	var acked time.Time
	for {
		p.mu.Lock()
		empty := len(p.queue) == p.sent && len(p.datagram) == 0
		p.mu.Unlock()
		if st := p.line.Stats(); !empty || st.Buffered > 0 {
			acked = time.Time{}
		} else if acked.IsZero() {
			acked = time.Now()
		} else if time.Since(acked) > st.Latency+2*tick {
			return
		}
		select {
		case <-time.After(tick):
		case <-p.line.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// unacked knows for how long the oldest datagram waits that the peer has not
// acknowledged.
type unacked struct {
	sent  uint64 // datagrams handed to the library
	marks []mark // how many there were at a time, while they are not acknowledged
}

type mark struct {
	sent uint64
	at   time.Duration
}

func (u *unacked) note(st srt.Stats, now time.Duration) {
	acked := u.sent - min(st.Buffered, u.sent)
	n := 0
	for n < len(u.marks) && u.marks[n].sent <= acked {
		n++
	}
	u.marks = append(u.marks[:0], u.marks[n:]...)
	if u.sent > acked && (len(u.marks) == 0 || u.marks[len(u.marks)-1].sent < u.sent) {
		u.marks = append(u.marks, mark{u.sent, now})
	}
}

func (u *unacked) age(now time.Duration) time.Duration {
	if len(u.marks) == 0 {
		return 0
	}
	return now - u.marks[0].at
}
