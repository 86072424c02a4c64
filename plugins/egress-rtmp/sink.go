package egressrtmp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// A sink is one target's session. Its fields are those of the goroutine that
// writes, apart from the atomic ones and conn.
type sink struct {
	target      rtmp.Target
	conn        *rtmp.Conn
	onReconnect func(to secret.String)

	video, audio trackState
	metadata     rtmp.Metadata // as the tracks have it
	announced    rtmp.Metadata // as the server was told
	merge        *merger       // nil for InterleaveLow

	started bool
	waits   bool          // sound waits for the first picture
	waited  time.Duration // decoding time from which on
	base    int64         // ms on the stream's timeline that are 0 here
	last    int64         // ms, of the last unit of any track

	dropped atomic.Uint64
	writing atomic.Bool
	armed   <-chan struct{} // Done of the context that aborts writes
	disarm  func() bool
}

// A trackState is what a sink knows of its video or its audio.
type trackState struct {
	track   media.Track // ID 0: there is none
	header  []byte      // the decoder config that the server has
	running bool        // units have been sent since the track came
	last    int64       // ms, of the last of them
}

// pictureWait is how much sound waits for the first picture of an announced video,
// beside what the gateway has waited for it before.
const pictureWait = time.Second

func newSink(interleave Interleave) *sink {
	s := &sink{}
	if interleave == InterleaveStrict {
		s.merge = &merger{}
	}
	return s
}

// SetTracks implements [sdk.TrackSetter]. Headers go out with the next unit of
// their track, which they share the timestamp with.
func (s *sink) SetTracks(ctx context.Context, tracks []media.Track) error {
	// What waits to be merged belongs to the tracks so far.
	if err := s.flush(ctx); err != nil {
		return err
	}
	return s.setTracks(tracks)
}

func (s *sink) setTracks(tracks []media.Track) error {
	var video, audio media.Track
	for _, t := range tracks {
		switch {
		case t.Codec == media.H264 && video.ID == 0:
			video = t
		case t.Codec == media.AAC && audio.ID == 0:
			audio = t
		case t.Codec != media.H264 && t.Codec != media.AAC:
			return sdk.Permanent(&sdk.Error{
				Cause: sdk.CauseGateway,
				Err:   fmt.Errorf("rtmp carries h264 and aac, and was given %s", t.Codec),
			})
		}
	}
	s.video.set(video)
	s.audio.set(audio)
	s.metadata = rtmp.Metadata{
		Video: video.ID != 0, Width: video.Width, Height: video.Height,
		FrameRate: video.FrameRate, VideoBitsPerSecond: video.BitrateBitsPerSecond,
		Audio: audio.ID != 0, SampleRateHz: audio.SampleRateHz,
		Channels: audio.Channels, AudioBitsPerSecond: audio.BitrateBitsPerSecond,
		Encoder: "Headgate " + sdk.Version,
	}
	if s.merge != nil {
		s.merge.expect(video.ID, audio.ID)
	}
	return nil
}

// set replaces the track. Another track, even with the same config, begins anew.
func (t *trackState) set(track media.Track) {
	if track.ID != t.track.ID {
		t.running = false
	}
	t.track = track
}

// WriteAccessUnit implements [sdk.Sink].
func (s *sink) WriteAccessUnit(ctx context.Context, u *media.AccessUnit) error {
	t := s.of(u.Track)
	if t == nil {
		s.dropped.Add(1)
		return nil
	}
	defer s.guard(ctx)()
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.merge == nil {
		return s.explain(s.send(t, u))
	}
	s.merge.push(u)
	for u := s.merge.pop(); u != nil; u = s.merge.pop() {
		if err := s.send(s.of(u.Track), u); err != nil {
			return s.explain(err)
		}
	}
	return nil
}

// of returns the state of a track, nil if it is not carried.
func (s *sink) of(id media.TrackID) *trackState {
	switch id {
	case 0:
		return nil
	case s.video.track.ID:
		return &s.video
	case s.audio.track.ID:
		return &s.audio
	default:
		return nil
	}
}

// guard lets the end of ctx cut off what is written until the returned function
// is called. Between writes it leaves the connection alone, so that Close can
// still say goodbye.
func (s *sink) guard(ctx context.Context) func() {
	if done := ctx.Done(); done != s.armed {
		if s.disarm != nil {
			s.disarm()
		}
		s.armed = done
		s.disarm = context.AfterFunc(ctx, func() {
			if s.writing.Load() {
				s.conn.Abort()
			}
		})
	}
	s.writing.Store(true)
	return func() { s.writing.Store(false) }
}

// send writes a unit with what has to go before it.
func (s *sink) send(t *trackState, u *media.AccessUnit) error {
	dts := roundMS(u.DTS)
	if !t.track.Complete() || !s.joins(t, u, dts) {
		s.dropped.Add(1)
		return nil
	}
	if !s.started {
		s.started, s.base, s.last = true, dts, 0
	}
	at := s.stamp(t, dts)
	if err := s.headers(t, at); err != nil {
		return err
	}
	if err := s.conn.WriteTag(s.tag(u, t, int32(at-(dts-s.base))), uint32(at)); err != nil {
		return err
	}
	t.running, t.last = true, at
	s.last = max(s.last, at)
	return nil
}

