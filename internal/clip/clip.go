// Package clip holds the test card: ten seconds of H.264 and Opus that loop
// without a seam, with a flash and a beep at the same instants, a running clock
// and a picture counter. The clip ingest plays it, and tests and benchmarks
// publish it.
//
// It knows its own two files (an Annex-B byte stream with access unit delimiters,
// an Ogg of Opus packets) and time. It does not know who plays it, and nothing
// paces it: see [Player].
package clip

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/opus"
)

// What is to be seen and heard. The flash and the beep begin at FlashOffset +
// n*FlashEvery for every n and last FlashFor; each instant is the PTS of a picture
// and, to the sample, that of an Opus packet whose decoder runs without skipping.
const (
	Duration    = 10 * time.Second
	FlashOffset = 500 * time.Millisecond
	FlashEvery  = time.Second
	FlashFor    = 100 * time.Millisecond

	Width         = 640
	Height        = 360
	FrameRate     = 30
	KeyframeEvery = time.Second

	BeepLeftHz  = 1000
	BeepRightHz = 1500

	VideoTrack media.TrackID = 1
	AudioTrack media.TrackID = 2
)

// OpusPacketDuration is how long each packet of the audio track plays.
const OpusPacketDuration = 20 * time.Millisecond

const (
	pictures = int(Duration * FrameRate / time.Second)
	packets  = int(Duration / OpusPacketDuration)
)

// FlashArea is where the picture flashes from black to white.
func FlashArea() image.Rectangle { return image.Rect(464, 184, 464+160, 184+160) }

//go:embed clip.h264
var videoFile []byte

//go:embed clip.opus
var audioFile []byte

// A Clip is the test card. It never changes: any number of players share it.
type Clip struct {
	// Tracks describes the video track, then the audio track.
	Tracks []media.Track
	// Video holds one picture each, Audio one packet each, in normal form.
	Video, Audio []Unit
	// SPS and PPS are those of every picture, for transports that send them in band.
	SPS, PPS []byte
}

// A Unit is one access unit of the clip without its time.
type Unit struct {
	Payload      []byte
	RandomAccess bool
}

// Load parses the embedded test card. It takes about a millisecond.
func Load() (*Clip, error) {
	c := &Clip{}
	video, err := c.loadVideo(videoFile)
	if err != nil {
		return nil, fmt.Errorf("loading the clip's video: %w", err)
	}
	audio, err := c.loadAudio(audioFile)
	if err != nil {
		return nil, fmt.Errorf("loading the clip's audio: %w", err)
	}
	c.Tracks = []media.Track{video, audio}
	return c, nil
}

func (c *Clip) loadVideo(stream []byte) (media.Track, error) {
	delimiter := []byte{0, 0, 0, 1, byte(h264.TypeAUD)}
	var nalus [][]byte
	var picture h264.Picture
	var sets h264.ParameterSets
	for i, b := range bytes.Split(stream, delimiter)[1:] {
		_, b, _ = bytes.Cut(b, []byte{0, 0}) // the rest of the delimiter
		b = append([]byte{0, 0}, b...)
		var err error
		if nalus, err = h264.SplitAnnexB(nalus[:0], b); err != nil {
			return media.Track{}, fmt.Errorf("picture %d: %w", i, err)
		}
		if err := picture.Normalize(nalus); err != nil {
			return media.Track{}, fmt.Errorf("picture %d: %w", i, err)
		}
		if _, err := sets.Update(picture.SPS, picture.PPS); err != nil {
			return media.Track{}, fmt.Errorf("picture %d: %w", i, err)
		}
		c.Video = append(c.Video, Unit{
			Payload:      h264.AppendLengthPrefixed(nil, picture.NALUs...),
			RandomAccess: picture.RandomAccess,
		})
	}
	if len(c.Video) != pictures {
		return media.Track{}, fmt.Errorf("%d pictures, want %d", len(c.Video), pictures)
	}
	config, ok := sets.Config()
	if !ok || len(config.SPS) != 1 || len(config.PPS) != 1 {
		return media.Track{}, errors.New("want one SPS and one PPS")
	}
	c.SPS, c.PPS = config.SPS[0], config.PPS[0]
	avcC, err := config.Marshal()
	if err != nil {
		return media.Track{}, err
	}
	return media.Track{
		ID: VideoTrack, Codec: media.H264, DecoderConfig: avcC,
		Width: Width, Height: Height, FrameRate: FrameRate,
		BitrateBitsPerSecond: 8 * len(stream) / int(Duration/time.Second),
	}, nil
}

