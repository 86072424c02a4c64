package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// process is one life of a plugin: a process that is attached.
type process struct {
	plugin    *plugin
	launched  *launched
	pid       int
	attached  grpc.BidiStreamingClient[wire.HostMsg, wire.PluginMsg]
	detach    context.CancelFunc // ends attached, and stream with it
	stream    wire.Stream        // what is said behind the first messages: attached, or a link
	out       *wire.Outbox[*wire.HostMsg]
	transport *http.Transport // to its mounts; nil if there are none
	complain  complaint       // the receiving goroutine's
	silent    atomic.Int32    // pings since the last answer to one

	mu       sync.Mutex // guards the fields below
	why      error      // it is to die, or died
	dead     bool       // takes no sessions any more
	lastID   uint32
	sessions map[uint32]*session
	offers   int           // that wait for a decision
	idle     chan struct{} // closed when draining and the last session is gone
}

// attach starts a process of the plugin and attaches to it.
func (pl *plugin) attach(ctx context.Context) (_ *process, err error) {
	h := pl.host
	l, err := h.launcher(pl.log, &pl.veil).launch(ctx, pl.spec)
	if err != nil {
		return nil, err
	}
	p := &process{
		plugin:   pl,
		launched: l,
		pid:      l.pid(),
		out:      wire.NewOutbox[*wire.HostMsg](),
		sessions: make(map[uint32]*session),
		complain: complaint{log: pl.log},
	}
	streamCtx, detach := context.WithCancel(context.Background())
	p.detach = detach
	var tooLate atomic.Bool
	defer func() {
		if err == nil {
			return
		}
		if tooLate.Load() {
			err = fmt.Errorf("it did not answer within %v of its start; %s", h.timings.start, remedy)
		}
		detach()
		l.kill()
		err = explain(err, l)
	}()
	// No wait below has a bound of its own; without the stream they end.
	late := time.AfterFunc(h.timings.start, func() {
		tooLate.Store(true)
		detach()
	})
	defer late.Stop()
	stopWaiting := context.AfterFunc(ctx, detach)
	defer stopWaiting()

	client := wire.NewPluginClient(l.conn)
	if pl.describedAs() == nil {
		info, err := client.Describe(streamCtx, &wire.DescribeRequest{CoreVersion: h.version})
		if err != nil {
			return nil, fmt.Errorf("asking what it is: %w", told(err))
		}
		pl.describe(info)
	}
	if p.attached, err = client.Attach(streamCtx); err != nil {
		return nil, fmt.Errorf("attaching: %w", told(err))
	}
	err = p.attached.Send(&wire.HostMsg{M: &wire.HostMsg_Hello{Hello: &wire.Hello{
		Capabilities:    []string{wire.CapabilitySocket},
		CoreVersion:     h.version,
		MaxMessageBytes: wire.MaxMessageBytes,
		OptionsJson:     pl.spec.Options,
		Files:           pl.spec.Files,
	}}})
	if err != nil {
		return nil, fmt.Errorf("attaching: %w", told(err))
	}
	first, err := p.attached.Recv()
	if err != nil {
		return nil, fmt.Errorf("attaching: %w", told(err))
	}
	ack := first.GetHello()
	switch {
	case ack == nil:
		return nil, errors.New("its first message is no HelloAck; " + remedy)
	case ack.GetError() != "":
		return nil, &refusedError{cut(ack.GetError(), messageBytesMax)}
	}
	if name := ack.GetHttpSocket(); name != "" {
		path, err := l.socketPath(name)
		if err != nil {
			return nil, err
		}
		p.transport = &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			},
			DisableCompression:    true,
			MaxIdleConns:          16,
			MaxIdleConnsPerHost:   16,
			IdleConnTimeout:       30 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
		}
	}
	p.stream = p.attached
	if name := ack.GetAttachSocket(); name != "" {
		if p.stream, err = p.connect(streamCtx, name); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// refusedError is a plugin's answer to options that it cannot use.
type refusedError struct{ message string }

func (e *refusedError) Error() string { return "it cannot use its options: " + e.message }

// serve keeps the process attached until it dies (an error), or until ctx ends
// and its sessions have been closed politely (nil). The process is gone then and
// its sessions are over.
func (p *process) serve(ctx context.Context) error {
	var wg sync.WaitGroup
	sendCtx, stopSending := context.WithCancel(context.Background())
	if l, ok := p.stream.(*link); ok {
		wg.Go(l.watch)
		defer func() { _ = l.Close() }() // it is no longer of interest, or closed
	}
	wg.Go(func() {
		if err := p.send(sendCtx); err != nil && sendCtx.Err() == nil && !errors.Is(err, io.EOF) { // then receive knows more
			p.fail(fmt.Errorf("sending to it: %w", err))
		}
	})
	wg.Go(func() { p.ping(sendCtx) })
	lost := make(chan struct{})
	wg.Go(func() {
		defer close(lost)
		p.fail(p.receive())
	})

	polite := false
	select {
	case <-lost:
	case <-ctx.Done():
		polite = p.drain(lost)
	}
	p.detachAll(polite)
	stopSending()
	if polite {
		// Shutdown goes over the same connection: the stream ends with the process.
		p.launched.stop(p.plugin.host.timings.stopGrace)
		p.detach()
	} else {
		p.detach()
		p.launched.kill()
	}
	wg.Wait()
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
	if polite {
		return nil
	}
	return explain(p.reason(), p.launched)
}

// drain asks the process to end its sessions and waits for that, up to a bound.
// It reports false if the process died meanwhile.
func (p *process) drain(lost <-chan struct{}) bool {
	limit := p.plugin.host.timings.drain
	idle := make(chan struct{})
	p.mu.Lock()
	p.idle = idle
	if len(p.sessions) == 0 {
		close(idle)
		p.idle = nil
	}
	p.mu.Unlock()
	p.out.Control(&wire.HostMsg{M: &wire.HostMsg_Drain{Drain: &wire.Drain{DeadlineNs: uint64(limit)}}})
	bound := time.NewTimer(limit)
	defer bound.Stop()
	select {
	case <-lost:
		return false
	case <-idle:
	case <-bound.C:
	}
	return true
}

// detachAll ends all sessions, and takes no new ones.
func (p *process) detachAll(polite bool) {
	p.mu.Lock()
	p.dead = true
	all := p.sessions
	p.sessions = make(map[uint32]*session)
	p.mu.Unlock()
	e := End{Failed: true, Cause: CausePlugin, Message: "the process of plugin " + p.plugin.spec.Name + " died"}
	if polite {
		e = End{Failed: true, Cause: CauseGateway, Message: "the gateway is shutting down"}
	}
	for _, s := range all {
		s.end(e)
	}
}

// fail records why the process dies; the first reason counts.
func (p *process) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why == nil {
		p.why = err
	}
}

