package aaclc

// Scalefactor bands: ISO/IEC 14496-3:2009, subpart 4, clause 4.5.4, Tables 4.129
// to 4.140. The spectrum is coded in bands that widen with frequency, somewhat
// as the critical bands of hearing do; all lines of a band share one
// scalefactor, that is one step size.

// Lines of a long and of a short window; a frame has 1024 lines either way.
const (
	frameLines  = 1024
	shortLines  = 128
	shortCount  = frameLines / shortLines
	maxBands    = 120 // 8 groups of 15 short bands
	maxSfbLong  = 51
	maxSfbShort = 15
)

// A rateTable is what the standard says about one family of sampling rates.
type rateTable struct {
	long, short       []int // first line of each band, and one past the last
	tnsLong, tnsShort int   // Table 4.151: bands that TNS may cover, Main and LC
}

var rate48 = rateTable{
	long: []int{0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 88, 96, 108, 120, 132, 144, 160, 176, 196,
		216, 240, 264, 292, 320, 352, 384, 416, 448, 480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800, 832, 864, 896,
		928, 1024},
	short:   []int{0, 4, 8, 12, 16, 20, 28, 36, 44, 56, 68, 80, 96, 112, 128},
	tnsLong: 40, tnsShort: 14,
}

var rate44 = rateTable{long: rate48.long, short: rate48.short, tnsLong: 42, tnsShort: 14}

var rate32 = rateTable{
	long: []int{0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 88, 96, 108, 120, 132, 144, 160, 176, 196,
		216, 240, 264, 292, 320, 352, 384, 416, 448, 480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800, 832, 864, 896,
		928, 960, 992, 1024},
	short:   rate48.short,
	tnsLong: 51, tnsShort: 14,
}

var rate24 = rateTable{
	long: []int{0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 52, 60, 68, 76, 84, 92, 100, 108, 116, 124, 136, 148, 160,
		172, 188, 204, 220, 240, 260, 284, 308, 336, 364, 396, 432, 468, 508, 552, 600, 652, 704, 768, 832, 896, 960, 1024},
	short:   []int{0, 4, 8, 12, 16, 20, 24, 28, 36, 44, 52, 64, 76, 92, 108, 128},
	tnsLong: 46, tnsShort: 14,
}

var rate16 = rateTable{
	long: []int{0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 100, 112, 124, 136, 148, 160, 172, 184, 196, 212, 228, 244,
		260, 280, 300, 320, 344, 368, 396, 424, 456, 492, 532, 572, 616, 664, 716, 772, 832, 896, 960, 1024},
	short:   []int{0, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 60, 72, 88, 108, 128},
	tnsLong: 42, tnsShort: 14,
}

// rateOf returns the table and the sampling frequency index (Table 1.18) of a
// rate in Hz, and whether this encoder knows it.
func rateOf(hz int) (t *rateTable, index int, ok bool) {
	switch hz {
	case 48000:
		return &rate48, 3, true
	case 44100:
		return &rate44, 4, true
	case 32000:
		return &rate32, 5, true
	case 24000:
		return &rate24, 6, true
	case 22050:
		return &rate24, 7, true
	case 16000:
		return &rate16, 8, true
	}
	return nil, 0, false
}
