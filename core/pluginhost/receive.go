package pluginhost

import (
	"errors"
	"fmt"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

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
		case *wire.PluginMsg_Configured:
			select {
			case p.configured <- m.Configured:
			default: // more answers than questions
			}
		case *wire.PluginMsg_Hello:
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
