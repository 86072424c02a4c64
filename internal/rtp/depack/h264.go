package depack

import (
	"encoding/binary"
	"time"

	"github.com/headgate/gateway/internal/rtp/reorder"
	"github.com/headgate/gateway/sdk/media/h264"
)

// slabBytes is the size of the buffers in which payloads are assembled, one
// behind the other: there is one allocation for several pictures, and a picture
// is moved only when it does not fit into what is left of its slab. Most of what a
// picture costs is fresh memory: this is the size class of Go's that holds three pictures
// of 8 KB with the least left over. (32 KiB would be no class, but taken from the heap
// under its lock.) A picture that is larger has a slab of its own, which is gone with it.
const slabBytes = 27264

// An H264 assembles pictures from packets. After a loss it emits nothing until a
// random access point has come whole: what it emits always decodes. Not safe for
// concurrent use.
type H264 struct {
	emit func(Unit)

	// The picture being assembled.
	open        bool
	whole       bool // nothing of it is missing so far
	rtpTime     uint32
	first, last time.Time
	slab        []byte // payloads so far; the open picture begins at start
	start       int
	size        int   // of the picture before
	naluAt      []int // where in slab the NAL units of the open picture begin, behind their length
	fragment    bool  // the last of them is a FU-A that has not ended
	side        []byte
	sideEnd     []int // ends in side of the units that do not go into the payload: SPS, PPS

	// The stream.
	marked      bool // the picture before was whole, and a marker ended it
	markerLies  bool // it is set within pictures: only the time of the next one ends one
	begun       bool // the first picture was
	contiguous  bool // the next packet follows the end of a picture
	needKey     bool
	lost        bool // units are missing before the next one emitted
	emitted     bool
	sets        h264.ParameterSets
	spsPending  bool // the SPS changed since the last Config
	ppsPending  bool
	ready       bool // the sets make up a config
	picture     h264.Picture
	naluScratch [][]byte

	dropped uint64
}

// NewH264 returns an H264 that calls emit for each unit. nalus are parameter
// sets known beforehand, from the session description.
func NewH264(emit func(Unit), nalus ...[]byte) *H264 {
	d := &H264{emit: emit, needKey: true}
	_ = d.picture.Normalize(nalus)
	d.updateSets()
	return d
}

// NeedsKeyframe reports whether nothing is emitted until the next random access
// point.
func (d *H264) NeedsKeyframe() bool { return d.needKey }

// Dropped counts pictures that were incomplete, damaged or could not be decoded
// because of one that was.
func (d *H264) Dropped() uint64 { return d.dropped }

// Push takes the next packet. Its payload is not kept.
func (d *H264) Push(p reorder.Packet) {
	if p.AfterGap {
		if d.open {
			d.drop()
		}
		d.contiguous = false
		d.loss()
	}
	if len(p.Payload) == 0 {
		return // a probe or padding
	}
	if d.open && p.Time != d.rtpTime {
		d.finish()
	}
	if !d.open {
		if d.marked && p.Time == d.rtpTime && continuesPicture(p.Payload) {
			// Some cameras set the marker on each slice (RFC 6184, 5.1, wants the last).
			d.markerLies = true
			d.contiguous = false // the beginning is gone
		}
		d.begin(p)
	}
	d.last = p.Arrival
	if d.whole && !d.take(p.Payload) {
		d.whole = false
	}
	if p.Marker && !d.markerLies {
		whole := d.whole
		d.finish()
		d.marked = whole && d.picture.Coded
	}
}

func (d *H264) begin(p reorder.Packet) {
	d.open, d.marked = true, false
	d.whole = d.contiguous || beginsPicture(p.Payload, !d.begun)
	d.begun = true
	d.rtpTime, d.first = p.Time, p.Arrival
	if d.size <= slabBytes/2 && cap(d.slab)-len(d.slab) < d.size {
		d.slab = make([]byte, 0, slabBytes) // this one would have to be moved
	}
	d.start = len(d.slab)
	d.naluAt, d.side, d.sideEnd = d.naluAt[:0], d.side[:0], d.sideEnd[:0]
	d.fragment = false
}

