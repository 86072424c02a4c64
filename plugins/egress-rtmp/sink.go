package egressrtmp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// A sink is one target's session. It has one connection; while the server asks it to
// move to another it has two, and changes over at a keyframe. Its fields are those
// of the goroutine that writes, apart from the atomic ones, those that mu guards and
// those that never change.
type sink struct {
	opts   Options
	target sdk.Target
	client rtmp.ClientConfig // of the present connection, with any Target
	// noteRedirect says where the next session of this target should go.
	noteRedirect func(to secret.String)

	tracks   []sinkTrack   // the video first
	metadata rtmp.Metadata // as the tracks have it
	version  int           // of metadata
	merge    *merger       // nil for InterleaveLow

	dropped atomic.Uint64
	writing atomic.Bool
	armed   <-chan struct{} // Done of the context that aborts writes
	disarm  func() bool

	ctx    context.Context // of the goroutines
	cancel context.CancelFunc
	wg     sync.WaitGroup // of them
	failed chan struct{}

	mu     sync.Mutex // guards the fields below
	now    *leg       // that media is written to
	next   *leg       // that waits for a keyframe; nil if there is none
	closed bool       // no further goroutine is started
	err    error      // why failed is closed
}

// A sinkTrack is a track with its number among those of its kind.
type sinkTrack struct {
	media.Track
	number uint8
}

func (t *sinkTrack) video() bool { return t.Codec.Kind() == media.Video }

// settle is how long a connection must have been used before a request to leave it
// is followed: servers that send each other's clients in circles shall not keep us
// running.
const settle = 5 * time.Second

func newSink(target sdk.Target, opts Options) *sink {
	s := &sink{opts: opts, target: target, failed: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if opts.Interleave == InterleaveStrict {
		s.merge = &merger{}
	}
	return s
}

// start makes l the sink's connection.
func (s *sink) start(l *leg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = l
	s.wg.Go(func() { s.watch(l) })
}

// SetTracks implements [sdk.TrackSetter]. Headers go out with the next unit of
// their track, which they share the timestamp with.
func (s *sink) SetTracks(ctx context.Context, tracks []media.Track) error {
	// What waits to be merged belongs to the tracks so far.
	if err := s.flush(ctx); err != nil {
		return err
	}
	if s.mustReopen(tracks) {
		return sdk.ErrReopen
	}
	return s.setTracks(tracks)
}

// mustReopen reports whether the tracks change in a way that the server would not
// follow.
func (s *sink) mustReopen(tracks []media.Track) bool {
	l := s.current()
	for i := range s.tracks {
		was := &s.tracks[i]
		at := l.of(was.ID)
		if !at.running {
			continue
		}
		for _, t := range tracks {
			if t.ID != was.ID {
				continue
			}
			config := len(t.DecoderConfig) > 0 && !bytes.Equal(t.DecoderConfig, at.header)
			if t.Codec != was.Codec || config && s.opts.OnChange == ChangeReconnect {
				return true
			}
		}
	}
	return false
}

func (s *sink) setTracks(tracks []media.Track) error {
	var list []sinkTrack
	var audio []media.Track
	var video *media.Track
	for _, t := range tracks {
		if !slices.Contains(carried(), t.Codec) {
			return sdk.Permanent(&sdk.Error{
				Cause: sdk.CauseGateway,
				Err:   fmt.Errorf("rtmp carries %v, and was given %s", carried(), t.Codec),
			})
		}
		if err := checkConfig(t); err != nil {
			return &sdk.Error{Cause: sdk.CauseGateway, Err: err}
		}
		switch {
		case t.Codec.Kind() == media.Audio:
			audio = append(audio, t)
		case video == nil:
			video = &t
			list = append(list, sinkTrack{Track: t})
		}
	}
	audio = audio[:min(len(audio), max(s.opts.AudioTracks, announcedAudioTracks))]
	for i, t := range audio {
		list = append(list, sinkTrack{Track: t, number: uint8(i)})
	}
	s.tracks = list
	m := rtmp.Metadata{Video: video, Audio: audio, Encoder: "Headgate " + sdk.Version}
	if s.version == 0 || !told(s.metadata, m) {
		s.version++
	}
	s.metadata = m
	if s.merge != nil {
		s.merge.expect(list)
	}
	if s.now != nil {
		s.current().keep(list)
	}
	return nil
}

// told reports whether a and b tell a server the same.
func told(a, b rtmp.Metadata) bool {
	strip := func(m rtmp.Metadata) rtmp.Metadata {
		if m.Video != nil {
			v := *m.Video
			v.ID, v.DecoderConfig = 0, nil
			m.Video = &v
		}
		m.Audio = slices.Clone(m.Audio)
		for i := range m.Audio {
			m.Audio[i].ID, m.Audio[i].DecoderConfig = 0, nil
		}
		return m
	}
	return reflect.DeepEqual(strip(a), strip(b))
}

// checkConfig looks at what goes out as it is: a server would take what is wrong
// with it for a fault of ours.
func checkConfig(t media.Track) error {
	const av1Marker = 0x81 // and version 1
	if c := t.DecoderConfig; t.Codec == media.AV1 && len(c) > 0 && (len(c) < 4 || c[0] != av1Marker) {
		return errors.New("the decoder config of the av1 track is no av1C")
	}
	return nil
}

func (s *sink) hasVideo() bool { return len(s.tracks) > 0 && s.tracks[0].video() }

// WriteAccessUnit implements [sdk.Sink].
func (s *sink) WriteAccessUnit(ctx context.Context, u *media.AccessUnit) error {
	t := s.of(u.Track)
	if t == nil {
		s.dropped.Add(1)
		return nil
	}
	s.guard(ctx)
	defer s.writing.Store(false)
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.merge == nil {
		return s.send(t, u)
	}
	s.merge.push(u)
	for u := s.merge.pop(); u != nil; u = s.merge.pop() {
		if err := s.send(s.of(u.Track), u); err != nil {
			return err
		}
	}
	return nil
}

// of returns a track, nil if it is not carried.
func (s *sink) of(id media.TrackID) *sinkTrack {
	for i := range s.tracks {
		if s.tracks[i].ID == id {
			return &s.tracks[i]
		}
	}
	return nil
}

// guard lets the end of ctx cut off what is written until writing is false again.
// Between writes it leaves the connection alone, so that Close can still say goodbye.
func (s *sink) guard(ctx context.Context) {
	if done := ctx.Done(); done != s.armed {
		if s.disarm != nil {
			s.disarm()
		}
		s.armed = done
		s.disarm = context.AfterFunc(ctx, func() {
			if s.writing.Load() {
				s.current().conn.Abort()
			}
		})
	}
	s.writing.Store(true)
}

// send writes a unit to the present connection, or, from a keyframe on, to the one
// that waits to follow it.
func (s *sink) send(t *sinkTrack, u *media.AccessUnit) error {
	l := s.current()
	if s.changesOver(t, u) {
		l = s.changeOver()
	}
	sent, err := l.send(s, t, u)
	if err != nil {
		if s.changeOver() != l {
			s.dropped.Add(1)
			return nil // it goes on at the next keyframe
		}
		return explain(l.target, err)
	}
	if !sent {
		s.dropped.Add(1)
	}
	return nil
}

// changesOver reports whether u is where a connection can begin that waits to.
func (s *sink) changesOver(t *sinkTrack, u *media.AccessUnit) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next != nil && (u.RandomAccess && (t.video() || !s.hasVideo()) || s.now.conn.Err() != nil)
}

