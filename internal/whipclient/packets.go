package whipclient

import (
	"fmt"
	"slices"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"
	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/h265"
)

// A packetizer makes RTP payloads of the pictures of one codec.
type packetizer struct {
	codec  media.Codec
	params [][]byte      // parameter sets, sent before each random access point
	other  rtp.Payloader // of a codec other than H.264

	nalus   [][]byte
	packets [][]byte
	stream  []byte
}

func newPacketizer(t media.Track) (*packetizer, error) {
	p := &packetizer{codec: t.Codec}
	switch t.Codec {
	case media.H264:
		c, err := h264.ParseDecoderConfig(t.DecoderConfig)
		if err != nil {
			return nil, err
		}
		p.params = slices.Concat(c.SPS, c.PPS)
	case media.H265:
		c, err := h265.ParseDecoderConfig(t.DecoderConfig)
		if err != nil {
			return nil, err
		}
		p.params = slices.Concat(c.VPS, c.SPS, c.PPS)
		p.other = &codecs.H265Payloader{}
	case media.AV1:
		p.other = &codecs.AV1Payloader{}
	case media.VP9:
		p.other = &codecs.VP9Payloader{}
	default:
		return nil, fmt.Errorf("%s cannot be sent", t.Codec)
	}
	return p, nil
}

// payloads are those of one picture, good until the next call. timing stands in
// front of one of H.264, unless it is nil.
func (p *packetizer) payloads(u *media.AccessUnit, timing *Timing) ([][]byte, error) {
	if p.codec == media.AV1 || p.codec == media.VP9 {
		return p.other.Payload(mtu, u.Payload), nil
	}
	nalus := p.nalus[:0]
	if u.RandomAccess {
		nalus = append(nalus, p.params...)
	}
	if timing != nil {
		nalus = append(nalus, timing.NALU())
	}
	var err error
	if p.nalus, err = h264.SplitLengthPrefixed(nalus, u.Payload); err != nil {
		return nil, fmt.Errorf("splitting picture: %w", err)
	}
	if p.codec == media.H264 {
		p.packets = packetize(p.packets[:0], p.nalus)
		return p.packets, nil
	}
	p.stream = p.stream[:0]
	for _, n := range p.nalus {
		p.stream = append(append(p.stream, 0, 0, 0, 1), n...)
	}
	return p.other.Payload(mtu, p.stream), nil
}

// timing is what stands in front of the next picture; nil for nothing.
func (pl *player) timing() *Timing {
	if !pl.p.cfg.Timing || pl.packetizer.codec != media.H264 {
		return nil
	}
	return &Timing{Sent: time.Now(), Posted: pl.p.posted, Frame: pl.frame}
}

// capability is how a track is offered.
func (p *Publisher) capability(feedback []webrtc.RTCPFeedback) webrtc.RTPCodecCapability {
	c := webrtc.RTPCodecCapability{ClockRate: videoRateHz, RTCPFeedback: feedback}
	switch p.videoCodec() {
	case media.H265:
		c.MimeType, c.SDPFmtpLine = webrtc.MimeTypeH265, "level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST"
	case media.AV1:
		c.MimeType, c.SDPFmtpLine = webrtc.MimeTypeAV1, "level-idx=5;profile=0;tier=0"
	case media.VP9:
		c.MimeType, c.SDPFmtpLine = webrtc.MimeTypeVP9, "profile-id=0"
	default:
		c.MimeType = webrtc.MimeTypeH264
		c.SDPFmtpLine = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=" + p.profile()
	}
	return c
}

// videoCodec is that of the video; H.264 is offered where there is none.
func (p *Publisher) videoCodec() media.Codec {
	if p.cfg.Video == nil {
		return media.H264
	}
	return p.cfg.Video.Track.Codec
}
