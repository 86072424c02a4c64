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
	transport *http.Transport    // to its mounts; nil if there are none
	complain  complaint          // the receiving goroutine's
	silent    atomic.Int32       // pings since the last answer to one
	files     *map[string][]byte // those that it was started with
	gone      chan struct{}      // closed when it takes no sessions any more

	configured chan *wire.Configured // its answer to other files
	unanswered bool                  // it owes one; guarded by the pool's renewing

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

		files:      pl.pool.files.Load(),
		gone:       make(chan struct{}),
		configured: make(chan *wire.Configured, 1),
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
		Files:           *p.files,
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
	close(p.gone)
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
