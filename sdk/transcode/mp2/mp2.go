// Package mp2 decodes MPEG audio of layer II: what transport streams of broadcasters
// carry, and what ffmpeg makes when nobody names a codec. There is no well-kept library
// in Go for it, and it is short.
//
// ISO/IEC 11172-3 (MPEG-1) is where all of it stands, and 13818-3 for the lower sample
// rates; tables are named by their numbers there.
package mp2

import (
	"errors"
	"math"

	"github.com/headgate/gateway/sdk/media/mpegaudio"
)

// Samples of each channel that a frame codes.
const Samples = mpegaudio.Samples

const (
	subbands = 32
	parts    = 3 // of a frame, each with scale factors of its own
)

// A Decoder decodes the frames of one track, one after the other. The zero value is
// ready. Not safe for concurrent use.
type Decoder struct {
	synthesis [2]synthesis
	out       [2][Samples]float32
}

// Errors of [Decoder.Decode].
var (
	errLayer = errors.New("mp2: not a frame of layer II")
	errShort = errors.New("mp2: the frame is cut short")
)

// Decode decodes a frame and returns the samples of each channel, from -1 to 1. They are
// valid until the next call. After an error the decoder goes on with the next frame.
func (d *Decoder) Decode(frame []byte) (channels [][Samples]float32, err error) {
	h, err := mpegaudio.Parse(frame)
	if err != nil {
		return nil, err
	}
	if h.Layer != 2 {
		return nil, errLayer
	}
	if len(frame) < h.Bytes {
		return nil, errShort
	}
	b := bits{b: frame[mpegaudio.HeaderBytes:h.Bytes]}
	if h.Protected {
		b.take(16)
	}
	var f content
	if err := f.read(&b, h); err != nil {
		return nil, err
	}
	n := h.Channels()
	for ch := range n {
		for i := range parts * 12 {
			d.synthesis[ch].push(&f.samples[ch][i], d.out[ch][i*subbands:(i+1)*subbands])
		}
	}
	return d.out[:n], nil
}

// Reset forgets what was decoded.
func (d *Decoder) Reset() { *d = Decoder{} }

// content is what a frame codes: samples of subbands.
type content struct {
	classes [2][subbands]*class
	scales  [2][subbands][parts]float32
	samples [2][parts * 12][subbands]float32
}

// read reads what follows the header (2.4.1.6).
func (f *content) read(b *bits, h mpegaudio.Header) error {
	rows := allocation(h)
	n := h.Channels()
	bound := len(rows) // of the subbands from here on one set of samples is for both channels
	if h.Mode == mpegaudio.JointStereo {
		bound = min(bound, 4*(h.Extension+1))
	}
	each := func(visit func(ch, sb int)) {
		for sb := range rows {
			for ch := range n {
				visit(ch, sb)
			}
		}
	}
	each(func(ch, sb int) {
		if ch > 0 && sb >= bound {
			f.classes[ch][sb] = f.classes[0][sb]
			return
		}
		f.classes[ch][sb] = rows[sb].class(b)
	})
	var sharing [2][subbands]int
	each(func(ch, sb int) {
		if f.classes[ch][sb] != nil {
			sharing[ch][sb] = b.take(2)
		}
	})
	each(func(ch, sb int) {
		if f.classes[ch][sb] != nil {
			f.scales[ch][sb] = scaleFactors(b, sharing[ch][sb])
		}
	})
	for granule := range parts * 4 {
		part := granule / 4
		each(func(ch, sb int) {
			c := f.classes[ch][sb]
			if c == nil || ch > 0 && sb >= bound {
				return
			}
			values := c.read(b)
			for to := ch; to < n && (to == ch || sb >= bound); to++ {
				for i, v := range values {
					f.samples[to][granule*3+i][sb] = v * f.scales[to][sb][part]
				}
			}
		})
	}
	if b.over {
		return errShort
	}
	return nil
}

