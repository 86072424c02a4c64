package intake

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/headgate/gateway/sdk/media/mpegaudio"
)

// MPEGFrame is a frame of MPEG audio with that header and any bytes behind it: of one
// seed always the same. It panics if the header is none.
func MPEGFrame(header uint32, seed uint64) []byte {
	b := binary.BigEndian.AppendUint32(nil, header)
	h, err := mpegaudio.Parse(b)
	if err != nil {
		panic(err)
	}
	random := rand.New(rand.NewPCG(uint64(header), seed))
	for len(b) < h.Bytes {
		b = append(b, byte(random.Uint32()))
	}
	return b
}
