package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// server is the plugin's end of the wire.
type server struct {
	wire.UnimplementedPluginServer
	plugin Plugin
	// attachChanged says, for the watcher of the process, that the gateway
	// attached or is gone. It holds the newest news alone.
	attachChanged chan bool

	mu      sync.Mutex // guards the fields below
	current *attachment
	ended   bool // no further attachment
}

func newServer(p Plugin) *server {
	return &server{plugin: p, attachChanged: make(chan bool, 1)}
}

// Describe implements the wire.
func (s *server) Describe(context.Context, *wire.DescribeRequest) (*wire.DescribeResponse, error) {
	return Describe(s.plugin), nil
}

// Validate implements the wire.
func (s *server) Validate(_ context.Context, r *wire.ValidateRequest) (*wire.ValidateResponse, error) {
	return Validate(s.plugin, r), nil
}

// Attach implements the wire: it lasts as long as the gateway is attached.
func (s *server) Attach(stream grpc.BidiStreamingServer[wire.HostMsg, wire.PluginMsg]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.FailedPrecondition, "the first message is not Hello")
	}
	a := newAttachment(s.plugin, hello)
	s.mu.Lock()
	if s.current != nil || s.ended {
		s.mu.Unlock()
		return status.Error(codes.FailedPrecondition, "attached already, or ending")
	}
	s.current = a
	s.mu.Unlock()
	s.announce(true)
	defer func() {
		s.mu.Lock()
		s.current = nil
		s.mu.Unlock()
		close(a.gone)
	}()
	return a.run(stream, func() { s.announce(false) })
}

// announce leaves the newest news in attachChanged.
func (s *server) announce(attached bool) {
	for {
		select {
		case s.attachChanged <- attached:
			return
		default:
		}
		select {
		case <-s.attachChanged:
		default:
		}
	}
}

// drain ends all sessions politely and returns when they are over, or after d.
func (s *server) drain(reason string, d time.Duration) {
	s.mu.Lock()
	s.ended = true
	a := s.current
	s.mu.Unlock()
	if a == nil {
		return
	}
	a.drain(reason, d)
	deadline := time.After(d)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-a.gone:
			return
		case <-deadline:
			return
		case <-poll.C:
			if a.idle() {
				return
			}
		}
	}
}

// wait returns when nothing is attached any more, or after d.
func (s *server) wait(d time.Duration) {
	s.mu.Lock()
	s.ended = true
	a := s.current
	s.mu.Unlock()
	if a == nil {
		return
	}
	select {
	case <-a.gone:
	case <-time.After(d):
	}
}

// session is one session as the receiving goroutine sees it. The methods do not block.
type session interface {
	receive(it wire.Item)
	keyframe(track uint32)
	targetBitrate(bps uint64)
	// close ends the session. With drain it first deals with what it received.
	// lost says that nobody is there any more to hear of it.
	close(reason string, drain, lost bool)
}

// attachment is one Attach stream: one gateway, all its sessions.
type attachment struct {
	plugin Plugin
	hello  *wire.Hello
	out    *wire.Outbox[*wire.PluginMsg]
	host   *IngestHost
	gone   chan struct{} // closed when all is over
	// secrets are those in the plugin's options, and hide their redaction: they are
	// not for the gateway's log, whoever quotes them.
	secrets []string
	hide    secret.Redaction
	renewal *renewal

	credits creditor

	serveCtx  context.Context // for Ingest.Serve; ends with a drain
	stopServe context.CancelFunc
	// fatal is what made the plugin as a whole unable to go on.
	fatal chan error
	wg    sync.WaitGroup // sessions and the ingest

	mu         sync.Mutex // guards the fields below
	sessions   map[uint32]session
	offers     map[string]*pendingOffer
	offerSeq   uint64
	enquiries  map[string]chan *wire.Enquired // each takes one answer without blocking
	enquirySeq uint64
	draining   string        // why, once it is
	endTime    time.Duration // of one session; shorter once all have to end
}

func newAttachment(p Plugin, hello *wire.Hello) *attachment {
	a := &attachment{
		plugin:    p,
		hello:     hello,
		out:       wire.NewOutbox[*wire.PluginMsg](),
		gone:      make(chan struct{}),
		fatal:     make(chan error, 1),
		sessions:  make(map[uint32]session),
		offers:    make(map[string]*pendingOffer),
		enquiries: make(map[string]chan *wire.Enquired),
		endTime:   closeTimeout,
	}
	a.secrets = secret.InOptions(schemaOf(p.Options), hello.GetOptionsJson())
	a.hide = secret.Redact(a.secrets...)
	a.renewal = newRenewal(p.Options, hello, a.hide)
	a.credits.out = a.out
	a.serveCtx, a.stopServe = context.WithCancel(context.Background())
	a.host = &IngestHost{a: a}
	return a
}