func (p *process) reason() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

// send is the one goroutine that sends on the stream.
func (p *process) send(ctx context.Context) error {
	for {
		control, steps, err := p.out.Next(ctx)
		if err != nil {
			return err
		}
		for _, m := range control {
			if err := p.stream.SendMsg(m); err != nil {
				return err
			}
		}
		err = wire.Messages(steps, time.Now(),
			func(m wire.Units) error { return p.stream.SendMsg(&wire.HostUnits{Units: m}) },
			func(m *wire.TrackSet) error {
				return p.stream.SendMsg(&wire.HostMsg{M: &wire.HostMsg_Tracks{Tracks: m}})
			})
		if err != nil {
			return err
		}
	}
}

// ping kills the process when it has been silent for too many pings. It counts
// pings, not time: a gateway that was stopped itself must not blame its plugins.
func (p *process) ping(ctx context.Context) {
	t := p.plugin.host.timings
	tick := time.NewTicker(t.ping)
	defer tick.Stop()
	var id uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// One that was started by hand stands still in a debugger.
		if n := p.silent.Add(1); time.Duration(n-1)*t.ping >= t.silence && !p.launched.byHand() {
			p.kill(fmt.Errorf("it did not answer for %v and was killed; if it does so again, %s", t.silence, remedy))
			return
		}
		if p.out.Backlog() > backlogMax {
			p.kill(errBacklog)
			return
		}
		id++
		p.out.Control(&wire.HostMsg{M: &wire.HostMsg_Ping{Ping: &wire.Ping{Id: id}}})
	}
}

// errBacklog is the end of a plugin that makes the gateway say more than it reads.
var errBacklog = errors.New("it does not read what the gateway says to it, and was killed; " + remedy)

// kill ends the process at once. One that a person started is only let go.
func (p *process) kill(why error) {
	p.fail(why)
	if p.launched.byHand() {
		p.detach()
		return
	}
	_ = p.launched.child.Kill(context.Background()) // it is dead already then
}

// add opens the session in this process. It reports false if the process takes no
// more.
func (p *process) add(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return false
	}
	p.lastID++
	s.open.Session = p.lastID
	p.sessions[p.lastID] = s
	s.mu.Lock()
	s.process = p
	s.mu.Unlock()
	p.out.Open(p.lastID, s.source, 0, &wire.HostMsg{M: &wire.HostMsg_Open{Open: s.open}})
	p.out.Group(p.lastID, s.open.GetStreamId()) // the router queues a unit for all before it wakes one
	return true
}

