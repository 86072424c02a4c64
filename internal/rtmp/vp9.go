package rtmp

import "errors"

// VP9Config makes a vpcC box's content (version 1 of VPCodecConfigurationBox, "VP
// Codec ISO Media File Format Binding" section 2.2) of a keyframe: what a sequence
// header of VP9 holds, which the normal form has no config for. The level is left
// at 0, undefined. Enhanced RTMP calls for the record alone; MediaMTX, the one
// receiver known, reads it with the version and flags of the box before it.
func VP9Config(keyframe []byte) ([]byte, error) {
	r := &bitReader{b: keyframe}
	marker := r.bits(2)
	profile := r.bits(1) | r.bits(1)<<1
	if profile == 3 {
		r.bits(1) // reserved
	}
	existing, inter := r.bits(1), r.bits(1)
	r.bits(2) // show_frame, error_resilient_mode
	if marker != 2 || existing != 0 || inter != 0 || r.bits(24) != 0x498342 {
		return nil, errors.New("not a keyframe of VP9")
	}
	depth := uint32(8)
	if profile >= 2 {
		depth = 10 + 2*r.bits(1)
	}
	space := r.bits(3)
	const rgb = 7
	fullRange, subsampling := uint32(1), uint32(3) // 4:4:4
	if space != rgb {
		fullRange = r.bits(1)
		subsampling = 1 // 4:2:0 colocated
		if profile == 1 || profile == 3 {
			switch x, y := r.bits(1), r.bits(1); {
			case x == 1 && y == 0:
				subsampling = 2
			case x == 0 && y == 0:
				subsampling = 3
			}
		}
	}
	if r.short {
		return nil, errors.New("keyframe of VP9 is too short")
	}
	primaries, transfer, matrix := vp9Colours(space)
	return []byte{
		1, 0, 0, 0, byte(profile), 0, byte(depth<<4 | subsampling<<1 | fullRange),
		primaries, transfer, matrix, 0, 0,
	}, nil
}

// vp9Colours returns the code points of ISO 23001-8 for a color_space of VP9.
func vp9Colours(space uint32) (primaries, transfer, matrix byte) {
	switch space {
	case 1:
		return 6, 6, 6 // BT.601
	case 2:
		return 1, 1, 1 // BT.709
	case 3:
		return 6, 6, 6 // SMPTE 170M
	case 4:
		return 7, 7, 7 // SMPTE 240M
	case 5:
		return 9, 14, 9 // BT.2020
	case 7:
		return 1, 13, 0 // sRGB
	default:
		return 2, 2, 2 // unknown
	}
}

// A bitReader reads bits, the highest of each byte first. Behind the end it reads
// zeros and says so.
type bitReader struct {
	b     []byte
	at    int
	short bool
}

func (r *bitReader) bits(n int) (v uint32) {
	for range n {
		i := r.at >> 3
		v <<= 1
		if i < len(r.b) {
			v |= uint32(r.b[i]>>(7-r.at&7)) & 1
		} else {
			r.short = true
		}
		r.at++
	}
	return v
}
