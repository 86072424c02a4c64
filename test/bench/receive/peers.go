package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"
	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/internal/clip"
)

// counts are what the stock receiver tells of itself.
type counts struct {
	Packets uint64
	Tracks  int
}

func settings(conn *net.UDPConn) webrtc.SettingEngine {
	se := webrtc.SettingEngine{}
	se.SetIncludeLoopbackCandidate(true)
	se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	se.SetIPFilter(func(ip net.IP) bool { return ip.IsLoopback() })
	se.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	if conn != nil {
		se.SetICEUDPMux(ice.NewUDPMuxDefault(ice.UDPMuxParams{UDPConn: conn}))
	}
	return se
}

// stock receives as pion's own examples do, on one port, and throws everything away.
func stock(o options) error {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	if err := conn.SetReadBuffer(4 << 20); err != nil {
		return err
	}
	m, ir := &webrtc.MediaEngine{}, &interceptor.Registry{}
	if err := m.RegisterDefaultCodecs(); err != nil {
		return err
	}
	if err := webrtc.RegisterDefaultInterceptors(m, ir); err != nil {
		return err
	}
	api := webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(ir), webrtc.WithSettingEngine(settings(conn)))
	var packets atomic.Uint64
	var tracks atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /counts", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(counts{packets.Load(), int(tracks.Load())})
	})
	mux.HandleFunc("POST /whip/", func(w http.ResponseWriter, r *http.Request) {
		offer, _ := io.ReadAll(r.Body)
		pc, err := api.NewPeerConnection(webrtc.Configuration{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		pc.OnTrack(func(t *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
			tracks.Add(1)
			b := make([]byte, 1600)
			for {
				if _, _, err := t.Read(b); err != nil {
					return
				}
				packets.Add(1)
			}
		})
		answer, err := negotiated(pc, string(offer))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, answer)
	})
	server := &http.Server{Addr: o.addr, Handler: mux, ReadHeaderTimeout: time.Second}
	return server.ListenAndServe()
}

func negotiated(pc *webrtc.PeerConnection, offer string) (string, error) {
	if err := pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: offer}); err != nil {
		return "", err
	}
	answer, err := pc.CreateAnswer(nil)
	if err != nil {
		return "", err
	}
	gathered := webrtc.GatheringCompletePromise(pc)
	if err := pc.SetLocalDescription(answer); err != nil {
		return "", err
	}
	<-gathered
	return pc.LocalDescription().SDP, nil
}

// What each stream sends: 30 pictures a second of 10.4 KB, 2.5 Mb/s.
const (
	frameRate    = 30
	pictureBytes = 10_400
	payloadBytes = 1200
)

// send publishes the same pictures on all streams, in five phases.
func send(o options) error {
	m, ir := &webrtc.MediaEngine{}, &interceptor.Registry{}
	if err := m.RegisterDefaultCodecs(); err != nil {
		return err
	}
	if err := webrtc.ConfigureTWCCHeaderExtensionSender(m, ir); err != nil {
		return err
	}
	if err := webrtc.ConfigureNack(m, ir); err != nil {
		return err
	}
	api := webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(ir), webrtc.WithSettingEngine(settings(nil)))
	var tracks []*webrtc.TrackLocalStaticRTP
	for i := range o.streams {
		t, err := publish(api, fmt.Sprintf("%s%d", o.addr, i))
		if err != nil {
			return fmt.Errorf("publishing stream %d: %w", i, err)
		}
		tracks = append(tracks, t)
	}
	pictures, err := group()
	if err != nil {
		return err
	}
	const phases = 5
	tick := time.NewTicker(time.Second / frameRate / phases)
	defer tick.Stop()
	var seq uint16
	for n := 0; ; n++ {
		picture := pictures[n%len(pictures)]
		for phase := range phases {
			<-tick.C
			for i := phase; i < len(tracks); i += phases {
				for k, payload := range picture {
					p := rtp.Packet{
						Header: rtp.Header{
							Version: 2, SequenceNumber: seq + uint16(k), Timestamp: uint32(n) * 90000 / frameRate, Marker: k == len(picture)-1,
						},
						Payload: payload,
					}
					if err := tracks[i].WriteRTP(&p); err != nil {
						return err
					}
				}
			}
		}
		seq += uint16(len(picture))
	}
}

// group is a key picture of the test card and pictures after it, in packets.
func group() ([][][]byte, error) {
	c, err := clip.Load()
	if err != nil {
		return nil, err
	}
	fill := make([]byte, pictureBytes)
	for i := range fill {
		fill[i] = byte(1 + rand.IntN(255))
	}
	var out [][][]byte
	packetizer := &codecs.H264Payloader{}
	for i := range 2 * frameRate {
		var stream []byte
		if i == 0 {
			for _, n := range [][]byte{c.SPS, c.PPS} {
				stream = append(append(stream, 0, 0, 0, 1), n...)
			}
			stream = append(append(stream, 0, 0, 0, 1), c.Video[0].Payload[4:]...)
		} else {
			stream = append(append(stream, 0, 0, 0, 1, 0x41), fill...)
		}
		var packets [][]byte
		for _, b := range packetizer.Payload(payloadBytes, stream) {
			packets = append(packets, append([]byte(nil), b...))
		}
		out = append(out, packets)
	}
	return out, nil
}

func publish(api *webrtc.API, url string) (*webrtc.TrackLocalStaticRTP, error) {
	pc, err := api.NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		return nil, err
	}
	t, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH264, ClockRate: 90000}, "video", "bench")
	if err != nil {
		return nil, err
	}
	transceiver, err := pc.AddTransceiverFromTrack(t, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	if err != nil {
		return nil, err
	}
	go func() {
		b := make([]byte, 1600)
		for {
			if _, _, err := transceiver.Sender().Read(b); err != nil {
				return
			}
		}
	}()
	offer, err := pc.CreateOffer(nil)
	if err != nil {
		return nil, err
	}
	gathered := webrtc.GatheringCompletePromise(pc)
	if err := pc.SetLocalDescription(offer); err != nil {
		return nil, err
	}
	<-gathered
	res, err := http.Post(url, "application/sdp", strings.NewReader(pc.LocalDescription().SDP))
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("%s: %s", res.Status, answer)
	}
	connected := make(chan struct{})
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		if s == webrtc.PeerConnectionStateConnected {
			close(connected)
		}
	})
	if err := pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: string(answer)}); err != nil {
		return nil, err
	}
	<-connected
	return t, nil
}