// scaleFactors reads those of the three parts, of which some are the same (2.4.2.5).
func scaleFactors(b *bits, sharing int) (s [parts]float32) {
	next := func() float32 { return scale(b.take(6)) }
	switch sharing {
	case 0:
		s[0], s[1], s[2] = next(), next(), next()
	case 1:
		s[0] = next()
		s[1], s[2] = s[0], next()
	case 2:
		s[0] = next()
		s[1], s[2] = s[0], s[0]
	default:
		s[0], s[1] = next(), next()
		s[2] = s[1]
	}
	return s
}

// scale is the factor of an index (table B.1).
func scale(index int) float32 { return float32(math.Exp2(1 - float64(index)/3)) }

// bits reads from the most significant one on; behind the end it reads zeros and says so.
type bits struct {
	b    []byte
	at   int
	over bool
}

func (r *bits) take(n int) (v int) {
	if r.at+n > 8*len(r.b) {
		r.over = true
		r.at = 8 * len(r.b)
		return 0
	}
	for n > 0 {
		left := 8 - r.at%8
		m := min(n, left)
		v = v<<m | int(r.b[r.at/8])>>(left-m)&(1<<m-1)
		r.at += m
		n -= m
	}
	return v
}

// A class is a way to quantize a sample (tables B.4).
type class struct {
	levels  int
	bits    int // of a sample, or of three in one where they are grouped
	grouped bool
}

// read reads three samples of a subband, from -1 to 1 (2.4.3.3.4).
func (c *class) read(b *bits) (v [3]float32) {
	var coded [3]int
	if c.grouped {
		all := b.take(c.bits)
		for i := range coded {
			coded[i] = all % c.levels
			all /= c.levels
		}
	} else {
		for i := range coded {
			coded[i] = b.take(c.bits)
		}
	}
	for i, x := range coded {
		v[i] = float32(2*x-c.levels+1) / float32(c.levels)
	}
	return v
}

// classes are all there are. Those of 3, 5 and 9 levels are grouped.
var classes = [...]class{
	{3, 5, true}, {5, 7, true}, {7, 3, false}, {9, 10, true}, {15, 4, false}, {31, 5, false}, {63, 6, false}, {127, 7, false}, {255, 8, false},
	{511, 9, false}, {1023, 10, false}, {2047, 11, false}, {4095, 12, false}, {8191, 13, false}, {16383, 14, false}, {32767, 15, false}, {65535, 16, false},
}

// A row says how the class of a subband is coded: by so many bits, each value of which,
// but for 0, stands for one of the classes.
type row struct {
	bits   int
	choice *[15]int8
}

// class reads that of a subband; nil if nothing is sent of it.
func (r row) class(b *bits) *class {
	v := b.take(r.bits)
	if v == 0 {
		return nil
	}
	return &classes[r.choice[v-1]]
}

// What values stand for, by the tables B.2 and, the last one, by that of 13818-3.
var (
	fewest   = [15]int8{0, 1, 16}
	few      = [15]int8{0, 1, 2, 3, 4, 5, 16}
	coarse   = [15]int8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16}
	fine     = [15]int8{0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	lowRate  = [15]int8{0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	everyOne = [15]int8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}
)

// times is a row for some subbands.
type times struct {
	n int
	row
}

func rowsOf(groups ...times) (out []row) {
	for _, g := range groups {
		for range g.n {
			out = append(out, g.row)
		}
	}
	return out
}

// The tables of allocation. B.2a has 27 subbands of wide, B.2b 30, and B.2c 8 of narrow,
// B.2d 12.
var (
	wide   = rowsOf(times{3, row{4, &fine}}, times{8, row{4, &coarse}}, times{12, row{3, &few}}, times{7, row{2, &fewest}})
	narrow = rowsOf(times{2, row{4, &lowRate}}, times{10, row{3, &lowRate}})
	lsf    = rowsOf(times{4, row{4, &everyOne}}, times{7, row{3, &lowRate}}, times{19, row{2, &lowRate}})
)

// allocation is how the subbands of a frame are coded: by its bitrate for each channel
// and its sample rate (2.4.3.3.1).
func allocation(h mpegaudio.Header) []row {
	if h.LowRate {
		return lsf
	}
	switch each := h.BitrateBitsPerSecond / h.Channels(); {
	case each <= 48_000 && h.SampleRateHz == 32_000:
		return narrow[:12]
	case each <= 48_000:
		return narrow[:8]
	case each <= 80_000 || h.SampleRateHz == 48_000:
		return wide[:27]
	default:
		return wide[:30]
	}
}

