package session

import (
	"time"

	"github.com/pion/rtcp"
)

// arrivals keeps the figures of one SSRC that a receiver report tells (RFC 3550,
// 6.4.1 and appendix A).
type arrivals struct {
	rateHz  int64
	started bool
	first   int64 // extended sequence numbers
	highest int64

	received uint64
	// At the last report.
	expectedBefore, receivedBefore uint64

	transit time.Duration // of the last packet: arrival less media time, from any origin
	time    uint32
	media   int64 // unwrapped RTP time of the last packet
	jitter  float64

	reportNTP uint64 // of the last sender report; zero before the first
	reportAt  time.Time
}

// take counts a packet that came at at, which counts from any origin.
func (a *arrivals) take(seq uint16, rtp uint32, at time.Duration) {
	if !a.started {
		*a = arrivals{rateHz: a.rateHz, started: true, first: int64(seq), highest: int64(seq), received: 1, time: rtp, transit: at}
		return
	}
	ext := a.highest + int64(int16(seq-uint16(a.highest)))
	if ext > a.highest {
		a.highest = ext
	}
	a.received++
	if rtp == a.time {
		return // of the same picture: they say nothing of the network
	}
	a.media += int64(int32(rtp - a.time))
	a.time = rtp
	transit := at - time.Duration(a.media*int64(time.Second)/a.rateHz)
	d := (transit - a.transit).Seconds()
	a.transit = transit
	a.jitter += (max(d, -d) - a.jitter) / 16
}

// report is what is told about the SSRC since the last report.
func (a *arrivals) report(ssrc uint32, now time.Time) rtcp.ReceptionReport {
	expected := uint64(a.highest-a.first) + 1
	lost := int64(expected) - int64(a.received)
	expectedNow, receivedNow := expected-a.expectedBefore, a.received-a.receivedBefore
	a.expectedBefore, a.receivedBefore = expected, a.received
	r := rtcp.ReceptionReport{
		SSRC: ssrc, LastSequenceNumber: uint32(a.highest), Jitter: uint32(a.jitter * float64(a.rateHz)),
		TotalLost: uint32(min(max(lost, 0), 1<<23-1)),
	}
	if expectedNow > receivedNow {
		r.FractionLost = uint8(min(255, 256*(expectedNow-receivedNow)/expectedNow))
	}
	if a.reportNTP != 0 {
		r.LastSenderReport = uint32(a.reportNTP >> 16)
		r.Delay = uint32(now.Sub(a.reportAt) * 65536 / time.Second)
	}
	return r
}

// senderReport notes a report of the sender.
func (a *arrivals) senderReport(ntp uint64, now time.Time) { a.reportNTP, a.reportAt = ntp, now }

// ntpTime converts a 64-bit NTP timestamp, whose seconds count from 1900.
func ntpTime(v uint64) time.Time {
	const secondsTo1970 = 2208988800
	return time.Unix(int64(v>>32)-secondsTo1970, int64((v&0xffffffff)*1e9>>32))
}
