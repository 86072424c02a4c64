// Package mpegts puts access units into an MPEG transport stream and takes them
// out again: ISO/IEC 13818-1, with the ways of H.264, H.265, AAC and Opus in it, and
// MPEG audio to take out.
//
// It knows packets, tables, PES and the program clock. It knows nothing of how the
// packets travel, and nothing paces it: a [Muxer] makes packets of a unit, and
// whoever sends them asks a [Clock] what the program clock is at that moment.
package mpegts

import "time"

// Sizes and rates of a transport stream.
const (
	PacketBytes = 188
	// TimestampHz is the rate of PTS and DTS, ClockHz that of the PCR.
	TimestampHz = 90_000
	ClockHz     = 27_000_000
)

const (
	syncByte = 0x47
	nullPID  = 0x1fff
	patPID   = 0

	timestampMask = 1<<33 - 1
)

// Stream types of the program map table: ISO/IEC 13818-1, table 2-34, and SCTE 35.
const (
	typeMPEG1Audio = 0x03
	typeMPEG2Audio = 0x04
	typePrivate    = 0x06
	typeADTS       = 0x0f
	typeLATM       = 0x11
	typeMetadata   = 0x15
	typeH264       = 0x1b
	typeH265       = 0x24
	typeSCTE35     = 0x86
)

// Ticks converts a time to units of [TimestampHz], rounded to the nearest.
func Ticks(d time.Duration) int64 {
	// 90 kHz is 9 ticks per 100 us: no overflow within a century.
	const unit = int64(100 * time.Microsecond)
	n := int64(d)
	whole, rest := n/unit, n%unit
	half := unit / 2
	if rest < 0 {
		half = -half
	}
	return whole*9 + (rest*9+half)/unit
}