// synthesis makes samples of one channel of those of its subbands (2.4.3.2.2).
type synthesis struct {
	v  [16][2 * subbands]float32 // the newest at head
	at int
}

// push takes a sample of each subband and fills out with as many of the channel.
func (s *synthesis) push(in *[subbands]float32, out []float32) {
	s.at = (s.at + len(s.v) - 1) % len(s.v)
	newest := &s.v[s.at]
	for i := range newest {
		var sum float32
		for k, x := range in {
			sum += x * cosines[i][k]
		}
		newest[i] = sum
	}
	for j := range out {
		var sum float32
		for i := range 8 {
			sum += s.v[(s.at+2*i)%len(s.v)][j]*window[64*i+j] + s.v[(s.at+2*i+1)%len(s.v)][subbands+j]*window[64*i+subbands+j]
		}
		out[j] = sum
	}
}

var (
	cosines = cosineTable()
	window  = windowTable()
)

func cosineTable() (t [2 * subbands][subbands]float32) {
	for i := range t {
		for k := range t[i] {
			t[i][k] = float32(math.Cos(float64((16+i)*(2*k+1)) * math.Pi / 64))
		}
	}
	return t
}

// windowTable is the window D (table B.3), whose second half is the first one backwards.
func windowTable() (t [512]float32) {
	for i, v := range halfWindow {
		t[i] = float32(v) / 65536
		if i > 0 && i < 256 {
			t[512-i] = -t[i]
			if i%64 == 0 {
				t[512-i] = t[i]
			}
		}
	}
	return t
}

// halfWindow is the first half of the window and its middle, in 1/65536.
var halfWindow = [257]int32{
	0, -1, -1, -1, -1, -1, -1, -2, -2, -2, -2, -3, -3, -4, -4, -5,
	-5, -6, -7, -7, -8, -9, -10, -11, -13, -14, -16, -17, -19, -21, -24, -26,
	-29, -31, -35, -38, -41, -45, -49, -53, -58, -63, -68, -73, -79, -85, -91, -97,
	-104, -111, -117, -125, -132, -139, -147, -154, -161, -169, -176, -183, -190, -196, -202, -208,
	213, 218, 222, 225, 227, 228, 228, 227, 224, 221, 215, 208, 200, 189, 177, 163,
	146, 127, 106, 83, 57, 29, -2, -36, -72, -111, -153, -197, -244, -294, -347, -401,
	-459, -519, -581, -645, -711, -779, -848, -919, -991, -1064, -1137, -1210, -1283, -1356, -1428, -1498,
	-1567, -1634, -1698, -1759, -1817, -1870, -1919, -1962, -2001, -2032, -2057, -2075, -2085, -2087, -2080, -2063,
	2037, 2000, 1952, 1893, 1822, 1739, 1644, 1535, 1414, 1280, 1131, 970, 794, 605, 402, 185,
	-45, -288, -545, -814, -1095, -1388, -1692, -2006, -2330, -2663, -3004, -3351, -3705, -4063, -4425, -4788,
	-5153, -5517, -5879, -6237, -6589, -6935, -7271, -7597, -7910, -8209, -8491, -8755, -8998, -9219, -9416, -9585,
	-9727, -9838, -9916, -9959, -9966, -9935, -9863, -9750, -9592, -9389, -9139, -8840, -8492, -8092, -7640, -7134,
	6574, 5959, 5288, 4561, 3776, 2935, 2037, 1082, 70, -998, -2122, -3300, -4533, -5818, -7154, -8540,
	-9975, -11455, -12980, -14548, -16155, -17799, -19478, -21189, -22929, -24694, -26482, -28289, -30112, -31947, -33791, -35640,
	-37489, -39336, -41176, -43006, -44821, -46617, -48390, -50137, -51853, -53534, -55178, -56778, -58333, -59838, -61289, -62684,
	-64019, -65290, -66494, -67629, -68692, -69679, -70590, -71420, -72169, -72835, -73415, -73908, -74313, -74630, -74856, -74992,
	75038,
}
