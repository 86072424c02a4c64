package whipclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"
)

const fragmentType = "application/trickle-ice-sdpfrag"

// RestartICE begins a new ICE session within the WHIP session (RFC 9725, section
// 4.3.3), as a publisher does whose network has changed. ctx bounds it.
func (p *Publisher) RestartICE(ctx context.Context) error {
	offer, err := p.pc.CreateOffer(&webrtc.OfferOptions{ICERestart: true})
	if err != nil {
		return fmt.Errorf("making offer: %w", err)
	}
	gathered := webrtc.GatheringCompletePromise(p.pc)
	if err := p.pc.SetLocalDescription(offer); err != nil {
		return fmt.Errorf("setting offer: %w", err)
	}
	select {
	case <-gathered:
	case <-ctx.Done():
		return ctx.Err()
	}
	fragment, err := iceFragment(p.pc.LocalDescription().SDP)
	if err != nil {
		return err
	}
	res, err := p.request(ctx, http.MethodPatch, p.location.String(), fragment,
		"Content-Type", fragmentType, "If-Match", "*")
	if err != nil {
		return fmt.Errorf("restarting ICE: %w", err)
	}
	if res.status != http.StatusOK {
		return fmt.Errorf("restarting ICE: %w", res.refusal())
	}
	answer, err := withICE(p.answer, res.body)
	if err != nil {
		return err
	}
	p.etag, p.answer = res.header.Get("ETag"), answer
	if err := p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}); err != nil {
		return fmt.Errorf("setting answer: %w", err)
	}
	return nil
}

func isICE(key string) bool {
	return key == "ice-ufrag" || key == "ice-pwd" || key == "candidate" || key == "end-of-candidates"
}

// iceFragment is what of a session description a restart tells.
func iceFragment(description string) (string, error) {
	var d sdp.SessionDescription
	if err := d.UnmarshalString(description); err != nil {
		return "", fmt.Errorf("parsing offer: %w", err)
	}
	if len(d.MediaDescriptions) == 0 {
		return "", errors.New("the offer has no media")
	}
	m := d.MediaDescriptions[0]
	var b strings.Builder
	b.WriteString("m=" + m.MediaName.String() + "\r\n")
	for _, a := range m.Attributes {
		if a.Key == "mid" || isICE(a.Key) {
			b.WriteString("a=" + strings.TrimSuffix(a.Key+":"+a.Value, ":") + "\r\n")
		}
	}
	return b.String(), nil
}

// withICE is description with the ICE credentials and candidates of a fragment.
func withICE(description, fragment string) (string, error) {
	var d sdp.SessionDescription
	if err := d.UnmarshalString(description); err != nil {
		return "", fmt.Errorf("parsing answer: %w", err)
	}
	var credentials, candidates []sdp.Attribute
	for line := range strings.Lines(fragment) {
		rest, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "a=")
		if !ok {
			continue
		}
		switch key, value, _ := strings.Cut(rest, ":"); key {
		case "ice-ufrag", "ice-pwd":
			credentials = append(credentials, sdp.NewAttribute(key, value))
		case "candidate":
			candidates = append(candidates, sdp.NewAttribute(key, value))
		}
	}
	for i, m := range d.MediaDescriptions {
		m.Attributes = slices.DeleteFunc(m.Attributes, func(a sdp.Attribute) bool { return isICE(a.Key) })
		m.Attributes = append(m.Attributes, credentials...)
		if i == 0 {
			m.Attributes = append(m.Attributes, candidates...)
		}
	}
	out, err := d.Marshal()
	return string(out), err
}