// end ends one session.
func (p *process) end(s *session, e End) {
	id := s.open.GetSession()
	p.mu.Lock()
	delete(p.sessions, id)
	if len(p.sessions) == 0 && p.idle != nil {
		close(p.idle)
		p.idle = nil
	}
	p.mu.Unlock()
	p.out.Close(id)
	s.end(e)
}

// expel ends a session that broke the rules, here and in the plugin.
func (p *process) expel(s *session, err error) {
	id := s.open.GetSession()
	p.out.Control(&wire.HostMsg{M: &wire.HostMsg_Close{Close: &wire.Close{Session: id, Reason: err.Error()}}})
	p.end(s, End{Failed: true, Cause: CausePlugin, Message: "plugin " + p.plugin.spec.Name + " sent " + err.Error()})
}

// session returns an open session. A number that was never given away is a fault
// of the plugin; one that is over is a message that crossed the end.
func (p *process) session(id uint32) *session {
	p.mu.Lock()
	s, last := p.sessions[id], p.lastID
	p.mu.Unlock()
	if s == nil && (id == 0 || id > last) {
		p.complain.about(id, errors.New("a message for a session that does not exist"))
	}
	return s
}

// receive reads what the plugin says until the stream breaks.
func (p *process) receive() error {
	var in wire.PluginInbound
	in.MaxAge = wire.MaxAge
	for {
		if err := p.stream.RecvMsg(&in); err != nil {
			return told(err)
		}
		if in.Msg == nil {
			for _, u := range in.Units {
				p.unit(u)
			}
			continue
		}
		switch m := in.Msg.GetM().(type) {
		case *wire.PluginMsg_Credit:
			p.credit(m.Credit)
		case *wire.PluginMsg_Credits:
			p.credits(m.Credits)
		case *wire.PluginMsg_Tracks:
			for _, id := range m.Tracks.GetSessions() {
				p.tracks(id, m.Tracks)
			}
		case *wire.PluginMsg_State:
			p.state(m.State)
		case *wire.PluginMsg_Stats:
			if s := p.session(m.Stats.GetSession()); s != nil {
				s.deliver(func(h SessionHandler) { h.Stats(statsOf(m.Stats)) })
			}
		case *wire.PluginMsg_Keyframe:
			if s := p.session(m.Keyframe.GetSession()); s != nil {
				s.deliver(func(h SessionHandler) { h.Keyframe(media.TrackID(m.Keyframe.GetTrack())) })
			}
		case *wire.PluginMsg_Silence:
			if s := p.session(m.Silence.GetSession()); s != nil {
				s.deliver(func(h SessionHandler) {
					if h, ok := h.(SilenceHandler); ok {
						h.Silence(m.Silence.GetSilent())
					}
				})
			}
		case *wire.PluginMsg_Offer:
			p.offer(m.Offer)
		case *wire.PluginMsg_Enquiry:
			p.enquiry(m.Enquiry)
		case *wire.PluginMsg_Pong:
			// The only sign of life: one that talks and does not listen is of no use.
			p.silent.Store(0)
		case *wire.PluginMsg_Hello, *wire.PluginMsg_Configured:
			// Nothing to do.
		default:
			p.complain.about(0, errors.New("a message that this version does not know"))
		}
	}
}

// unit takes in one unit.
func (p *process) unit(m wire.InUnit) {
	if len(m.Sessions) != 1 {
		p.complain.about(0, errors.New("a unit that is not from one session"))
		return
	}
	s := p.session(m.Sessions[0])
	if s == nil {
		return
	}
	if s.open.GetKind() == wire.SessionKind_SESSION_KIND_EGRESS {
		p.complain.about(s.open.GetSession(), errors.New("a unit from an egress session"))
		return
	}
	u, n := m.Unit, len(m.Unit.Payload)
	err := s.in.unit(u)
	if err == nil {
		s.deliver(func(h SessionHandler) { h.Unit(u) })
	} else {
		p.complain.about(s.open.GetSession(), err)
		if s.in.bad >= badUnitsMax {
			p.expel(s, err)
			return
		}
	}
	// Credit is a safety net here: what arrived was dealt with.
	s.in.owed += n
	if s.in.owed >= wire.IngestWindowBytes/8 {
		p.out.Control(&wire.HostMsg{M: &wire.HostMsg_Credit{
			Credit: &wire.Credit{Session: s.open.GetSession(), Bytes: uint64(s.in.owed)},
		}})
		s.in.owed = 0
	}
}

