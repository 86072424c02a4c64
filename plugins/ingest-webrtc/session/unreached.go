package session

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pion/webrtc/v4"
)

// notConnected is the error of a session that did not connect in time, with what is
// known of the cause and what helps.
func (s *session) notConnected() error {
	return fmt.Errorf("%w: %s", errConnect, s.whyNotConnected())
}

func (s *session) whyNotConnected() string {
	switch s.pc.ICEConnectionState() {
	case webrtc.ICEConnectionStateConnected, webrtc.ICEConnectionStateCompleted:
		return "packets go both ways, but the publisher did not finish the DTLS handshake"
	default:
	}
	var tried []string // the publisher's addresses
	heard := false
	stats := s.pc.GetStats()
	for _, v := range stats {
		pair, ok := v.(webrtc.ICECandidatePairStats)
		if !ok {
			continue
		}
		if pair.RequestsReceived > 0 {
			heard = true
		}
		if remote, ok := stats[pair.RemoteCandidateID].(webrtc.ICECandidateStats); ok && !slices.Contains(tried, remote.IP) {
			tried = append(tried, remote.IP)
		}
	}
	if heard {
		return "the publisher's packets arrive, the gateway's do not reach him: is outgoing UDP allowed?"
	}
	announced := make([]string, 0, 4)
	for _, m := range s.server.reach.announced() {
		announced = append(announced, m.public.String())
	}
	why := fmt.Sprintf("no packet of the publisher has arrived at the %v of %s: a firewall or NAT is in between; forward the ports, announce the public address by public_ips, or use TURN",
		s.server.port, strings.Join(announced, ", "))
	if len(tried) > 0 {
		slices.Sort(tried)
		why += "; tried in vain from here: " + strings.Join(tried, ", ")
	}
	return why
}
