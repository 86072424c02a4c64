package egresssrt

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/headgate/gateway/internal/srt"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

const (
	// maxPlayers bounds the connections of one target.
	maxPlayers = 64
	// groupTime and groupBytes bound what is kept for who comes next; queueTime what
	// waits for one who is slow.
	groupTime  = 4 * time.Second
	groupBytes = 16 << 20
	queueTime  = 2 * time.Second
)

// A listener is the session of a target that players call. Each of them has a queue
// and a goroutine of its own.
type listener struct {
	log    *slog.Logger
	opts   Options
	takes  sdk.Accepts
	at     srt.Address
	server *srt.Server
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan struct{}

	mu sync.Mutex // guards the fields below
	carried
	err     error
	players map[*guest]bool
	taken   int                 // places: of players, and of those who are being answered
	group   []*media.AccessUnit // from the last random access point on
	bytes   int
	gone    sdk.SinkStats // figures of those who left
	refused uint64
}

// A guest is a player with its queue.
type guest struct {
	player *player
	notify chan struct{} // holds a token when there may be something in queue

	mu      sync.Mutex // guards the fields below
	queue   []item
	skip    bool   // until the next random access point
	dropped uint64 // units
}

// An item is a unit, or tracks that change before the next one.
type item struct {
	unit   *media.AccessUnit
	tracks []media.Track
}

func openListener(target sdk.Target, at srt.Address, opts Options, tracks []media.Track) (sdk.Sink, error) {
	server, err := srt.Listen(at)
	if err != nil {
		return nil, explain(err)
	}
	l := &listener{
		log: logger(target), opts: opts, takes: accepts(tracks), at: at, server: server, failed: make(chan struct{}),
		carried: carried{tracks}, players: make(map[*guest]bool),
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.wg.Go(func() {
		if err := server.Run(ctx, func(c srt.Call) { l.answer(ctx, c) }); err != nil {
			l.mu.Lock()
			l.err = err
			l.mu.Unlock()
			close(l.failed)
		}
	})
	return l, nil
}

// answer serves one caller until it leaves.
func (l *listener) answer(ctx context.Context, call srt.Call) {
	remote := call.Remote()
	refuse := func(code uint32, why string) {
		call.Reject(code)
		l.mu.Lock()
		l.refused++
		l.mu.Unlock()
		l.log.Warn("refused a player", "remote", remote, "why", why)
	}
	if !l.at.StreamID.Empty() && !l.at.StreamID.Equal(call.StreamID()) {
		refuse(srt.NotFound, "it calls for another stream id")
		return
	}
	if !l.takePlace() {
		refuse(srt.Overload, fmt.Sprintf("there are %d players", maxPlayers))
		return
	}
	defer l.leavePlace()
	var conn *srt.Conn
	err := call.Verify(l.at.Passphrase)
	if err == nil {
		conn, err = call.Accept()
	}
	if err != nil {
		l.mu.Lock()
		l.refused++
		l.mu.Unlock()
		l.log.Warn("refused a player", "remote", remote, "why", err)
		return
	}
	defer conn.Close()
	g, err := l.enter(conn)
	if err != nil {
		l.log.Error("serving a player", "remote", remote, "error", err)
		return
	}
	came := time.Now()
	l.log.Info("a player came", "remote", remote)
	run, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(conn.Discard)
	wg.Go(func() { g.player.run(run) })
	g.serve(run)
	cancel()
	conn.Close()
	wg.Wait()
	l.leave(g)
	l.log.Info("a player left", "remote", remote, "after", time.Since(came).Round(time.Millisecond), "units_dropped", g.stats().UnitsDropped)
}

// takePlace reports whether there is a place for another player, and takes it.
func (l *listener) takePlace() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken == maxPlayers {
		return false
	}
	l.taken++
	return true
}

func (l *listener) leavePlace() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken--
}

// enter makes a guest of a connection: what there is of the last group of pictures
// comes first.
func (l *listener) enter(conn *srt.Conn) (*guest, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := newPlayer(conn, l.tracks, l.opts.MuxRate, l.log)
	if err != nil {
		return nil, err
	}
	g := &guest{player: p, notify: make(chan struct{}, 1)}
	g.queue = append(g.queue, item{tracks: l.tracks})
	for _, u := range l.group {
		g.queue = append(g.queue, item{unit: u})
	}
	g.skip = len(l.group) == 0 && l.hasVideo()
	l.players[g] = true
	g.signal()
	return g, nil
}

func (l *listener) leave(g *guest) {
	st := g.stats()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.players, g)
	add(&l.gone, st)
}

// add adds the figures of one player to sum.
func add(sum *sdk.SinkStats, st sdk.SinkStats) {
	sum.Bytes += st.Bytes
	sum.AckedBytes += st.AckedBytes
	sum.Retransmits += st.Retransmits
	sum.UnitsDropped += st.UnitsDropped
	sum.RTT = max(sum.RTT, st.RTT)
	if sum.Values == nil {
		sum.Values = make(map[string]float64)
	}
	for name, v := range st.Values {
		sum.Values[name] += v
	}
}

// serve sends what is queued until the connection is over.
func (g *guest) serve(ctx context.Context) {
	c := carried{}
	for {
		it, ok := g.next(ctx)
		if !ok {
			return
		}
		if it.unit == nil {
			c.tracks = it.tracks
			if g.player.setTracks(it.tracks) != nil {
				return
			}
			continue
		}
		if g.player.write(ctx, it.unit, c.kind(it.unit.Track) == media.Video, !c.hasVideo()) != nil {
			return
		}
	}
}