// tracks takes in new tracks of one session.
func (p *process) tracks(id uint32, m *wire.TrackSet) {
	s := p.session(id)
	if s == nil {
		return
	}
	tracks := wire.ToTracks(m.GetTracks())
	if err := s.in.setTracks(tracks); err != nil {
		p.complain.about(id, err)
		p.expel(s, err)
		return
	}
	s.deliver(func(h SessionHandler) { h.Tracks(tracks) })
}

// credit takes in what a session has dealt with.
func (p *process) credit(m *wire.Credit) {
	if w := m.GetWindowBytes(); w > 0 {
		p.out.SetWindow(m.GetSession(), window(w))
	}
	p.returned(m.GetSession(), m.GetBytes())
}

// returned takes back credit of a session for bytes that it has dealt with.
func (p *process) returned(id uint32, bytes uint64) {
	s := p.session(id)
	if s == nil {
		return
	}
	n := p.out.Grant(id, bytes)
	if uint64(n) != bytes {
		p.complain.about(id, fmt.Errorf("credit for %d bytes of which %d had been sent", bytes, n))
	}
	if n > 0 {
		s.deliver(func(h SessionHandler) { h.Credited(n) })
	}
}

// credits takes back credit of several sessions.
func (p *process) credits(m *wire.Credits) {
	sessions, bytes := m.GetSessions(), m.GetBytes()
	if len(sessions) != len(bytes) {
		p.complain.about(0, fmt.Errorf("credit for %d sessions with %d numbers of bytes", len(sessions), len(bytes)))
		return
	}
	for i, id := range sessions {
		p.returned(id, bytes[i])
	}
}

// window returns the window that a plugin asks for, within reason.
func window(bytes uint64) int {
	return int(min(max(bytes, wire.MinWindowBytes), wire.MaxMessageBytes))
}

// state takes in a session's state.
func (p *process) state(m *wire.SessionState) {
	s := p.session(m.GetSession())
	if s == nil {
		return
	}
	switch m.GetState() {
	case wire.SessionState_READY:
		if s.in.ready {
			p.complain.about(m.GetSession(), errors.New("READY a second time"))
			return
		}
		s.in.ready = true
		s.deliver(func(h SessionHandler) { h.Ready(AcceptsOf(m.GetAccepts())) })
		if s.source != nil {
			p.out.SetWindow(m.GetSession(), window(m.GetWindowBytes()))
		}
	case wire.SessionState_FAILED:
		p.end(s, End{
			Failed:     true,
			Permanent:  m.GetPermanent(),
			Cause:      causeOf(m.GetCause()),
			Class:      classOf(m.GetClass()),
			Message:    cut(s.hide.Text(cut(m.GetMessage(), messageBytesMax)), messageBytesMax),
			RetryAfter: wire.Duration(m.GetRetryAfterNs()),
		})
	case wire.SessionState_CLOSED:
		p.end(s, p.closed(s, m))
	default:
		p.complain.about(m.GetSession(), errors.New("a state that this version does not know"))
	}
}

// closed returns the end of a session that says it is closed: as asked, or
// because the publisher said goodbye. Anything else is a failure.
func (p *process) closed(s *session, m *wire.SessionState) End {
	s.mu.Lock()
	asked := s.closing
	s.mu.Unlock()
	p.mu.Lock()
	draining := p.idle != nil
	p.mu.Unlock()
	switch {
	case asked, m.GetEnded():
		return End{}
	case draining:
		return End{Failed: true, Cause: CauseGateway, Message: "the gateway is shutting down"}
	default:
		return End{Failed: true, Cause: CausePlugin, Message: "plugin " + p.plugin.spec.Name + " closed the session by itself"}
	}
}

