package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/plugins/ingest-webrtc/negotiate"
)

const (
	videoRateHz = 90000
	audioRateHz = 48000

	gatherTimeout = 1500 * time.Millisecond
	// replayWindow is how many packets a retransmission may lie behind.
	replayWindow = 1024
	mtuBytes     = 1600
)

// connect makes the peer connection and returns the answer.
func (s *session) connect(ctx context.Context) (string, error) {
	s.receiver = newReceiver(s)
	api, err := s.newAPI()
	if err != nil {
		return "", fmt.Errorf("preparing peer connection: %w", err)
	}
	certificate, err := s.server.dtlsCertificate()
	if err != nil {
		return "", err
	}
	s.pc, err = api.NewPeerConnection(webrtc.Configuration{
		Certificates:  []webrtc.Certificate{certificate},
		BundlePolicy:  webrtc.BundlePolicyMaxBundle,
		RTCPMuxPolicy: webrtc.RTCPMuxPolicyRequire,
		ICEServers:    s.server.reach.relays.alive(s.id[:8]),
	})
	if err != nil {
		return "", fmt.Errorf("making peer connection: %w", err)
	}
	s.pc.OnConnectionStateChange(s.stateChanged)
	// From here on media can come; the tracks go before them.
	s.announce()
	return s.answer(ctx, s.offer.SDP)
}

// newAPI is made for one session: what it registers is what the offer has.
func (s *session) newAPI() (*webrtc.API, error) {
	m := &webrtc.MediaEngine{}
	if err := registerCodecs(m, s.offer); err != nil {
		return nil, err
	}
	se, err := s.settings()
	if err != nil {
		return nil, err
	}
	// The receiver does what pion's interceptors would do: none of them is added.
	return webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(&interceptor.Registry{}), webrtc.WithSettingEngine(se)), nil
}

func (s *session) settings() (webrtc.SettingEngine, error) {
	p := s.server.port
	se := webrtc.SettingEngine{LoggerFactory: loggers{s.log}}
	se.SetICEUDPMux(udpPart{p, &s.figures.queueDrops})
	networks := []webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6}
	if p.tcpMux != nil {
		se.SetICETCPMux(p.tcpMux)
		networks = append(networks, webrtc.NetworkTypeTCP4, webrtc.NetworkTypeTCP6)
	}
	se.SetNetworkTypes(networks)
	se.SetIncludeLoopbackCandidate(p.loopback)
	se.SetIPFilter(p.has)
	se.SetRemoteIPFilter(p.usable)
	se.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	se.DisableActiveTCP(true)
	se.SetSTUNGatherTimeout(gatherTimeout)
	se.SetICETimeouts(iceDisconnected, iceFailed, iceKeepalive)
	se.SetSRTPReplayProtectionWindow(replayWindow)
	se.SetReceiveMTU(mtuBytes)
	se.SetFireOnTrackBeforeFirstRTP(true) // nobody reads a track: its packets go to the receiver
	se.BufferFactory = s.receiver.buffer
	// GCM costs less than the default of browsers, which choose by this order.
	se.SetSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AEAD_AES_256_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80)
	if rules := s.server.reach.rules(); len(rules) > 0 {
		if err := se.SetICEAddressRewriteRules(rules...); err != nil {
			return se, fmt.Errorf("announcing public addresses: %w", err)
		}
	}
	se.SetDTLSServerHelloMessageHook(s.ciphers.serverHello)
	if !s.offer.Passive {
		// As the DTLS server the gateway chooses the cipher. A publisher who
		// wants to be the server himself is let.
		if err := se.SetAnsweringDTLSRole(webrtc.DTLSRoleServer); err != nil {
			return se, err
		}
	}
	return se, nil
}

func registerCodecs(m *webrtc.MediaEngine, o *negotiate.Offer) error {
	type kind struct {
		section  *negotiate.Section
		typ      webrtc.RTPCodecType
		rateHz   uint32
		channels uint16
	}
	for _, k := range []kind{
		{o.Video, webrtc.RTPCodecTypeVideo, videoRateHz, 0},
		{o.Audio, webrtc.RTPCodecTypeAudio, audioRateHz, 2},
	} {
		if k.section == nil {
			continue
		}
		register := func(mime string, channels uint16, formats []negotiate.Format) error {
			for _, f := range formats {
				if err := m.RegisterCodec(webrtc.RTPCodecParameters{
					RTPCodecCapability: webrtc.RTPCodecCapability{
						MimeType: mime, ClockRate: k.rateHz, Channels: channels, SDPFmtpLine: f.Parameters,
						RTCPFeedback: feedback(f.Feedback),
					},
					PayloadType: webrtc.PayloadType(f.PayloadType),
				}, k.typ); err != nil {
					return fmt.Errorf("registering codec: %w", err)
				}
			}
			return nil
		}
		if err := errors.Join(
			register(k.typ.String()+"/"+string(k.section.Codec), k.channels, k.section.Formats),
			register(k.typ.String()+"/rtx", 0, k.section.Resent),
			register(k.typ.String()+"/red", k.channels, k.section.Redundant),
		); err != nil {
			return err
		}
		for _, uri := range []string{sdp.TransportCCURI, sdp.SDESMidURI} {
			if err := m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uri}, k.typ); err != nil {
				return fmt.Errorf("registering extension: %w", err)
			}
		}
	}
	return nil
}

// feedback are those kinds of feedback of the offer that the gateway gives.
func feedback(offered []string) []webrtc.RTCPFeedback {
	var out []webrtc.RTCPFeedback
	for _, f := range []string{"nack", "nack pli", "ccm fir", "transport-cc", "goog-remb"} {
		if slices.Contains(offered, f) {
			kind, parameter, _ := strings.Cut(f, " ")
			out = append(out, webrtc.RTCPFeedback{Type: kind, Parameter: parameter})
		}
	}
	return out
}