func (g *guest) next(ctx context.Context) (item, bool) {
	for {
		g.mu.Lock()
		if len(g.queue) > 0 {
			it := g.queue[0]
			g.queue[0] = item{}
			g.queue = g.queue[1:]
			g.mu.Unlock()
			return it, true
		}
		g.mu.Unlock()
		select {
		case <-g.notify:
		case <-g.player.line.Done():
			return item{}, false
		case <-ctx.Done():
			return item{}, false
		}
	}
}

func (g *guest) signal() {
	select {
	case g.notify <- struct{}{}:
	default:
	}
}

// put queues a unit. A guest who is too slow loses what waits, up to the next
// random access point.
func (g *guest) put(u *media.AccessUnit, isVideo bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, it := range g.queue {
		if it.unit != nil {
			if u.DTS-it.unit.DTS > queueTime+groupTime {
				g.drop()
			}
			break
		}
	}
	if g.skip && isVideo {
		if !u.RandomAccess {
			g.dropped++
			return
		}
		g.skip = false
	}
	g.queue = append(g.queue, item{unit: u})
	g.signal()
}

// drop forgets the units that wait, and of the changes of tracks all but the last.
// The caller holds mu.
func (g *guest) drop() {
	var last item
	for _, it := range g.queue {
		if it.unit == nil {
			last = it
		} else {
			g.dropped++
		}
	}
	clear(g.queue)
	g.queue, g.skip = g.queue[:0], true
	if last.tracks != nil {
		g.queue = append(g.queue, last)
	}
}

func (g *guest) stats() sdk.SinkStats {
	st := g.player.sinkStats()
	g.mu.Lock()
	defer g.mu.Unlock()
	st.UnitsDropped += g.dropped
	return st
}

// WriteAccessUnit implements [sdk.Sink]. It never waits: each player has its queue.
func (l *listener) WriteAccessUnit(ctx context.Context, u *media.AccessUnit) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	kind := l.kind(u.Track)
	if kind == media.UnknownKind {
		return nil
	}
	isVideo := kind == media.Video
	l.keep(u, isVideo)
	for g := range l.players {
		g.put(u, isVideo)
	}
	return nil
}

// keep keeps the group of pictures that u belongs to.
func (l *listener) keep(u *media.AccessUnit, isVideo bool) {
	if !l.hasVideo() {
		return
	}
	if isVideo && u.RandomAccess {
		clear(l.group)
		l.group, l.bytes = l.group[:0], 0
	} else if len(l.group) == 0 {
		return
	}
	l.group = append(l.group, u)
	l.bytes += len(u.Payload)
	if l.bytes > groupBytes || u.DTS-l.group[0].DTS > groupTime {
		clear(l.group)
		l.group, l.bytes = l.group[:0], 0 // who comes now waits for the next one
	}
}

// SetTracks implements [sdk.TrackSetter].
func (l *listener) SetTracks(_ context.Context, tracks []media.Track) error {
	if err := checkTracks(tracks); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// What is kept was made for other decoder configs, if one of them changed.
	for _, t := range tracks {
		i := slices.IndexFunc(l.tracks, func(o media.Track) bool { return o.ID == t.ID })
		if t.Codec.Kind() == media.Video && (i < 0 || !slices.Equal(l.tracks[i].DecoderConfig, t.DecoderConfig)) {
			clear(l.group)
			l.group, l.bytes = l.group[:0], 0
		}
	}
	l.tracks = tracks
	for g := range l.players {
		g.mu.Lock()
		g.queue = append(g.queue, item{tracks: tracks})
		g.mu.Unlock()
		g.signal()
	}
	return nil
}

// Close implements [sdk.Sink].
func (l *listener) Close(ctx context.Context) error {
	l.mu.Lock()
	players := make([]*guest, 0, len(l.players))
	for g := range l.players {
		players = append(players, g)
	}
	l.mu.Unlock()
	var wg sync.WaitGroup
	for _, g := range players {
		wg.Go(func() { g.drain(ctx) })
	}
	wg.Wait()
	l.cancel()
	l.wg.Wait()
	return nil
}

// drain waits until what is queued is acknowledged, or ctx ends.
func (g *guest) drain(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, closeMost)
	defer stop()
	for {
		g.mu.Lock()
		empty := len(g.queue) == 0
		g.mu.Unlock()
		if empty {
			g.player.drain(ctx)
			return
		}
		select {
		case <-time.After(tick):
		case <-g.player.line.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// Accepts implements [sdk.Accepter].
func (l *listener) Accepts() sdk.Accepts { return l.takes }

// Failed implements [sdk.Failer].
func (l *listener) Failed() <-chan struct{} { return l.failed }

// Err says why Failed is closed.
func (l *listener) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		return nil
	}
	return explain(l.err)
}

// Stats implements [sdk.StatsReporter]: the sum of all players, and the longest
// round trip.
func (l *listener) Stats() sdk.SinkStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	var sum sdk.SinkStats
	gone := l.gone
	gone.RTT = 0
	add(&sum, gone)
	for _, name := range []string{"srt_send_buffer_bytes", "srt_latency_seconds"} {
		delete(sum.Values, name) // of those who left
	}
	for g := range l.players {
		add(&sum, g.stats())
	}
	sum.Values["srt_players"] = float64(len(l.players))
	sum.Values["srt_players_refused"] = float64(l.refused)
	sum.Idle = len(l.players) == 0
	return sum
}
