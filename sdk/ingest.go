package sdk

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// An IngestHost is the gateway as an [Ingest] sees it. Safe for concurrent use.
type IngestHost struct {
	a       *attachment
	handler atomic.Pointer[http.Handler]
}

// Options decodes the plugin's options into v, a pointer to the type that was
// declared in [Plugin.Options]. The contents of the files that they name are those
// that the plugin was started with, or has taken since: see [IngestHost.OnRenewal].
func (h *IngestHost) Options(v any) error { return h.a.renewal.options(v, true) }

// OnRenewal calls use and returns what it does, and has it called again whenever files
// that the options name have new contents, such as those of a renewed certificate.
// [IngestHost.Options] has the new contents then. An error of a later call, or of Check
// of the options before it, is logged by the gateway, and Options has again what it had.
//
// Later calls come from another goroutine, one at a time, within 5 s of which each has to
// return, and one may still come when Serve has returned. use must not call
// OnRenewal. Of several functions the last one counts. An ingest without one goes on
// with the files that it was started with, and the gateway's log says so.
func (h *IngestHost) OnRenewal(use func() error) error { return h.a.renewal.follow(use) }

// HandleHTTP serves the declared mounts with handler from now on. The gateway
// terminates TLS, limits headers and bodies, and passes the request on with its
// whole path; [http.Request.RemoteAddr] is the client's address.
func (h *IngestHost) HandleHTTP(handler http.Handler) { h.handler.Store(&handler) }

// Offer asks for the right to publish and returns when the gateway has decided:
// a publication, or a *[RejectedError]. Allocate nothing for the publisher
// before.
func (h *IngestHost) Offer(ctx context.Context, o Offer) (*Publication, error) {
	a := h.a
	p := &pendingOffer{offer: o, answer: make(chan offerAnswer, 1)}
	a.mu.Lock()
	if a.draining != "" {
		a.mu.Unlock()
		return nil, &RejectedError{Reason: Busy, Message: a.draining, RetryAfter: time.Second}
	}
	a.offerSeq++
	id := strconv.FormatUint(a.offerSeq, 10)
	a.offers[id] = p
	a.mu.Unlock()
	a.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Offer{Offer: &wire.Offer{
		Offer:       id,
		Name:        o.Name,
		Credentials: []byte(o.Credentials.Reveal()),
		Remote:      o.Remote,
		Agent:       o.Agent,
		Codecs:      codecNames(o.Codecs),
	}}})
	select {
	case r := <-p.answer:
		return r.pub, r.err
	case <-ctx.Done():
		a.mu.Lock()
		delete(a.offers, id)
		a.mu.Unlock()
		select {
		case r := <-p.answer: // decided at the same moment
			if r.pub != nil {
				r.pub.Close(errors.New("the publisher left before the answer"))
			}
		default:
		}
		return nil, ctx.Err()
	}
}

// Enquire asks whether a name can be published at all, without claiming it: nil if so,
// else a *[RejectedError] with [NotFound]. It tells nothing about credentials. If ctx
// ends before the answer comes, its error is returned.
func (h *IngestHost) Enquire(ctx context.Context, name string) error {
	a := h.a
	answer := make(chan *wire.Enquired, 1)
	a.mu.Lock()
	a.enquirySeq++
	id := strconv.FormatUint(a.enquirySeq, 10)
	a.enquiries[id] = answer
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.enquiries, id)
		a.mu.Unlock()
	}()
	a.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Enquiry{Enquiry: &wire.Enquiry{Enquiry: id, Name: name}}})
	select {
	case m := <-answer:
		if m.GetOpen() {
			return nil
		}
		return &RejectedError{Reason: NotFound, Message: m.GetMessage()}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enquired hands the answer of an enquiry to who waits for it.
func (a *attachment) enquired(m *wire.Enquired) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.enquiries[m.GetEnquiry()]; c != nil {
		delete(a.enquiries, m.GetEnquiry())
		c <- m // there is room for one
	}
}

// A pendingOffer waits for the gateway's decision.
type pendingOffer struct {
	offer  Offer
	answer chan offerAnswer // takes one answer without blocking
}

type offerAnswer struct {
	pub *Publication
	err error
}

