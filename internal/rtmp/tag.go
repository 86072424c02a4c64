package rtmp

import (
	"strconv"

	"github.com/bluenviron/gortmplib/pkg/amf0"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/mpegaudio"
)

// Packet types of Enhanced RTMP that stand for others: a message with the number
// of a track in it, and the marker of extended audio.
const (
	videoMultitrack = 6
	audioMultitrack = 5
	soundExHeader   = 9
)

// FourCC returns what Enhanced RTMP calls a codec; empty if it has no name for it
// that we send.
func FourCC(c media.Codec) string {
	switch c {
	case media.H264:
		return "avc1"
	case media.H265:
		return "hvc1"
	case media.AV1:
		return "av01"
	case media.VP9:
		return "vp09"
	case media.AAC:
		return "mp4a"
	case media.Opus:
		return "Opus"
	case media.MP3:
		return ".mp3"
	default:
		return ""
	}
}

// Legacy reports whether every RTMP server knows c: H.264 and AAC, which go out in
// the old form wherever they are the only ones of their kind.
func Legacy(c media.Codec) bool { return c == media.H264 || c == media.AAC }

// VideoTag returns a picture of track: payload is in the normal form of
// [media.AccessUnit], and is not copied. compositionMS is how much later than
// decoded it is shown; codecs without reordering have none.
func VideoTag(c media.Codec, track uint8, payload []byte, keyframe bool, compositionMS int32) *Tag {
	t := &Tag{typ: TypeVideo, payload: payload}
	frame := byte(2)
	if keyframe {
		frame = 1
	}
	composition := []byte{byte(compositionMS >> 16), byte(compositionMS >> 8), byte(compositionMS)}
	switch {
	case c == media.H264 && track == 0:
		t.put(frame<<4|flvAVC, packetCodedFrames)
		t.put(composition...)
	case (c == media.H264 || c == media.H265) && compositionMS != 0:
		t.video(frame, packetCodedFrames, c, track)
		t.put(composition...)
	case c == media.H264 || c == media.H265:
		t.video(frame, packetFramesX, c, track)
	default:
		t.video(frame, packetCodedFrames, c, track)
	}
	return t
}

// VideoHeaderTag returns the sequence header of track: config is avcC, hvcC, av1C,
// or for VP9 what [VP9Config] makes.
func VideoHeaderTag(c media.Codec, track uint8, config []byte) *Tag {
	t := &Tag{typ: TypeVideo, payload: config}
	if c == media.H264 && track == 0 {
		t.put(1<<4|flvAVC, packetSequenceStart, 0, 0, 0)
	} else {
		t.video(1, packetSequenceStart, c, track)
	}
	return t
}

// AudioTag returns a frame of sound of track, which is not copied. MP3 goes out in the
// old form, which servers knew long before the other one.
func AudioTag(c media.Codec, track uint8, payload []byte) *Tag {
	t := &Tag{typ: TypeAudio, payload: payload}
	if c == media.MP3 && track == 0 {
		t.put(mp3Sound(payload))
		return t
	}
	t.audio(packetCodedFrames, c, track)
	return t
}

// mp3Sound is what FLV says of a frame of MP3: of the sample rates it knows 44.1 kHz, and
// that for the others, too.
func mp3Sound(frame []byte) byte {
	const mp3, hz44100, bits16, stereo = 2 << 4, 3 << 2, 1 << 1, 1
	if h, err := mpegaudio.Parse(frame); err == nil && h.Channels() == 1 {
		return mp3 | hz44100 | bits16
	}
	return mp3 | hz44100 | bits16 | stereo
}

// AudioHeaderTag returns the sequence header of track: an AudioSpecificConfig or an
// OpusHead.
func AudioHeaderTag(c media.Codec, track uint8, config []byte) *Tag {
	t := &Tag{typ: TypeAudio, payload: config}
	t.audio(packetSequenceStart, c, track)
	return t
}

func (t *Tag) put(b ...byte) { t.headLen += uint8(copy(t.head[t.headLen:], b)) }

func (t *Tag) video(frame, packet byte, c media.Codec, track uint8) {
	first := 0x80 | frame<<4
	if track == 0 {
		t.put(first | packet)
		t.put([]byte(FourCC(c))...)
		return
	}
	t.put(first|videoMultitrack, packet)
	t.put([]byte(FourCC(c))...)
	t.put(track)
}

// audio begins a message of sound. AAC in the old form says 44.1 kHz stereo whatever
// the stream is, as FLV wants it.
func (t *Tag) audio(packet byte, c media.Codec, track uint8) {
	switch {
	case c == media.AAC && track == 0:
		t.put(0xAF, packet)
	case track == 0:
		t.put(soundExHeader<<4 | packet)
		t.put([]byte(FourCC(c))...)
	default:
		t.put(soundExHeader<<4|audioMultitrack, packet)
		t.put([]byte(FourCC(c))...)
		t.put(track)
	}
}

