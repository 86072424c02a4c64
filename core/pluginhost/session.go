package pluginhost

import (
	"errors"
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// session is one session: waiting for its plugin's process, open in it, or over.
//
// Locks are taken in the order plugin, process, session.mu; delivery is taken
// with none of them held.
type session struct {
	plugin  *plugin
	handler SessionHandler
	source  Source // nil for an ingest
	open    *wire.Open
	hide    secret.Redaction // of where it leads; its plugin may quote that

	// delivery makes the calls of the handler one at a time.
	delivery sync.Mutex // guards over
	over     bool

	mu      sync.Mutex // guards the fields below
	process *process   // that it is open in
	closing bool
	timer   *time.Timer // ends a close that takes too long

	in input // what came from the plugin; the receiving goroutine's
}

// Wake implements [Session].
func (s *session) Wake() {
	if p := s.where(); p != nil && s.source != nil {
		p.out.Wake(s.open.GetSession())
	}
}

// RequestKeyframe implements [Session].
func (s *session) RequestKeyframe(track media.TrackID) {
	if p := s.where(); p != nil {
		p.out.Control(&wire.HostMsg{M: &wire.HostMsg_Keyframe{
			Keyframe: &wire.KeyframeRequest{Session: s.open.GetSession(), Track: uint32(track)},
		}})
	}
}

// SetTargetBitrate implements [Session].
func (s *session) SetTargetBitrate(bps uint64) {
	if p := s.where(); p != nil {
		p.out.Control(&wire.HostMsg{M: &wire.HostMsg_TargetBitrate{
			TargetBitrate: &wire.TargetBitrate{Session: s.open.GetSession(), Bps: bps},
		}})
	}
}

// SetTargetStates implements [Session].
func (s *session) SetTargetStates(targets []TargetState) {
	p := s.where()
	if p == nil {
		return
	}
	m := &wire.TargetStates{Session: s.open.GetSession()}
	for _, t := range targets {
		m.Targets = append(m.Targets, &wire.TargetStates_Target{Name: t.Name, State: t.State, Reason: t.Reason})
	}
	p.out.Control(&wire.HostMsg{M: &wire.HostMsg_Targets{Targets: m}})
}

// Close implements [Session].
func (s *session) Close(reason string, drain bool) {
	if s.plugin.forget(s) { // it was still waiting
		s.plugin.host.async(func() { s.end(End{}) })
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil || s.closing {
		return
	}
	s.closing = true
	id := s.open.GetSession()
	s.process.out.Mute(id, &wire.HostMsg{M: &wire.HostMsg_Close{
		Close: &wire.Close{Session: id, Reason: reason, Drain: drain},
	}})
	p := s.process
	s.timer = time.AfterFunc(s.plugin.host.timings.closeTimeout, func() { p.end(s, End{}) })
}

// where returns the process that the session is open in, nil if it is not.
func (s *session) where() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

// deliver calls f with the handler unless the session is over.
func (s *session) deliver(f func(SessionHandler)) {
	s.delivery.Lock()
	defer s.delivery.Unlock()
	if !s.over {
		f(s.handler)
	}
}

// end tells the handler, once, that the session is over.
func (s *session) end(e End) {
	s.mu.Lock()
	s.process = nil
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	s.delivery.Lock()
	defer s.delivery.Unlock()
	if s.over {
		return
	}
	s.over = true
	s.handler.Ended(e)
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

// sessionCount returns how many sessions are open.
func (p *process) sessionCount() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sessions)
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
