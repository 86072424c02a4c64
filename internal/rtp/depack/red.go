package depack

// A RedBlock is one block of a packet with redundancy (RFC 2198): the payload of
// the packet itself, or of one before it, sent again.
type RedBlock struct {
	Payload []byte
	// Behind is how many packets before the packet itself; 0 is itself.
	Behind uint16
	// Before is how much earlier by the RTP clock.
	Before uint32
}

// maxRedBlocks is how much redundancy is looked at; browsers send one block.
const maxRedBlocks = 16

// A Red takes packets with redundancy apart. The zero value is ready.
type Red struct{ blocks []RedBlock }

// Split returns the blocks of payload, the oldest first and the packet's own last;
// false if it is damaged. They refer to payload and are valid until the next call.
//
// The header says by how much time a block is older, not by how many packets:
// blocks are taken for those of the packets right before, as senders fill them.
func (r *Red) Split(payload []byte) ([]RedBlock, bool) {
	const more, headerBytes = 0x80, 4
	r.blocks = r.blocks[:0]
	var sizes [maxRedBlocks]int
	rest := payload
	for len(rest) > 0 && rest[0]&more != 0 {
		if len(rest) < headerBytes || len(r.blocks) == maxRedBlocks {
			return nil, false
		}
		before := uint32(rest[1])<<6 | uint32(rest[2])>>2
		sizes[len(r.blocks)] = int(rest[2]&3)<<8 | int(rest[3])
		r.blocks = append(r.blocks, RedBlock{Before: before})
		rest = rest[headerBytes:]
	}
	if len(rest) == 0 {
		return nil, false
	}
	rest = rest[1:] // the payload type of the last block
	n := len(r.blocks)
	for i := range r.blocks {
		if sizes[i] > len(rest) {
			return nil, false
		}
		r.blocks[i].Payload, rest = rest[:sizes[i]], rest[sizes[i]:]
		r.blocks[i].Behind = uint16(n - i)
	}
	r.blocks = append(r.blocks, RedBlock{Payload: rest})
	// A sender with nothing to repeat leaves blocks empty.
	kept := r.blocks[:0]
	for _, b := range r.blocks {
		if len(b.Payload) > 0 {
			kept = append(kept, b)
		}
	}
	r.blocks = kept
	return r.blocks, len(kept) > 0
}