// beginsPicture reports whether nothing of a picture can stand before payload: it
// begins with an access unit delimiter or an SPS. At the start of a session, where
// parameter sets may have been told beforehand, what can follow them will do.
func beginsPicture(payload []byte, first bool) bool {
	t, next := firstUnit(payload)
	switch t {
	case h264.TypeSPS, h264.TypeAUD:
		return true
	case h264.TypePPS, h264.TypeSEI:
		return first
	case h264.TypeNonIDR, h264.TypeIDR:
		return first && next&firstMacroblock != 0
	default:
		return false
	}
}

// continuesPicture reports whether payload begins with a slice that is not the first of
// its picture.
func continuesPicture(payload []byte) bool {
	t, next := firstUnit(payload)
	return (t == h264.TypeNonIDR || t == h264.TypeIDR) && next&firstMacroblock == 0
}

// firstMacroblock is set in the byte behind the header of a slice if first_mb_in_slice,
// ue(v), is 0.
const firstMacroblock = 0x80

// firstUnit is the type of the first NAL unit that begins in payload, and the byte that
// follows its header; TypeUnspecified if there is none.
func firstUnit(payload []byte) (t h264.NALUType, next byte) {
	const startBit = 0x80
	n := payload
	switch h264.TypeOf(payload) {
	case h264.TypeSTAPA:
		n = payload[min(len(payload), 3):]
	case h264.TypeFUA:
		if len(payload) < 3 || payload[1]&startBit == 0 {
			return h264.TypeUnspecified, 0
		}
		return h264.NALUType(payload[1] & 0x1f), payload[2]
	}
	if len(n) < 2 {
		return h264.TypeUnspecified, 0
	}
	return h264.TypeOf(n), n[1]
}

// take adds the NAL units of one payload; false if it breaks the picture.
func (d *H264) take(b []byte) bool {
	switch t := h264.TypeOf(b); {
	case t == h264.TypeFUA:
		return d.takeFragment(b)
	case d.fragment:
		return false // the one before it has no end
	case t == h264.TypeSTAPA:
		return d.takeAggregate(b[1:])
	case t == h264.TypeUnspecified || t > h264.TypeSTAPA:
		return false // STAP-B, MTAP, FU-B: not in packetization mode 1
	default:
		return d.takeUnit(b)
	}
}

func (d *H264) takeAggregate(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 2 {
			return false
		}
		size := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; size > len(b) {
			return false
		}
		if size > 0 && !d.takeUnit(b[:size]) {
			return false
		}
		b = b[size:]
	}
	return true
}

func (d *H264) takeUnit(n []byte) bool {
	if !d.room(4+len(n)) || !d.beginNALU(n[0]) {
		return false
	}
	d.slab = append(d.slab, n[1:]...)
	d.endNALU()
	return true
}

func (d *H264) takeFragment(b []byte) bool {
	const startBit, endBit = 0x80, 0x40
	if len(b) < 2 {
		return false
	}
	starts, ends := b[1]&startBit != 0, b[1]&endBit != 0
	if starts == d.fragment || (starts && ends) {
		return false // a start within a unit, a middle without one, or both ends
	}
	if !d.room(5 + len(b)) {
		return false
	}
	if starts {
		if !d.beginNALU(b[0]&0xe0 | b[1]&0x1f) {
			return false
		}
		d.fragment = true
	} else if h264.TypeOf(d.slab[d.naluAt[len(d.naluAt)-1]:]) != h264.NALUType(b[1]&0x1f) {
		return false
	}
	d.slab = append(d.slab, b[2:]...)
	if ends {
		d.fragment = false
		d.endNALU()
	}
	return true
}

// room makes space for n more bytes of the open picture.
func (d *H264) room(n int) bool {
	have := len(d.slab) - d.start
	if have+n > h264.MaxAccessUnitBytes {
		return false
	}
	if len(d.slab)+n > cap(d.slab) {
		moved := make([]byte, have, max(slabBytes, 2*(have+n)))
		copy(moved, d.slab[d.start:])
		for i := range d.naluAt {
			d.naluAt[i] -= d.start
		}
		d.slab, d.start = moved, 0
	}
	return true
}

func (d *H264) beginNALU(header byte) bool {
	if len(d.naluAt)+len(d.sideEnd) >= h264.MaxNALUs {
		return false
	}
	d.slab = append(d.slab, 0, 0, 0, 0, header)
	d.naluAt = append(d.naluAt, len(d.slab)-1)
	return true
}

