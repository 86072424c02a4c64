package pluginhost

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

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

func (p *process) decided() {
	p.mu.Lock()
	p.offers--
	p.mu.Unlock()
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