// changeOver makes the next connection, if there is one, the present one, and takes
// leave of the other.
func (s *sink) changeOver() *leg {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		return s.now
	}
	old := s.now
	s.now, s.next = s.next, nil
	if !s.closed {
		s.wg.Go(func() { s.leave(old) })
	}
	sdk.Logger().Info("moved to where the server asked to", "stream", s.target.Stream, "target", s.target.Name,
		"from", old.target.String(), "to", s.now.target.String())
	return s.now
}

// leave ends a connection that is not used any more.
func (s *sink) leave(l *leg) {
	if err := l.conn.Close(context.Background()); err != nil {
		sdk.Logger().Debug("taking leave of a server", "target", s.target.Name, "error", err)
	}
}

func (s *sink) current() *leg {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// tagKey is the number of the track under which all sinks of a process share the
// muxed form of a unit.
type tagKey uint8

// tag returns the muxed form of u. moved is by how many milliseconds its
// timestamp is later than its decoding time; only then it is not shared.
func (s *sink) tag(u *media.AccessUnit, t *sinkTrack, moved int32) *rtmp.Tag {
	key := tagKey(t.number)
	if !t.video() {
		return u.Derived(key, func() any { return rtmp.AudioTag(t.Codec, t.number, u.Payload) }).(*rtmp.Tag)
	}
	if moved != 0 {
		return videoTag(u, t, moved)
	}
	return u.Derived(key, func() any { return videoTag(u, t, 0) }).(*rtmp.Tag)
}

// videoTag muxes a picture. Both times are rounded before the difference is
// taken, so that a constant difference stays one.
func videoTag(u *media.AccessUnit, t *sinkTrack, moved int32) *rtmp.Tag {
	return rtmp.VideoTag(t.Codec, t.number, u.Payload, u.RandomAccess, int32(roundMS(u.PTS)-roundMS(u.DTS))-moved)
}

// flush sends what waits to be merged.
func (s *sink) flush(ctx context.Context) error {
	if s.merge == nil {
		return nil
	}
	s.guard(ctx)
	defer s.writing.Store(false)
	if err := ctx.Err(); err != nil {
		return err
	}
	for u := s.merge.drain(); u != nil; u = s.merge.drain() {
		if err := s.send(s.of(u.Track), u); err != nil {
			return err
		}
	}
	return nil
}

// watch looks after a connection until it or the sink ends.
func (s *sink) watch(l *leg) {
	for {
		select {
		case <-l.conn.Failed():
			s.lost(l)
			return
		case r := <-l.conn.ReconnectRequests():
			s.move(l, r)
		case <-s.ctx.Done():
			return
		}
	}
}

// lost takes in that a connection ended by itself.
func (s *sink) lost(l *leg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == l {
		s.next = nil
		s.wg.Go(func() { s.leave(l) })
	}
	// The present one may have ended while the other was still to follow it.
	if err := s.now.conn.Err(); err != nil && s.next == nil && s.err == nil {
		s.err = explain(s.now.target, err)
		close(s.failed)
	}
}

// fail ends the sink for a reason that its connection does not know.
func (s *sink) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		close(s.failed)
	}
}