// run serves the stream until it breaks, calls lost, and returns when all
// sessions are over.
func (a *attachment) run(stream grpc.BidiStreamingServer[wire.HostMsg, wire.PluginMsg], lost func()) error {
	defer a.stopServe()
	lost = sync.OnceFunc(lost)
	defer lost()
	ack := &wire.HelloAck{}
	if err := a.configure(); err != nil {
		return stream.Send(&wire.PluginMsg{M: &wire.PluginMsg_Hello{Hello: &wire.HelloAck{Error: a.hide.Text(err.Error())}}})
	}
	if a.plugin.Ingest != nil && len(a.plugin.Ingest.Mounts) > 0 {
		m, err := listenMounts(a.host)
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		defer m.close()
		ack.HttpSocket = m.name
	}
	link, err := a.greet(stream, ack)
	if err != nil {
		return err
	}
	defer link.close()

	sendCtx, stopSending := context.WithCancel(stream.Context())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if err := a.send(sendCtx, link); err != nil && sendCtx.Err() == nil && !errors.Is(err, io.EOF) {
			slog.Error("sending to the gateway", "error", err)
		}
	}()
	received := make(chan error, 1)
	go func() { received <- a.receive(link) }()
	a.wg.Go(func() {
		a.renewal.run(sendCtx, func(m *wire.Configured) { a.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Configured{Configured: m}}) })
	})
	if a.plugin.Ingest != nil {
		a.wg.Go(a.serveIngest)
	}

	select {
	case err = <-received:
	case err = <-a.fatal:
		err = status.Error(codes.Aborted, err.Error())
	}
	lost()
	a.abandon()
	stopSending()
	link.close()
	<-sent
	a.wg.Wait()
	// The receiving goroutine has ended with a socket, and ends with a gRPC stream when
	// this method returns; what it still reads finds no session.
	return err
}

// configure hands the options to the plugin's parts.
func (a *attachment) configure() error {
	if err := a.renewal.check(a.hello.GetFiles()); err != nil {
		return err
	}
	if a.plugin.Egress != nil {
		if c, ok := a.plugin.Egress.Egress.(Configurer); ok {
			return guard(context.Background(), 0, a.hide, func() error { return c.Configure(a.host.Options) })
		}
	}
	return nil
}

// serveIngest runs the author's Serve.
func (a *attachment) serveIngest() {
	err := guard(a.serveCtx, 0, a.hide, func() error { return a.plugin.Ingest.Ingest.Serve(a.serveCtx, a.host) })
	if err != nil && a.serveCtx.Err() == nil {
		a.fatal <- fmt.Errorf("ingest ended: %w", redactError(a.hide, err))
	}
}

// send is the one goroutine that sends on the stream.
func (a *attachment) send(ctx context.Context, stream wire.Stream) error {
	for {
		control, steps, err := a.out.Next(ctx)
		if err != nil {
			return err
		}
		for _, m := range control {
			if err := stream.SendMsg(m); err != nil {
				return err
			}
		}
		err = wire.Messages(steps, time.Now(),
			func(m wire.Units) error { return stream.SendMsg(&wire.PluginUnits{Units: m}) },
			func(m *wire.TrackSet) error {
				return stream.SendMsg(&wire.PluginMsg{M: &wire.PluginMsg_Tracks{Tracks: m}})
			})
		if err != nil {
			return err
		}
	}
}

// receive dispatches what the gateway says. It never waits for a session.
func (a *attachment) receive(stream wire.Stream) error {
	var in wire.HostInbound
	in.MaxAge = math.MaxInt64
	for {
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		if in.Msg == nil {
			for _, u := range in.Units {
				for _, id := range u.Sessions {
					if s := a.session(id); s != nil {
						s.receive(wire.Item{Unit: u.Unit})
					}
				}
			}
			continue
		}
		switch m := in.Msg.GetM().(type) {
		case *wire.HostMsg_Open:
			a.open(m.Open)
		case *wire.HostMsg_Close:
			if s := a.session(m.Close.GetSession()); s != nil {
				s.close(m.Close.GetReason(), m.Close.GetDrain(), false)
			}
		case *wire.HostMsg_Tracks:
			for _, id := range m.Tracks.GetSessions() {
				if s := a.session(id); s != nil {
					s.receive(wire.Item{Tracks: wire.ToTracks(m.Tracks.GetTracks())})
				}
			}
		case *wire.HostMsg_Credit:
			a.out.Grant(m.Credit.GetSession(), m.Credit.GetBytes())
		case *wire.HostMsg_TargetBitrate:
			if s := a.session(m.TargetBitrate.GetSession()); s != nil {
				s.targetBitrate(m.TargetBitrate.GetBps())
			}
		case *wire.HostMsg_Keyframe:
			if s := a.session(m.Keyframe.GetSession()); s != nil {
				s.keyframe(m.Keyframe.GetTrack())
			}
		case *wire.HostMsg_Targets:
			if p, ok := a.session(m.Targets.GetSession()).(*Publication); ok {
				p.setTargets(m.Targets)
			}
		case *wire.HostMsg_Enquired:
			a.enquired(m.Enquired)
		case *wire.HostMsg_Reject:
			a.answer(m.Reject.GetOffer(), offerAnswer{err: rejectedError(m.Reject)})
		case *wire.HostMsg_Ping:
			a.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Pong{Pong: &wire.Pong{Id: m.Ping.GetId()}}})
		case *wire.HostMsg_Configure:
			select {
			case a.renewal.changes <- m.Configure:
			default: // the gateway's mistake: it has no answer to the two before
			}
		case *wire.HostMsg_Drain:
			a.drain("the gateway is shutting down", wire.Duration(m.Drain.GetDeadlineNs()))
		}
	}
}