// answer hands the gateway's decision over and reports whether anybody waits for it.
func (a *attachment) answer(id string, r offerAnswer) bool {
	a.mu.Lock()
	p := a.offers[id]
	delete(a.offers, id)
	if p != nil {
		p.answer <- r // inside, so that a caller who gives up finds it
	}
	a.mu.Unlock()
	return p != nil
}

func rejectedError(r *wire.OfferRejected) *RejectedError {
	reasons := map[wire.OfferRejected_Reason]Reason{
		wire.OfferRejected_UNAUTHENTICATED: Unauthenticated,
		wire.OfferRejected_FORBIDDEN:       Forbidden,
		wire.OfferRejected_NOT_FOUND:       NotFound,
		wire.OfferRejected_CONFLICT:        Conflict,
		wire.OfferRejected_BUSY:            Busy,
		wire.OfferRejected_UNUSABLE:        Unusable,
	}
	reason, ok := reasons[r.GetReason()]
	if !ok {
		reason = Busy // a reason of a later version: nothing is known to be wrong with the offer
	}
	return &RejectedError{Reason: reason, Message: r.GetMessage(), RetryAfter: wire.Duration(r.GetRetryAfterNs())}
}

// openIngest starts the session of an offer that was accepted, or a pull.
func (a *attachment) openIngest(o *wire.Open) {
	if a.plugin.Ingest == nil {
		a.refuse(o, "the plugin is no ingest")
		return
	}
	pub := newPublication(a, o)
	if o.GetOffer() != "" {
		a.mu.Lock()
		if p := a.offers[o.GetOffer()]; p != nil {
			pub.onKeyframe, pub.onBitrate = p.offer.OnKeyframeRequest, p.offer.OnTargetBitrate
		}
		a.mu.Unlock()
		pub.start()
		if !a.answer(o.GetOffer(), offerAnswer{pub: pub}) {
			pub.Close(errors.New("the publisher left before the answer"))
		}
		return
	}
	puller, ok := a.plugin.Ingest.Ingest.(Puller)
	if !ok {
		a.refuse(o, "the plugin cannot fetch a URL")
		return
	}
	pub.start()
	u := secret.New(o.GetUrl())
	a.wg.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		stop := context.AfterFunc(pub.ctx, cancel)
		defer stop()
		hide := secret.Redact(append(slices.Clone(a.secrets), u.Reveal())...)
		err := guard(ctx, o.GetSession(), hide, func() error { return puller.Pull(ctx, u, pub) })
		pub.Close(redactError(hide, err))
	})
}

// A Publication is one publisher's stream on its way into the gateway. Its
// methods are safe for concurrent use; units of one track must come from one
// goroutine.
type Publication struct {
	a          *attachment
	id         uint32
	stream     string
	window     int // credit to start with
	codecs     []media.Codec
	onKeyframe func(media.TrackID)
	onBitrate  func(uint64)
	ctx        context.Context // ends with the publication
	cancel     context.CancelFunc

	mu      sync.Mutex // guards the fields below
	queue   []wire.Item
	pulled  []wire.Item // what Pull returned, to be used again
	bytes   int         // payload in queue; at most maxQueueBytes and one unit
	lanes   map[media.TrackID]*lane
	dropped uint64 // units left out here
	told    uint64 // of them, the gateway knows, since toldAt
	toldAt  time.Time
	stats   IngestStats // as last reported
	closing *wire.SessionState
	closed  bool // nothing is taken any more
	err     error
	targets []TargetState // nil before the gateway has told
}

// A lane is what a publication knows of one track.
type lane struct {
	seq      uint32
	dropping bool // until the next random access point
	gap      bool // units were left out before the next one
}

// maxQueueBytes bounds what waits for a gateway that does not keep up.
const maxQueueBytes = 4 << 20