// offer passes a publisher's wish on.
func (p *process) offer(m *wire.Offer) {
	pl := p.plugin
	reject := func(r Rejection) {
		if p.out.Backlog() > backlogMax {
			p.kill(errBacklog)
			return
		}
		p.out.Control(&wire.HostMsg{M: &wire.HostMsg_Reject{Reject: &wire.OfferRejected{
			Offer: m.GetOffer(), Reason: r.Reason, Message: r.Message, RetryAfterNs: uint64(max(r.RetryAfter, 0)),
		}}})
	}
	p.mu.Lock()
	full := p.offers >= offersMax
	if !full {
		p.offers++
	}
	p.mu.Unlock()
	if full || pl.host.offers == nil || len(m.GetName()) > nameBytesMax || len(m.GetOffer()) > nameBytesMax || len(m.GetCredentials()) > secretBytesMax {
		if !full {
			p.decided()
		} else {
			p.complain.about(0, fmt.Errorf("more than %d offers at once", offersMax))
		}
		reject(Rejection{Reason: wire.OfferRejected_BUSY, Message: "the gateway cannot decide on this now", RetryAfter: time.Second})
		return
	}
	var once sync.Once
	accept := func(streamID uint64, h SessionHandler) Session {
		s := &session{plugin: pl, handler: h, open: &wire.Open{
			Kind:               wire.SessionKind_SESSION_KIND_INGEST,
			StreamId:           streamID,
			Stream:             m.GetName(),
			Offer:              m.GetOffer(),
			InitialCreditBytes: wire.IngestWindowBytes,
		}}
		if c, ok := h.(CodecChooser); ok {
			for _, codec := range c.Codecs() {
				s.open.Codecs = append(s.open.Codecs, string(codec))
			}
		}
		once.Do(func() {
			p.decided()
			if !p.add(s) {
				pl.host.async(func() {
					s.end(End{Failed: true, Cause: CausePlugin, Message: "the process of plugin " + pl.spec.Name + " died"})
				})
			}
		})
		return s
	}
	pl.host.offers.Offer(pl.spec.Name, Offer{
		Name:        m.GetName(),
		Credentials: secret.New(string(m.GetCredentials())),
		Remote:      cut(m.GetRemote(), nameBytesMax),
		Agent:       cut(m.GetAgent(), nameBytesMax),
		Codecs:      codecs(m.GetCodecs()),
	}, accept, func(r Rejection) {
		once.Do(func() {
			p.decided()
			reject(r)
		})
	})
}

// enquiry answers whether a name can be published. Where nobody knows, it can.
func (p *process) enquiry(m *wire.Enquiry) {
	if p.out.Backlog() > backlogMax {
		p.kill(errBacklog)
		return
	}
	if len(m.GetEnquiry()) > nameBytesMax {
		p.complain.about(0, errors.New("an enquiry whose number is too long"))
		return
	}
	answer := &wire.Enquired{Enquiry: m.GetEnquiry(), Open: true}
	if e, ok := p.plugin.host.offers.(Enquirer); ok {
		answer.Open, answer.Message = e.Enquire(cut(m.GetName(), nameBytesMax))
	}
	p.out.Control(&wire.HostMsg{M: &wire.HostMsg_Enquired{Enquired: answer}})
}

func (p *process) decided() {
	p.mu.Lock()
	p.offers--
	p.mu.Unlock()
}

// sessionCount returns how many sessions are open.
func (p *process) sessionCount() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sessions)
}

// AcceptsOf is what m says; nil says nothing.
func AcceptsOf(m *wire.Accepts) Accepts {
	a := Accepts{VideoTracks: int(min(m.GetVideoTracks(), tracksMax)), AudioTracks: int(min(m.GetAudioTracks(), tracksMax))}
	a.Codecs, a.Optional = codecs(m.GetCodecs()), codecs(m.GetOptionalCodecs())
	return a
}

func statsOf(m *wire.SessionStats) Stats {
	return Stats{
		Bytes:        m.GetBytes(),
		AckedBytes:   m.GetAckedBytes(),
		UnsentBytes:  m.GetUnsentBytes(),
		UnsentAge:    wire.Duration(m.GetUnsentAgeNs()),
		DeliveryBPS:  m.GetDeliveryBps(),
		RTT:          wire.Duration(m.GetRttNs()),
		UnitsLost:    m.GetUnitsLost(),
		UnitsDropped: m.GetUnitsDropped(),
		Values:       figures(m.GetValues()),
		Retransmits:  m.GetRetransmits(),
		UnackedAge:   wire.Duration(m.GetUnackedAgeNs()),
		Info:         facts(m.GetInfo()),
		Idle:         m.GetIdle(),
	}
}

// classOf returns the class of a failure if it is one word as it should be: it
// becomes a label.
func classOf(s string) string {
	const longest = 24
	if len(s) > longest {
		return ""
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && r != '_' {
			return ""
		}
	}
	return s
}

func causeOf(c wire.SessionState_Cause) Cause {
	switch c {
	case wire.SessionState_CONFIG:
		return CauseConfig
	case wire.SessionState_PLUGIN:
		return CausePlugin
	case wire.SessionState_GATEWAY:
		return CauseGateway
	default:
		return CauseRemote
	}
}
