package whipclient

import (
	"bytes"
	"time"
)

// A Timing says when a picture was sent, so that a receiver on the same machine
// can tell its delay and what is missing. It travels in front of the picture as
// an SEI message (user data unregistered), which the gateway keeps.
type Timing struct {
	Sent   time.Time
	Posted time.Time // when the session's offer was posted
	Frame  uint64    // counts the pictures sent, from 1
}

// timingUUID marks the messages of this package.
var timingUUID = [16]byte{0x6a, 0x1d, 0x5e, 0x2f, 0x8b, 0x3c, 0x4f, 0x71, 0x9a, 0xe4, 0xc7, 0x52, 0xd8, 0x16, 0xb9, 0x43}

// timingValues is how many bytes follow the UUID: three numbers of 64 bits, seven
// bits to a byte whose highest bit is set: no byte is zero, so that the message needs
// no emulation prevention.
const timingValues = 30

// NALU returns the SEI unit.
func (t Timing) NALU() []byte {
	b := make([]byte, 0, 4+len(timingUUID)+timingValues)
	b = append(b, 6, 5, byte(len(timingUUID)+timingValues))
	b = append(b, timingUUID[:]...)
	for _, v := range []uint64{uint64(t.Sent.UnixNano()), uint64(t.Posted.UnixNano()), t.Frame} {
		for shift := 63; shift >= 0; shift -= 7 {
			b = append(b, 0x80|byte(v>>shift)&0x7f)
		}
	}
	return append(b, 0x80) // rbsp trailing bits
}

// FindTiming looks for a Timing near the beginning of a picture, in any framing.
func FindTiming(picture []byte) (Timing, bool) {
	t, _, found := NextTiming(picture[:min(len(picture), 1024)])
	return t, found
}

// NextTiming looks for the first Timing in a file of pictures, and returns where in
// it the rest begins.
func NextTiming(b []byte) (t Timing, rest int, found bool) {
	i := bytes.Index(b, timingUUID[:])
	if i < 0 || len(b) < i+len(timingUUID)+timingValues {
		return Timing{}, 0, false
	}
	at := i + len(timingUUID)
	var v [3]uint64
	for k := range v {
		for _, c := range b[at+10*k : at+10*k+10] {
			v[k] = v[k]<<7 | uint64(c&0x7f)
		}
	}
	return Timing{Sent: time.Unix(0, int64(v[0])), Posted: time.Unix(0, int64(v[1])), Frame: v[2]}, at + timingValues, true
}