func newPublication(a *attachment, o *wire.Open) *Publication {
	p := &Publication{a: a, id: o.GetSession(), stream: o.GetStream(), lanes: make(map[media.TrackID]*lane)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.window = int(min(o.GetInitialCreditBytes(), wire.MaxMessageBytes))
	for _, c := range o.GetCodecs() {
		p.codecs = append(p.codecs, media.Codec(c))
	}
	return p
}

// start makes the publication known to the gateway as ready.
func (p *Publication) start() {
	p.a.add(p.id, p)
	p.ready(&wire.SessionState{})
}

// ready says so to the gateway, before the first track.
func (p *Publication) ready(state *wire.SessionState) {
	state.Session, state.State = p.id, wire.SessionState_READY
	p.a.out.Open(p.id, p, p.window, stateMsg(state))
}

// Stream is the name of the stream that is published: of a pull, that of its route.
func (p *Publication) Stream() string { return p.stream }

// Codecs are those of the offered codecs that every target of the stream can carry:
// who can choose, receives one of them. Empty if the gateway does not know.
func (p *Publication) Codecs() []media.Codec { return p.codecs }

// Targets tells where the stream is sent and how that goes, for the person who
// publishes it. known is false before the gateway has said so. The list must not be
// changed.
func (p *Publication) Targets() (targets []TargetState, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.targets, p.targets != nil
}

func (p *Publication) setTargets(m *wire.TargetStates) {
	states := map[wire.TargetStates_State]string{
		wire.TargetStates_LIVE: TargetLive, wire.TargetStates_CONNECTING: TargetConnecting,
		wire.TargetStates_WAITING: TargetWaiting, wire.TargetStates_FAILED: TargetFailed,
	}
	list := make([]TargetState, 0, len(m.GetTargets()))
	for _, t := range m.GetTargets() {
		state, ok := states[t.GetState()]
		if !ok {
			state = TargetConnecting // a state of a later version: it is not live
		}
		list = append(list, TargetState{Name: t.GetName(), State: state, Reason: t.GetReason()})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = list
}

// Options decodes the plugin's options into v, as [IngestHost.Options] does: for
// pulls, which come without a host.
func (p *Publication) Options(v any) error {
	return p.a.renewal.options(v, false)
}

// SetTracks announces the tracks, or their change, before the first unit that
// needs them.
func (p *Publication) SetTracks(tracks []media.Track) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.queue = append(p.queue, wire.Item{Tracks: append([]media.Track{}, tracks...)})
	p.mu.Unlock()
	p.a.out.Wake(p.id)
}

// WriteAccessUnit hands a unit over; it never blocks. Set unit.Received to when
// its last byte arrived; unit.Seq is counted here. If the gateway is behind by
// more than a safety cap, or the unit is larger than the wire carries, it and all
// up to the next random access point are dropped and counted.
func (p *Publication) WriteAccessUnit(unit *media.AccessUnit) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	queued := p.queueUnit(unit)
	news := p.dropped != p.told && time.Since(p.toldAt) >= statsInterval
	p.mu.Unlock()
	if queued {
		p.a.out.Wake(p.id)
	}
	if news {
		p.tellDropped()
	}
}

// queueUnit queues the unit, or drops it and reports false. The caller holds mu.
func (p *Publication) queueUnit(unit *media.AccessUnit) bool {
	l := p.lanes[unit.Track]
	if l == nil {
		l = &lane{}
		p.lanes[unit.Track] = l
	}
	unit.Seq = l.seq
	l.seq++
	if l.dropping && unit.RandomAccess {
		l.dropping = false
	}
	// A unit that is larger than a message would end the connection of all.
	if p.bytes > maxQueueBytes || len(unit.Payload) > wire.MaxPayloadBytes {
		l.dropping = true
	}
	if l.dropping {
		l.gap = true
		p.dropped++
		return false
	}
	if unit.Received.IsZero() {
		unit.Received = time.Now()
	}
	p.queue = append(p.queue, wire.Item{Unit: unit, Discontinuity: l.gap})
	l.gap = false
	p.bytes += len(unit.Payload)
	return true
}

// tellDropped says that units were left out, whatever the author reports.
func (p *Publication) tellDropped() {
	p.mu.Lock()
	n, s := p.dropped-p.told, p.stats
	p.mu.Unlock()
	slog.Warn("units left out up to a random access point: the gateway does not keep up, or they are too large", "session", p.id, "units", n)
	p.ReportStats(s)
}

