package rtmp

import (
	"slices"

	"github.com/bluenviron/gortmplib/pkg/amf0"

	"github.com/headgate/gateway/sdk/media"
)

// Bits of capsEx: capsReconnect says that we understand
// [ReconnectRequest], capsMultitrack that we send several tracks of a kind.
const (
	capsReconnect  = 1
	capsMultitrack = 2
)

// Bits of [Capabilities.Flags] that a server announces: it takes several tracks of a
// kind, modified messages, and timestamps of nanoseconds in them.
const (
	CapsMultitrack    = capsMultitrack
	CapsModEx         = 4
	CapsTimestampNano = 8
)

// Capabilities are what a server says of itself in its answer to connect. A
// server of before Enhanced RTMP says nothing.
type Capabilities struct {
	// Enhanced says that it announced any of the below.
	Enhanced bool
	// VideoFourCCs and AudioFourCCs are the codecs it takes, as in hvc1 and Opus;
	// "*" stands for every codec.
	VideoFourCCs, AudioFourCCs []string
	// Flags are the bits of capsEx.
	Flags uint32
}

// Takes reports whether the server announced c.
func (c Capabilities) Takes(codec media.Codec) bool {
	list := c.VideoFourCCs
	if codec.Kind() == media.Audio {
		list = c.AudioFourCCs
	}
	name := FourCC(codec)
	return name != "" && (slices.Contains(list, name) || slices.Contains(list, "*"))
}

// Multitrack reports whether the server announced that it takes several tracks of a
// kind.
func (c Capabilities) Multitrack() bool { return c.Flags&capsMultitrack != 0 }

// parseCapabilities reads what the answer to connect announces, in whichever of
// its objects.
func parseCapabilities(reply command) Capabilities {
	var caps Capabilities
	for _, a := range reply.args {
		o, ok := object(a)
		if !ok {
			continue
		}
		if v, ok := o.Get("fourCcList"); ok {
			if list, ok := v.(amf0.StrictArray); ok {
				caps.Enhanced = true
				for _, e := range list {
					if s, ok := e.(string); ok {
						caps.add(s)
					}
				}
			}
		}
		for _, key := range []string{"videoFourCcInfoMap", "audioFourCcInfoMap"} {
			v, _ := o.Get(key)
			entries, ok := object(v)
			if !ok {
				continue
			}
			caps.Enhanced = true
			for _, e := range entries {
				if key == "videoFourCcInfoMap" {
					caps.VideoFourCCs = appendNew(caps.VideoFourCCs, e.Key)
				} else {
					caps.AudioFourCCs = appendNew(caps.AudioFourCCs, e.Key)
				}
			}
		}
		if f, ok := o.GetFloat64("capsEx"); ok && f >= 0 && f < 1<<32 {
			caps.Enhanced = true
			caps.Flags = uint32(f)
		}
	}
	return caps
}

// add sorts an entry of a fourCcList, which mixes both kinds.
func (c *Capabilities) add(fourCC string) {
	switch fourCC {
	case "*":
		c.VideoFourCCs = appendNew(c.VideoFourCCs, fourCC)
		c.AudioFourCCs = appendNew(c.AudioFourCCs, fourCC)
	case "ac-3", "ec-3", "Opus", ".mp3", "fLaC", "mp4a":
		c.AudioFourCCs = appendNew(c.AudioFourCCs, fourCC)
	default:
		c.VideoFourCCs = appendNew(c.VideoFourCCs, fourCC)
	}
}

func appendNew(list []string, s string) []string {
	if len(s) > 8 || len(list) >= 32 {
		return list
	}
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

// properties are those of the answer to connect that announce c.
func (c Capabilities) properties() amf0.Object {
	info := func(list []string) (o amf0.Object) {
		for _, s := range list {
			o = append(o, amf0.ObjectEntry{Key: s, Value: 1.0})
		}
		return o
	}
	var list amf0.StrictArray
	for _, s := range append(slices.Clone(c.VideoFourCCs), c.AudioFourCCs...) {
		list = append(list, s)
	}
	return amf0.Object{
		{Key: "fourCcList", Value: list},
		{Key: "videoFourCcInfoMap", Value: info(c.VideoFourCCs)},
		{Key: "audioFourCcInfoMap", Value: info(c.AudioFourCCs)},
		{Key: "capsEx", Value: float64(c.Flags)},
	}
}