// open starts the session that the gateway asks for.
func (a *attachment) open(o *wire.Open) {
	a.mu.Lock()
	draining, used := a.draining, a.sessions[o.GetSession()] != nil
	a.mu.Unlock()
	switch {
	case used:
		return // a number is used once; the gateway's mistake
	case draining != "":
		a.out.Control(stateMsg(&wire.SessionState{
			Session: o.GetSession(), State: wire.SessionState_FAILED, Cause: wire.SessionState_GATEWAY, Message: draining,
		}))
		return
	}
	switch o.GetKind() {
	case wire.SessionKind_SESSION_KIND_EGRESS:
		if a.plugin.Egress == nil {
			a.refuse(o, "the plugin is no egress")
			return
		}
		a.openEgress(o)
	case wire.SessionKind_SESSION_KIND_TRANSFORM:
		a.openTransform(o)
	case wire.SessionKind_SESSION_KIND_INGEST:
		a.openIngest(o)
	default:
		a.refuse(o, "the plugin does not know this kind of session")
	}
}

// refuse answers an Open that cannot be served.
func (a *attachment) refuse(o *wire.Open, message string) {
	a.out.Control(stateMsg(&wire.SessionState{
		Session: o.GetSession(), State: wire.SessionState_FAILED, Permanent: true,
		Cause: wire.SessionState_GATEWAY, Message: message,
	}))
}

func (a *attachment) session(id uint32) session {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sessions[id]
}

// add registers a session.
func (a *attachment) add(id uint32, s session) {
	a.mu.Lock()
	a.sessions[id] = s
	a.mu.Unlock()
}

// end forgets a session and tells the gateway how it ended.
func (a *attachment) end(id uint32, state *wire.SessionState) {
	a.mu.Lock()
	delete(a.sessions, id)
	a.mu.Unlock()
	state.Session = id
	a.out.Close(id, stateMsg(state))
}

func (a *attachment) idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.sessions) == 0
}

// drain ends everything politely, within d: no new offers, sessions deal with what
// they have.
func (a *attachment) drain(reason string, d time.Duration) {
	a.mu.Lock()
	a.endTime = min(a.endTime, d)
	a.mu.Unlock()
	a.closeAll(reason, true, false)
}

// closeTime is how long the polite end of a session may take.
func (a *attachment) closeTime() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.endTime
}

// abandon ends everything because the gateway is gone.
func (a *attachment) abandon() {
	a.closeAll("the gateway is gone", false, true)
}

// closeAll ends all sessions, and Ingest.Serve behind them: an ingest that stops
// serving loses its publishers, which must find their publications over by then and not
// report them as lost.
func (a *attachment) closeAll(reason string, drain, lost bool) {
	defer a.stopServe()
	a.mu.Lock()
	if a.draining == "" {
		a.draining = reason
	}
	all := make([]session, 0, len(a.sessions))
	for _, s := range a.sessions {
		all = append(all, s)
	}
	offers := a.offers
	a.offers = make(map[string]*pendingOffer)
	a.mu.Unlock()
	for _, p := range offers {
		p.answer <- offerAnswer{err: &RejectedError{Reason: Busy, Message: reason, RetryAfter: time.Second}}
	}
	for _, s := range all {
		s.close(reason, drain, lost)
	}
}

func stateMsg(s *wire.SessionState) *wire.PluginMsg {
	return &wire.PluginMsg{M: &wire.PluginMsg_State{State: s}}
}

// failure is the state of a session that ended by err.
func failure(err error) *wire.SessionState {
	s := &wire.SessionState{
		State:     wire.SessionState_FAILED,
		Permanent: IsPermanent(err),
		Cause:     wire.SessionState_REMOTE,
		Message:   err.Error(),
	}
	if file := (*fs.PathError)(nil); errors.As(err, &file) && errors.Is(file, fs.ErrPermission) {
		s.Message += "; a plugin can use files only in the directories that the configuration grants it, with files: [DIR]"
	}
	var e *Error
	if errors.As(err, &e) {
		s.RetryAfterNs = uint64(max(e.RetryAfter, 0))
		s.Class = e.Class
		switch e.Cause {
		case CauseConfig:
			s.Cause = wire.SessionState_CONFIG
		case CausePlugin:
			s.Cause = wire.SessionState_PLUGIN
		case CauseGateway:
			s.Cause = wire.SessionState_GATEWAY
		case CauseRemote:
		}
	}
	return s
}

// guard calls f, the author's code, and turns a panic into an error of the
// session that it happened in. hide is taken out of what is logged.
func guard(ctx context.Context, session uint32, hide secret.Redaction, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			logPanic(ctx, session, hide.Text(fmt.Sprint(v)), debug.Stack())
			err = &Error{Cause: CausePlugin, Err: fmt.Errorf("the plugin panicked: %v", v)}
		}
	}()
	return f()
}
