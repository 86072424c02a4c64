// Package elementary turns access units into elementary streams, which players and
// tools read from a file or a pipe: H.264 as Annex-B, AAC as ADTS, AV1 as OBUs. It knows the formats
// of units and of streams, and nothing of files.
package elementary

import (
	"fmt"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/aac"
	"github.com/headgate/gateway/sdk/media/h264"
)

// Append appends the unit of track t to dst. A picture where a player may begin comes
// with the parameter sets, as ITU-T H.264 Annex B and ISO/IEC 13818-7 (ADTS) have it; one
// of AV1 with a temporal delimiter before it, as section 5 of its specification does.
// The unit is not changed. Other codecs are an error.
func Append(dst []byte, t media.Track, u *media.AccessUnit) ([]byte, error) {
	switch t.Codec {
	case media.H264:
		return annexB(dst, t, u)
	case media.AAC:
		config, err := aac.ParseConfig(t.DecoderConfig)
		if err != nil {
			return dst, err
		}
		if dst, err = aac.AppendADTSHeader(dst, config, len(u.Payload)); err != nil {
			return dst, err
		}
		return append(dst, u.Payload...), nil
	case media.AV1:
		return append(append(dst, temporalDelimiter...), u.Payload...), nil
	default:
		return dst, fmt.Errorf("no elementary stream of %s is known", t.Codec)
	}
}

// temporalDelimiter is the whole OBU, with its size.
const temporalDelimiter = "\x12\x00"

func annexB(dst []byte, t media.Track, u *media.AccessUnit) ([]byte, error) {
	nalus, err := h264.SplitLengthPrefixed(nil, u.Payload)
	if err != nil {
		return dst, err
	}
	if u.RandomAccess {
		config, err := h264.ParseDecoderConfig(t.DecoderConfig)
		if err != nil {
			return dst, err
		}
		dst = h264.AppendAnnexB(h264.AppendAnnexB(dst, config.SPS...), config.PPS...)
	}
	return h264.AppendAnnexB(dst, nalus...), nil
}
