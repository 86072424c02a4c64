package publish

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/media"
)

// A Stream is a stream as its publishers see it: who feeds it, and how long it is
// held after he was lost. Its methods may be called from any goroutine.
type Stream struct {
	router    *router.Stream
	hold      time.Duration
	holdOnEnd bool
	log       *slog.Logger

	mu         sync.Mutex // guards the fields below
	publishers []*publisher
	release    *time.Timer // ends the hold; nil if there is none
	closed     bool
	dropped    map[string]uint64
	limit      uint64                   // bits per second that publishers are told; 0 for none
	targets    []pluginhost.TargetState // as publishers were told; nil if they were not

	received atomic.Uint64 // bytes of payload that have come
}

// NewStream makes the publishers' side of a stream.
func NewStream(r *router.Stream, hold time.Duration, holdOnEnd bool, log *slog.Logger) *Stream {
	return &Stream{
		router: r, hold: hold, holdOnEnd: holdOnEnd,
		log: log.With("stream", r.Name()), dropped: make(map[string]uint64),
	}
}

// Publisher tells who feeds the stream, or is about to if nobody does; nil if
// there is none.
func (s *Stream) Publisher() *status.Publisher {
	s.mu.Lock()
	defer s.mu.Unlock()
	var newest *publisher
	for _, p := range s.publishers {
		newest = p
		if p.pub.Feeding() {
			break
		}
	}
	if newest == nil {
		return nil
	}
	return newest.status()
}

// Why units are dropped, beside the router's reasons: they do not have the shape of
// their codec; or the plugin left them out, because they waited for us or were larger
// than the wire carries.
const (
	reasonMalformed = "malformed"
	reasonPlugin    = "plugin"
)