// move connects to where the server of l wants us, and lets the media change over at
// the next keyframe; until then it stays where it is.
func (s *sink) move(l *leg, r rtmp.ReconnectRequest) {
	log := sdk.Logger().With("stream", s.target.Stream, "target", s.target.Name, "server", l.target.String())
	if r.Description != "" {
		log = log.With("reason", r.Description)
	}
	s.mu.Lock()
	busy := s.now != l || s.next != nil
	s.mu.Unlock()
	if busy || s.moved() && time.Since(l.since) < settle {
		log.Warn("the server asks to move again; it is left alone")
		return
	}
	to := l.target
	if !r.TCURL.Empty() {
		var err error
		if to, err = l.target.Redirect(r.TCURL, s.opts.ReconnectTo); err != nil {
			log.Warn("the server asks to move; it is not followed", "error", err)
			return
		}
	}
	log.Info("the server asks to move", "to", to.String())
	client := s.client
	client.Target = to
	conn, err := rtmp.Dial(s.ctx, client)
	switch {
	case s.ctx.Err() != nil:
		if err == nil {
			s.leave(newLeg(to, conn))
		}
		return
	case rtmp.Class(err) == string(rtmp.RefusedBusy):
		// The server takes the key only once: leave before coming back.
		s.noteRedirect(r.TCURL)
		s.fail(&sdk.Error{Cause: sdk.CauseRemote, Class: "reconnect", Err: fmt.Errorf("%s asks to reconnect", l.target)})
		return
	case err != nil:
		// When this connection ends the next session tries it, once.
		if !r.TCURL.Empty() {
			s.noteRedirect(r.TCURL)
		}
		log.Warn("the server asks to move; that did not succeed", "error", explain(to, err))
		return
	}
	next := newLeg(to, conn)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.leave(next)
		return
	}
	s.next = next
	s.wg.Go(func() { s.watch(next) })
	s.mu.Unlock()
	s.target.RequestKeyframe()
}

// moved reports whether the present connection is not the first.
func (s *sink) moved() bool { return s.current().target != s.client.Target }

// Close implements [sdk.Sink].
func (s *sink) Close(ctx context.Context) error {
	var err error
	if s.current().conn.Err() == nil {
		err = s.flush(ctx)
	}
	if s.disarm != nil {
		s.disarm()
	}
	s.mu.Lock()
	s.closed = true
	now, next := s.now, s.next
	s.next = nil
	s.mu.Unlock()
	s.cancel()
	if next != nil {
		s.leave(next)
	}
	if cerr := now.conn.Close(ctx); err == nil && cerr != nil {
		err = explain(now.target, cerr)
	}
	s.wg.Wait()
	return err
}

// Accepts implements [sdk.Accepter].
func (s *sink) Accepts() sdk.Accepts { return s.opts.accepts(s.current().conn.Capabilities()) }

// Failed implements [sdk.Failer].
func (s *sink) Failed() <-chan struct{} { return s.failed }

// Err says why Failed is closed.
func (s *sink) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// queuedLeast is what the network may hold back before it counts as lag: below are
// acknowledgements that the peer delays.
const queuedLeast = 250 * time.Millisecond

// Stats implements [sdk.StatsReporter].
func (s *sink) Stats() sdk.SinkStats {
	st := s.current().conn.Stats()
	waits := st.UnsentAge
	if queued := st.UnackedAge - st.MinRTT; queued > queuedLeast {
		waits = max(waits, queued)
	}
	return sdk.SinkStats{
		Bytes:        st.Written,
		AckedBytes:   st.Acked,
		UnsentBytes:  st.Unsent,
		UnsentAge:    waits,
		UnackedAge:   st.UnackedAge,
		DeliveryBPS:  st.DeliveryBPS,
		RTT:          st.RTT,
		Retransmits:  st.Retransmits,
		UnitsDropped: s.dropped.Load(),
		Values:       map[string]float64{"rtmp_acknowledged_bytes": float64(st.PeerAcknowledged)},
	}
}