// endNALU writes the length of the unit, or takes it out of the payload if it
// does not belong there.
func (d *H264) endNALU() {
	at := d.naluAt[len(d.naluAt)-1]
	n := d.slab[at:]
	switch h264.TypeOf(n) {
	case h264.TypeSPS, h264.TypePPS:
		d.side = append(d.side, n...)
		d.sideEnd = append(d.sideEnd, len(d.side))
	case h264.TypeAUD, h264.TypeFiller, h264.TypeEndOfSequence, h264.TypeEndOfStream:
	default:
		binary.BigEndian.PutUint32(d.slab[at-4:], uint32(len(n)))
		return
	}
	d.slab, d.naluAt = d.slab[:at-4], d.naluAt[:len(d.naluAt)-1]
}

// drop forgets the open picture.
func (d *H264) drop() {
	d.slab = d.slab[:d.start]
	d.open = false
	d.dropped++
}

// loss notes that pictures are missing from here on.
func (d *H264) loss() {
	d.needKey = true
	d.lost = d.emitted
}

// finish ends the open picture and emits it if it can be decoded.
func (d *H264) finish() {
	d.contiguous = true
	if !d.whole || d.fragment {
		d.drop()
		d.loss()
		return
	}
	nalus := d.naluScratch[:0]
	from := 0
	for _, end := range d.sideEnd {
		nalus = append(nalus, d.side[from:end])
		from = end
	}
	for i, at := range d.naluAt {
		end := len(d.slab)
		if i+1 < len(d.naluAt) {
			end = d.naluAt[i+1] - 4
		}
		nalus = append(nalus, d.slab[at:end])
	}
	d.naluScratch = nalus
	err := d.picture.Normalize(nalus)
	if err != nil || d.picture.Damaged {
		d.drop()
		d.loss()
		return
	}
	d.updateSets()
	if !d.picture.Coded {
		d.slab, d.open = d.slab[:d.start], false
		return
	}
	config, ready := d.config()
	if d.picture.RandomAccess && ready {
		d.needKey = false
	}
	if d.needKey {
		d.drop()
		d.loss()
		return
	}
	d.deliver(config)
}

func (d *H264) updateSets() {
	// A set that cannot be parsed is left out: the picture that needs it then has
	// no config, or decodes with the one before it.
	sps, _ := d.sets.Update(d.picture.SPS, nil)
	pps, _ := d.sets.Update(nil, d.picture.PPS)
	d.spsPending = d.spsPending || sps
	d.ppsPending = d.ppsPending || pps
}

// config returns the new description of the track, nil if it does not change
// with the open picture, and whether there is any. A new SPS waits for a random
// access point, a new PPS does not.
func (d *H264) config() (c *Config, ready bool) {
	if !d.spsPending && !d.ppsPending {
		return nil, d.ready // nearly always
	}
	sets, ready := d.sets.Config()
	d.ready = ready
	changes := d.spsPending && d.picture.RandomAccess || d.ppsPending && !d.spsPending
	if !ready || !changes {
		return nil, ready
	}
	avcC, err := sets.Marshal()
	if err != nil {
		return nil, false
	}
	sps, _ := d.sets.SPS()
	c = &Config{DecoderConfig: avcC, Width: sps.Width(), Height: sps.Height(), FrameRate: sps.FrameRate(), Reorder: -1}
	if n, ok := sps.MaxNumReorderFrames(); ok {
		c.Reorder = n
	} else if !sps.MayReorder() {
		c.Reorder = 0
	}
	return c, true
}

func (d *H264) deliver(config *Config) {
	payload := d.slab[d.start:len(d.slab):len(d.slab)]
	d.size = len(payload)
	if len(d.picture.NALUs) != len(d.naluAt) {
		payload = h264.AppendLengthPrefixed(nil, d.picture.NALUs...)
		d.slab = d.slab[:d.start]
	}
	if config != nil {
		d.spsPending, d.ppsPending = false, false
	}
	u := Unit{
		Payload: payload, Time: d.rtpTime, First: d.first, Last: d.last,
		RandomAccess: d.picture.RandomAccess, Disposable: d.picture.Disposable, Discontinuity: d.lost,
		Config: config,
	}
	d.open, d.lost, d.emitted = false, false, true
	d.emit(u)
}