func (c *Clip) loadAudio(file []byte) (media.Track, error) {
	const headers = 2 // OpusHead and OpusTags
	all, err := oggPackets(file, headers+packets)
	if err != nil {
		return media.Track{}, err
	}
	head, err := opus.ParseHead(all[0])
	if err != nil {
		return media.Track{}, err
	}
	head.PreSkip = 0 // the sound was cut by as much when it was coded
	config, err := head.Marshal()
	if err != nil {
		return media.Track{}, err
	}
	size := 0
	for i, p := range all[headers:] {
		if d, err := opus.PacketDuration(p); err != nil || d != OpusPacketDuration {
			return media.Track{}, fmt.Errorf("packet %d lasts %v: %w", i, d, err)
		}
		c.Audio = append(c.Audio, Unit{Payload: p, RandomAccess: true})
		size += len(p)
	}
	return media.Track{
		ID: AudioTrack, Codec: media.Opus, DecoderConfig: config,
		SampleRateHz: opus.SampleRateHz, Channels: head.Channels,
		BitrateBitsPerSecond: 8 * size / int(Duration/time.Second),
	}, nil
}

// oggPackets returns the first n packets of an Ogg file with one stream (RFC
// 3533). It trusts the file: checksums and page numbers go unread.
func oggPackets(b []byte, n int) ([][]byte, error) {
	const header, segmentsAt = 27, 26
	var list [][]byte
	var packet []byte
	for len(b) >= header && binary.BigEndian.Uint32(b) == 0x4f676753 { // OggS
		segments := int(b[segmentsAt])
		if len(b) < header+segments {
			break
		}
		lacing, body := b[header:header+segments], b[header+segments:]
		for _, size := range lacing {
			if int(size) > len(body) {
				return nil, errors.New("file ends within an Ogg page")
			}
			packet = append(packet, body[:size]...)
			body = body[size:]
			if size < 255 { // the packet ends here
				if list = append(list, packet); len(list) == n {
					return list, nil
				}
				packet = nil
			}
		}
		b = body
	}
	return nil, fmt.Errorf("%d Ogg packets, want %d", len(list), n)
}

// Units returns one round of a track, with times from 0; played again, everything
// comes [Duration] later. The caller owns the units; their payloads are shared.
func (c *Clip) Units(track media.TrackID) []*media.AccessUnit {
	var units []*media.AccessUnit
	for p := c.NewPlayer(); p.video < len(c.Video) || p.audio < len(c.Audio); {
		if u := p.Next(); u.Track == track {
			units = append(units, u)
		}
	}
	return units
}

// A Player hands out the units of a clip in the order of their time, again and
// again. Times are computed from the number of the unit, so that picture and
// sound stay together for as long as it plays. Not safe for concurrent use.
type Player struct {
	clip         *Clip
	video, audio int // how many were handed out
}

// NewPlayer returns a player at the beginning of the clip.
func (c *Clip) NewPlayer() *Player { return &Player{clip: c} }

// Next returns the next unit, video before audio at the same instant. The first
// one of each track has PTS 0. The caller owns the unit; its payload is shared.
func (p *Player) Next() *media.AccessUnit {
	video, audio := videoTime(p.video), audioTime(p.audio)
	if video <= audio {
		src := p.clip.Video[p.video%len(p.clip.Video)]
		unit := &media.AccessUnit{
			Track: VideoTrack, Seq: uint32(p.video), PTS: video, DTS: video, Duration: videoTime(p.video+1) - video,
			RandomAccess: src.RandomAccess, Payload: src.Payload,
		}
		p.video++
		return unit
	}
	src := p.clip.Audio[p.audio%len(p.clip.Audio)]
	unit := &media.AccessUnit{
		Track: AudioTrack, Seq: uint32(p.audio), PTS: audio, DTS: audio, Duration: OpusPacketDuration,
		RandomAccess: src.RandomAccess, Payload: src.Payload,
	}
	p.audio++
	return unit
}

func videoTime(n int) time.Duration {
	return time.Duration(n/FrameRate)*time.Second + time.Duration(n%FrameRate)*time.Second/FrameRate
}

func audioTime(n int) time.Duration { return time.Duration(n) * OpusPacketDuration }