// Dropped counts the units that no target was offered, by reason.
func (s *Stream) Dropped() map[string]uint64 {
	out := make(map[string]uint64)
	for r, n := range s.router.Dropped() {
		out[string(r)] = n
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for r, n := range s.dropped {
		out[r] += n
	}
	return out
}

// Close tells all publishers that the stream ends, and lets go of a hold.
func (s *Stream) Close(reason string) {
	s.mu.Lock()
	s.closed = true
	s.stopRelease()
	list := s.publishers
	s.mu.Unlock()
	for _, p := range list {
		p.close(reason)
	}
	s.router.Release()
}

func (s *Stream) stopRelease() {
	if s.release != nil {
		s.release.Stop()
		s.release = nil
	}
}

// attach makes a publisher of the stream.
func (s *Stream) attach(plugin, remote string) *publisher {
	p := &publisher{stream: s, plugin: plugin, remote: remote, since: time.Now()}
	p.pub = s.router.Publish(p) // a hold that ends from here on ends nothing
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopRelease()
	s.publishers = append(s.publishers[:len(s.publishers):len(s.publishers)], p)
	p.limit, p.targets = s.limit, s.targets
	return p
}

// Received counts the bytes of payload that have come from publishers.
func (s *Stream) Received() uint64 { return s.received.Load() }

// SetTargetBitrate tells the publisher, and those to come, how many bits per
// second the targets can take; 0 lifts the limit.
func (s *Stream) SetTargetBitrate(bps uint64) {
	s.mu.Lock()
	s.limit = bps
	list := s.publishers
	s.mu.Unlock()
	for _, p := range list {
		p.setLimit(bps)
	}
}

// SetTargetStates tells the publisher, and those to come, how the stream's targets are
// doing, if that is news. The list is not changed afterwards.
func (s *Stream) SetTargetStates(targets []pluginhost.TargetState) {
	s.mu.Lock()
	if s.targets != nil && slices.Equal(s.targets, targets) {
		s.mu.Unlock()
		return
	}
	s.targets = targets
	list := s.publishers
	s.mu.Unlock()
	for _, p := range list {
		p.setTargets(targets)
	}
}

// left takes a publisher off the stream. lost: he did not say goodbye.
func (s *Stream) left(p *publisher, lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rest []*publisher
	for _, o := range s.publishers {
		if o != p {
			rest = append(rest, o)
		}
	}
	s.publishers = rest
	if p.pub.End((lost || s.holdOnEnd) && s.hold > 0 && !s.closed) != router.Held {
		return
	}
	s.stopRelease()
	s.log.Info("publisher lost; targets are held", "for", s.hold)
	s.release = time.AfterFunc(s.hold, func() {
		if s.router.Release() {
			s.log.Info("publisher did not come back; targets are ended")
		}
	})
}

func (s *Stream) drop(reason string, units uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped[reason] += units
}

// A publisher is one ingest session on a stream. It implements
// [pluginhost.SessionHandler] towards the plugin and [router.Source] towards the
// stream.
type publisher struct {
	stream  *Stream
	plugin  string
	remote  string
	since   time.Time
	pub     *router.Publication
	ended   func(pluginhost.End) // for a pull; nil for an offer
	settled atomic.Bool          // the pull itself ends: nobody is to come back
	// offered are those of the offered codecs that all targets can carry.
	offered []media.Codec

	// Used by the receiving goroutine alone.
	codecs map[media.TrackID]media.Codec
	gap    map[media.TrackID]bool
	warned bool

	mu      sync.Mutex // guards the fields below
	session pluginhost.Session
	over    string                   // why the session is to be closed that is not there yet
	wanted  bool                     // a keyframe, of a session that is not there yet
	limit   uint64                   // bits per second that he is told; 0 for none
	targets []pluginhost.TargetState // that he is told
	stats   pluginhost.Stats
	silent  time.Time // since when no media come; zero if they do
}

var (
	_ pluginhost.SessionHandler = (*publisher)(nil)
	_ pluginhost.SilenceHandler = (*publisher)(nil)
	_ pluginhost.CodecChooser   = (*publisher)(nil)
	_ router.Source             = (*publisher)(nil)
)

// bind tells the publisher its session, which may have spoken already.
func (p *publisher) bind(s pluginhost.Session) {
	p.mu.Lock()
	p.session = s
	over, wanted, limit, targets := p.over, p.wanted, p.limit, p.targets
	p.mu.Unlock()
	if over != "" {
		s.Close(over, false)
		return
	}
	if wanted {
		s.RequestKeyframe(0)
	}
	if limit > 0 {
		s.SetTargetBitrate(limit)
	}
	if targets != nil {
		s.SetTargetStates(targets)
	}
}

// setLimit tells the publisher what rate the targets can take; 0 is any.
func (p *publisher) setLimit(bps uint64) {
	p.mu.Lock()
	s := p.session
	changed := p.limit != bps
	p.limit = bps
	p.mu.Unlock()
	if changed && s != nil {
		s.SetTargetBitrate(bps)
	}
}

// setTargets tells the publisher how the targets are doing.
func (p *publisher) setTargets(targets []pluginhost.TargetState) {
	p.mu.Lock()
	s := p.session
	p.targets = targets
	p.mu.Unlock()
	if s != nil {
		s.SetTargetStates(targets)
	}
}

func (p *publisher) close(reason string) {
	p.mu.Lock()
	s := p.session
	if p.over == "" {
		p.over = reason
	}
	p.mu.Unlock()
	if s != nil {
		s.Close(reason, false)
	}
}

// RequestKeyframe implements [router.Source].
func (p *publisher) RequestKeyframe(track media.TrackID) {
	p.mu.Lock()
	s := p.session
	p.wanted = true
	p.mu.Unlock()
	if s != nil {
		s.RequestKeyframe(track)
	}
}

// Superseded implements [router.Source].
func (p *publisher) Superseded() { p.close("another publisher took over") }

// Ready implements [pluginhost.SessionHandler].
func (p *publisher) Ready(pluginhost.Accepts) {}

// Codecs implements [pluginhost.CodecChooser].
func (p *publisher) Codecs() []media.Codec { return p.offered }

// Credited implements [pluginhost.SessionHandler].
func (p *publisher) Credited(int) {}

// Keyframe implements [pluginhost.SessionHandler].
func (p *publisher) Keyframe(media.TrackID) {}

// Stats implements [pluginhost.SessionHandler].
func (p *publisher) Stats(st pluginhost.Stats) {
	p.mu.Lock()
	was := p.stats.UnitsDropped
	p.stats = st
	p.mu.Unlock()
	if st.UnitsDropped > was {
		p.stream.drop(reasonPlugin, st.UnitsDropped-was)
	}
}

// Silence implements [pluginhost.SilenceHandler].
func (p *publisher) Silence(silent bool) {
	p.mu.Lock()
	if silent == !p.silent.IsZero() {
		p.mu.Unlock()
		return
	}
	was := p.silent
	p.silent = time.Time{}
	if silent {
		p.silent = time.Now()
	}
	p.mu.Unlock()
	if silent {
		p.stream.log.Warn("publisher is silent: no media come", "plugin", p.plugin, "remote", p.remote)
	} else {
		p.stream.log.Info("publisher is heard again", "plugin", p.plugin, "remote", p.remote, "silent_for", time.Since(was).Round(time.Millisecond))
	}
}

func (p *publisher) status() *status.Publisher {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := &status.Publisher{
		Plugin: p.plugin, Remote: p.remote, Since: p.since.UTC(), LimitBPS: p.limit,
		RTTSeconds: p.stats.RTT.Seconds(), BytesReceived: p.stats.Bytes, UnitsLost: p.stats.UnitsLost,
		Values: p.stats.Values, Info: p.stats.Info,
	}
	if !p.silent.IsZero() {
		since := p.silent.UTC()
		st.Silent = &since
	}
	return st
}

// Tracks implements [pluginhost.SessionHandler].
func (p *publisher) Tracks(tracks []media.Track) {
	good, wrong := validTracks(tracks)
	if len(wrong) > 0 {
		p.stream.log.Warn("tracks left out", "plugin", p.plugin, "wrong", wrong)
	}
	p.codecs = make(map[media.TrackID]media.Codec, len(good))
	for _, t := range good {
		p.codecs[t.ID] = t.Codec
	}
	p.pub.SetTracks(good)
}

// Unit implements [pluginhost.SessionHandler].
func (p *publisher) Unit(u *media.AccessUnit) {
	p.stream.received.Add(uint64(len(u.Payload)))
	if !wellFormed(p.codecs[u.Track], u) {
		p.stream.drop(reasonMalformed, 1)
		if !p.warned {
			p.warned = true
			p.stream.log.Warn("units dropped that are not well formed", "plugin", p.plugin, "track", u.Track)
		}
		if p.gap == nil {
			p.gap = make(map[media.TrackID]bool)
		}
		p.gap[u.Track] = true
		return
	}
	if p.gap[u.Track] {
		u.Discontinuity = true
		delete(p.gap, u.Track)
	}
	p.pub.Write(u)
}

// Ended implements [pluginhost.SessionHandler].
func (p *publisher) Ended(end pluginhost.End) {
	p.stream.left(p, end.Failed || p.ended != nil && !p.settled.Load())
	if end.Failed {
		p.stream.log.Warn("publisher lost", "plugin", p.plugin, "remote", p.remote, "cause", end.Cause, "error", end.Message)
	} else {
		p.stream.log.Info("publisher left", "plugin", p.plugin, "remote", p.remote)
	}
	if p.ended != nil {
		p.ended(end)
	}
}