// joins reports whether a unit can be sent: the first one has to be a random
// access point, of the video if that comes in time, and nothing may be before it.
func (s *sink) joins(t *trackState, u *media.AccessUnit, dts int64) bool {
	isVideo := t == &s.video
	if !t.running && isVideo && !u.RandomAccess {
		return false
	}
	if !s.started {
		return isVideo || s.video.track.ID == 0 || s.soundAlone(u)
	}
	return t.running || dts >= s.base
}

// soundAlone reports whether sound has waited long enough for the first picture:
// a camera that is switched off must not cost the listeners their sound.
func (s *sink) soundAlone(u *media.AccessUnit) bool {
	if !s.waits {
		s.waits, s.waited = true, u.DTS
	}
	return u.DTS-s.waited >= pictureWait
}

// stamp returns the timestamp of a unit whose decoding time is dts: it rises on
// each track whatever rounding makes of it, and with strict interleaving never
// falls across them.
func (s *sink) stamp(t *trackState, dts int64) int64 {
	at := max(dts-s.base, 0)
	if t.running {
		at = max(at, t.last+1)
	}
	if s.merge != nil {
		at = max(at, s.last)
	}
	return at
}

// headers writes what the server does not know yet and needs for a unit of t.
func (s *sink) headers(t *trackState, at int64) error {
	tracks := []*trackState{t}
	if s.announced == (rtmp.Metadata{}) {
		// The start of the connection: all that there is, the video first.
		tracks = []*trackState{&s.video, &s.audio}
	}
	if s.announced != s.metadata {
		if err := s.conn.WriteTag(s.metadata.Tag(), uint32(at)); err != nil {
			return err
		}
		s.announced = s.metadata
	}
	for _, t := range tracks {
		config := t.track.DecoderConfig
		if len(config) == 0 || bytes.Equal(config, t.header) {
			continue
		}
		tag := rtmp.AACHeaderTag(config)
		if t == &s.video {
			tag = rtmp.H264HeaderTag(config)
		}
		if err := s.conn.WriteTag(tag, uint32(at)); err != nil {
			return err
		}
		t.header = config
	}
	return nil
}

// tagKey is the key under which all sinks of a process share the muxed form of a
// unit.
type tagKey struct{}

// tag returns the muxed form of u. moved is by how many milliseconds its
// timestamp is later than its decoding time; only then it is not shared.
func (s *sink) tag(u *media.AccessUnit, t *trackState, moved int32) *rtmp.Tag {
	if t == &s.audio {
		return u.Derived(tagKey{}, func() any { return rtmp.AACTag(u.Payload) }).(*rtmp.Tag)
	}
	if moved != 0 {
		return videoTag(u, moved)
	}
	return u.Derived(tagKey{}, func() any { return videoTag(u, 0) }).(*rtmp.Tag)
}

// videoTag muxes a picture. Both times are rounded before the difference is
// taken, so that a constant difference stays one.
func videoTag(u *media.AccessUnit, moved int32) *rtmp.Tag {
	return rtmp.H264Tag(u.Payload, u.RandomAccess, int32(roundMS(u.PTS)-roundMS(u.DTS))-moved)
}

func roundMS(d time.Duration) int64 { return int64(d.Round(time.Millisecond) / time.Millisecond) }

// flush sends what waits to be merged.
func (s *sink) flush(ctx context.Context) error {
	if s.merge == nil || s.merge.empty() {
		return nil
	}
	defer s.guard(ctx)()
	if err := ctx.Err(); err != nil {
		return err
	}
	for u := s.merge.drain(); u != nil; u = s.merge.drain() {
		t := s.of(u.Track)
		if t == nil {
			continue
		}
		if err := s.send(t, u); err != nil {
			return s.explain(err)
		}
	}
	return nil
}

// explain words an error of the connection, and notes a redirection.
func (s *sink) explain(err error) error {
	if err == nil {
		return nil
	}
	var reconnect *rtmp.ReconnectError
	if errors.As(err, &reconnect) && !reconnect.TCURL.Empty() {
		s.onReconnect(reconnect.TCURL)
	}
	return explain(s.target, err)
}

// Close implements [sdk.Sink].
func (s *sink) Close(ctx context.Context) error {
	var err error
	if s.conn.Err() == nil {
		err = s.flush(ctx)
	}
	if s.disarm != nil {
		s.disarm()
	}
	if cerr := s.conn.Close(ctx); err == nil && cerr != nil {
		err = s.explain(cerr)
	}
	return err
}

// Accepts implements [sdk.Accepter].
func (s *sink) Accepts() sdk.Accepts { return accepts() }

// Failed implements [sdk.Failer].
func (s *sink) Failed() <-chan struct{} { return s.conn.Failed() }

// Err says why Failed is closed.
func (s *sink) Err() error { return s.explain(s.conn.Err()) }

// Stats implements [sdk.StatsReporter].
func (s *sink) Stats() sdk.SinkStats {
	st := s.conn.Stats()
	return sdk.SinkStats{
		Bytes:        st.Written,
		AckedBytes:   st.Acked,
		UnsentBytes:  st.Unsent,
		UnsentAge:    st.UnsentAge,
		DeliveryBPS:  st.DeliveryBPS,
		RTT:          st.RTT,
		UnitsDropped: s.dropped.Load(),
		Values:       map[string]float64{"rtmp_acknowledged_bytes": float64(st.PeerAcknowledged)},
	}
}
