package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/plugins/ingest-webrtc/negotiate"
	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
)

// maxCandidates is how many candidates one ICE session takes; each is tried.
const maxCandidates = 64

// An iceSession is what changes with a restart of ICE.
type iceSession struct {
	patch sync.Mutex // held while ICE is being restarted or candidates are added

	mu         sync.Mutex // guards the fields below
	etag       string
	ufrag      string // the publisher's
	before     string // his last one
	candidates int
}

func newETag() string { return `"` + newID()[:16] + `"` }

func (i *iceSession) begin(ufrag string, candidates int) (etag string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.etag, i.before, i.ufrag, i.candidates = newETag(), i.ufrag, ufrag, candidates
	return i.etag
}

// ETag implements [whip.Session].
func (s *session) ETag() string {
	s.ice.mu.Lock()
	defer s.ice.mu.Unlock()
	return s.ice.etag
}

// Ufrag implements [whip.Session].
func (s *session) Ufrag() string {
	s.ice.mu.Lock()
	defer s.ice.mu.Unlock()
	return s.ice.ufrag
}

// AddCandidates implements [whip.Session].
func (s *session) AddCandidates(candidates []whip.Candidate) {
	s.ice.patch.Lock()
	defer s.ice.patch.Unlock()
	for _, c := range candidates {
		s.ice.mu.Lock()
		full := s.ice.candidates >= maxCandidates
		s.ice.candidates++
		s.ice.mu.Unlock()
		if full {
			s.log.Debug("candidates left out", "limit", maxCandidates)
			return
		}
		// One transport carries everything: the section does not matter, and
		// the one that is named need not be there.
		first := uint16(0)
		if err := s.pc.AddICECandidate(webrtc.ICECandidateInit{Candidate: c.Line, SDPMLineIndex: &first}); err != nil {
			s.log.Debug("candidate left out", "error", err)
		}
	}
}

// Restart implements [whip.Session]. Only credentials and candidates travel: they
// are put into the offer that is known, and the rest stays as it was negotiated.
func (s *session) Restart(ctx context.Context, f whip.Fragment) (whip.Restarted, error) {
	s.ice.patch.Lock()
	defer s.ice.patch.Unlock()
	s.ice.mu.Lock()
	current, before := s.ice.ufrag, s.ice.before
	s.ice.mu.Unlock()
	switch f.Ufrag {
	case current: // restarted by a request that came at the same time
		return whip.Restarted{}, &whip.Problem{Status: http.StatusPreconditionFailed, Type: "if-match", Detail: "ICE has been restarted with these credentials already"}
	case before: // a candidate that comes late
		return whip.Restarted{}, &whip.Problem{Status: http.StatusPreconditionFailed, Type: "if-match", Detail: "ICE has been restarted since"}
	}
	offer, err := withCredentials(s.pc.RemoteDescription().SDP, f)
	if err != nil {
		return whip.Restarted{}, fmt.Errorf("restarting ICE: %w", err)
	}
	answer, err := s.answer(ctx, offer)
	if err != nil {
		return whip.Restarted{}, fmt.Errorf("restarting ICE: %w", err)
	}
	fragment, err := answerFragment(answer)
	if err != nil {
		return whip.Restarted{}, fmt.Errorf("restarting ICE: %w", err)
	}
	s.log.Info("publisher restarts ICE")
	return whip.Restarted{ETag: s.ice.begin(f.Ufrag, len(f.Candidates)), Fragment: fragment}, nil
}

// answer takes in an offer and returns the answer with the gateway's candidates.
func (s *session) answer(ctx context.Context, offer string) (string, error) {
	if err := s.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: offer}); err != nil {
		return "", refusal(&negotiate.Refusal{Reason: negotiate.Malformed, Detail: "the offer cannot be used: " + err.Error()})
	}
	answer, err := s.pc.CreateAnswer(nil)
	if err != nil {
		return "", fmt.Errorf("making answer: %w", err)
	}
	gathered := webrtc.GatheringCompletePromise(s.pc)
	if err := s.pc.SetLocalDescription(answer); err != nil {
		return "", fmt.Errorf("setting answer: %w", err)
	}
	timeout := time.NewTimer(gatherTimeout)
	defer timeout.Stop()
	select {
	case <-gathered:
	case <-timeout.C:
		// A TURN server that is there and gives nothing shall not cost the next
		// publisher the same time.
		s.server.reach.relays.suspect()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	return negotiate.Finish(s.pc.LocalDescription().SDP, s.server.maxBPS)
}

// withCredentials is offer with the credentials and candidates of f.
func withCredentials(offer string, f whip.Fragment) (string, error) {
	var d sdp.SessionDescription
	if err := d.UnmarshalString(offer); err != nil {
		return "", err
	}
	old := func(a sdp.Attribute) bool {
		switch a.Key {
		case "ice-ufrag", "ice-pwd", "candidate", "end-of-candidates":
			return true
		}
		return false
	}
	d.Attributes = slices.DeleteFunc(d.Attributes, old)
	for _, m := range d.MediaDescriptions {
		m.Attributes = append(slices.DeleteFunc(m.Attributes, old),
			sdp.NewAttribute("ice-ufrag", f.Ufrag), sdp.NewAttribute("ice-pwd", f.Pwd))
	}
	if len(d.MediaDescriptions) == 0 {
		return "", errors.New("the offer has no media")
	}
	first := d.MediaDescriptions[0]
	for _, c := range f.Candidates {
		if key, value, ok := strings.Cut(c.Line, ":"); ok && usableLine(value) {
			first.Attributes = append(first.Attributes, sdp.NewAttribute(key, value))
		}
	}
	out, err := d.Marshal()
	return string(out), err
}

// usableLine reports whether a candidate line can stand in an offer: one that
// cannot be read would spoil all of it.
func usableLine(value string) bool {
	c, err := ice.UnmarshalCandidate(value)
	return err == nil && !strings.HasSuffix(c.Address(), ".local")
}

// answerFragment is what a publisher needs of an answer to go on with a new ICE
// session (RFC 9725, section 4.3.3).
func answerFragment(answer string) (string, error) {
	var d sdp.SessionDescription
	if err := d.UnmarshalString(answer); err != nil {
		return "", err
	}
	var b strings.Builder
	line := func(key, value string) {
		b.WriteString("a=" + key)
		if value != "" {
			b.WriteString(":" + value)
		}
		b.WriteString("\r\n")
	}
	for _, key := range []string{"ice-lite", "ice-options", "group"} {
		if v, ok := d.Attribute(key); ok {
			line(key, v)
		}
	}
	if len(d.MediaDescriptions) == 0 {
		return "", errors.New("the answer has no media")
	}
	m := d.MediaDescriptions[0]
	b.WriteString("m=" + m.MediaName.String() + "\r\n")
	for _, a := range m.Attributes {
		switch a.Key {
		case "mid", "ice-ufrag", "ice-pwd", "candidate":
			line(a.Key, a.Value)
		}
	}
	line("end-of-candidates", "")
	return b.String(), nil
}