// ReportStats hands over the session's figures, about once a second.
func (p *Publication) ReportStats(s IngestStats) {
	p.mu.Lock()
	dropped := p.dropped
	p.stats, p.told, p.toldAt = s, dropped, time.Now()
	p.mu.Unlock()
	p.a.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Stats{Stats: &wire.SessionStats{
		Session: p.id, Bytes: s.Bytes, RttNs: uint64(max(s.RTT, 0)), UnitsLost: s.UnitsLost, UnitsDropped: dropped,
		Values: s.Values, Info: s.Info,
	}}})
}

// ReportSilence tells the gateway that the publisher is connected and sends no
// media, after half a second or so, and when he sends again.
func (p *Publication) ReportSilence(silent bool) {
	p.a.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Silence{Silence: &wire.Silence{Session: p.id, Silent: silent}}})
}

// Done is closed when the publication is over: the gateway ended it, because
// another publisher took the name over or the route is gone, or Close was called.
// Err says why then.
func (p *Publication) Done() <-chan struct{} { return p.ctx.Done() }

// Err says why Done is closed; nil before, and after Close(nil).
func (p *Publication) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close ends the publication: with nil when the publisher said goodbye, with an
// error when he was lost. What was written before still arrives. Only the first
// call counts, and none after the gateway ended it.
func (p *Publication) Close(lost error) {
	state := &wire.SessionState{State: wire.SessionState_CLOSED, Ended: true}
	if lost != nil {
		state = failure(redactError(p.a.hide, lost))
	}
	p.finish(lost, state, true)
}

// finish ends the publication once. With flush the queue goes out first.
func (p *Publication) finish(err error, state *wire.SessionState, flush bool) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed, p.err = true, err
	if !flush {
		p.queue, p.bytes = nil, 0
	}
	if flush && len(p.queue) > 0 {
		p.closing = state
		state = nil
	}
	news := p.dropped != p.told
	p.mu.Unlock()
	p.cancel()
	if news {
		p.tellDropped()
	}
	if state != nil {
		p.a.end(p.id, state)
		return
	}
	p.a.out.Wake(p.id)
}

// Pull implements [wire.Source].
func (p *Publication) Pull(maxBytes int) []wire.Item {
	p.mu.Lock()
	n, bytes := 0, 0
	for n < len(p.queue) {
		size := 0
		if u := p.queue[n].Unit; u != nil {
			size = len(u.Payload)
		}
		if n > 0 && bytes+size > maxBytes {
			break
		}
		bytes += size
		n++
	}
	clear(p.pulled)
	p.pulled = append(p.pulled[:0], p.queue[:n]...)
	rest := copy(p.queue, p.queue[n:])
	clear(p.queue[rest:])
	p.queue = p.queue[:rest]
	p.bytes -= bytes
	items := p.pulled
	var last *wire.SessionState
	if len(p.queue) == 0 {
		last, p.closing = p.closing, nil
	}
	p.mu.Unlock()
	if last != nil {
		p.a.end(p.id, last)
	}
	return items
}

// The rest of Publication is the receiving goroutine's.

func (p *Publication) receive(wire.Item) {} // an ingest session gets no media

func (p *Publication) keyframe(track uint32) {
	if p.onKeyframe != nil {
		p.onKeyframe(media.TrackID(track))
	}
}

func (p *Publication) targetBitrate(bps uint64) {
	if p.onBitrate != nil {
		p.onBitrate(bps)
	}
}

func (p *Publication) close(reason string, _, _ bool) {
	p.finish(errors.New(reason), &wire.SessionState{State: wire.SessionState_CLOSED}, false)
}

// The states of a target, as publishers see them.
const (
	TargetLive       = "live" // media arrive there
	TargetConnecting = "connecting"
	TargetWaiting    = "waiting" // for the next try, for players, or for media
	TargetFailed     = "failed"  // trying again soon does not help
)

// A TargetState is how one target of a stream is doing.
type TargetState struct {
	Name  string
	State string
	// Reason says why it is waiting or failed, after "because"; it shows neither
	// addresses nor secrets, and may be empty.
	Reason string
}

// IngestStats are the figures of one publisher. Zero means unknown.
type IngestStats struct {
	Bytes     uint64
	RTT       time.Duration
	UnitsLost uint64
	Values    map[string]float64 // figures of this plugin's own
	Info      map[string]string  // what is no figure, for people; no secrets
}