// H264Tag returns a picture of H.264 in the old form; see [VideoTag].
func H264Tag(payload []byte, keyframe bool, compositionMS int32) *Tag {
	return VideoTag(media.H264, 0, payload, keyframe, compositionMS)
}

// H264HeaderTag returns the sequence header that holds avcC.
func H264HeaderTag(avcC []byte) *Tag { return VideoHeaderTag(media.H264, 0, avcC) }

// AACTag returns one raw AAC frame in the old form; see [AudioTag].
func AACTag(payload []byte) *Tag { return AudioTag(media.AAC, 0, payload) }

// AACHeaderTag returns the sequence header that holds an AudioSpecificConfig.
func AACHeaderTag(config []byte) *Tag { return AudioHeaderTag(media.AAC, 0, config) }

// Metadata is what onMetaData tells.
type Metadata struct {
	Video   *media.Track  // nil if there is none
	Audio   []media.Track // the first is what servers that know one get
	Encoder string
}

// Tag returns the data message that carries m.
func (m Metadata) Tag() *Tag {
	var a amf0.ECMAArray
	add := func(key string, v any) { a = append(a, amf0.ObjectEntry{Key: key, Value: v}) }
	number := func(key string, v float64) {
		if v > 0 {
			add(key, v)
		}
	}
	add("duration", 0.0)
	add("fileSize", 0.0)
	if v := m.Video; v != nil {
		number("width", float64(v.Width))
		number("height", float64(v.Height))
		number("framerate", v.FrameRate)
		add("videocodecid", codecID(v.Codec))
		add("videodatarate", float64(v.BitrateBitsPerSecond)/1000)
	}
	if len(m.Audio) > 0 {
		t := m.Audio[0]
		add("audiocodecid", codecID(t.Codec))
		number("audiosamplerate", float64(t.SampleRateHz))
		add("audiosamplesize", 16.0)
		number("audiochannels", float64(t.Channels))
		add("stereo", t.Channels != 1)
		add("audiodatarate", float64(t.BitrateBitsPerSecond)/1000)
	}
	if len(m.Audio) > 1 {
		var tracks amf0.Object
		for i, t := range m.Audio[1:] {
			o := amf0.Object{{Key: "audiocodecid", Value: codecID(t.Codec)}}
			if t.SampleRateHz > 0 {
				o = append(o, amf0.ObjectEntry{Key: "samplerate", Value: float64(t.SampleRateHz)})
			}
			if t.Channels > 0 {
				o = append(o, amf0.ObjectEntry{Key: "channels", Value: float64(t.Channels)})
			}
			if t.Language != "" {
				o = append(o, amf0.ObjectEntry{Key: "language", Value: t.Language})
			}
			tracks = append(tracks, amf0.ObjectEntry{Key: strconv.Itoa(i + 1), Value: o})
		}
		add("audioTrackIdInfoMap", tracks)
	}
	add("encoder", m.Encoder)
	return &Tag{typ: TypeData, payload: marshalAMF("@setDataFrame", "onMetaData", a)}
}

// ReceivedMetadata is what onMetaData says that the media do not say themselves.
// Zero values are unknown.
type ReceivedMetadata struct {
	FrameRate                              float64
	VideoBitsPerSecond, AudioBitsPerSecond int
	Encoder                                string // cleaned for logs
}

// ReadMetadata reads a data message; ok says that it is onMetaData.
func ReadMetadata(m Message) (d ReceivedMetadata, ok bool) {
	values, err := parseAMF(m.Type, m.Body)
	if err != nil {
		return d, false
	}
	for _, v := range values {
		o, ok := object(v)
		if !ok {
			continue
		}
		number := func(key string, most float64) float64 {
			if v, ok := o.GetFloat64(key); ok && v > 0 && v <= most {
				return v
			}
			return 0
		}
		const mostKbps = 1_000_000
		d.FrameRate = number("framerate", 1000)
		d.VideoBitsPerSecond = int(1000 * number("videodatarate", mostKbps))
		d.AudioBitsPerSecond = int(1000 * number("audiodatarate", mostKbps))
		if s, ok := o.GetString("encoder"); ok {
			d.Encoder = printable(s)
		}
		return d, true
	}
	return d, false
}

// codecID is how onMetaData numbers a codec: as FLV does, or by its FourCC.
func codecID(c media.Codec) float64 {
	switch c {
	case media.H264:
		return flvAVC
	case media.AAC:
		return flvAAC
	}
	n := uint32(0)
	for _, b := range []byte(FourCC(c)) {
		n = n<<8 | uint32(b)
	}
	return float64(n)
}
