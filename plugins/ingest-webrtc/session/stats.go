package session

import (
	"sync/atomic"
	"time"

	"github.com/headgate/gateway/sdk"
)

// figures are counted on the way of the packets and reported once a second.
type figures struct {
	bytes, packets, unknown              atomic.Uint64
	resent, redundant                    atomic.Uint64
	lost, late, duplicates               atomic.Uint64
	requested, recovered, overtaken      atomic.Uint64
	units, dropped                       atomic.Uint64
	queueDrops                           atomic.Uint64
	keyframes, keyframeRequests, changes atomic.Uint64

	reportAt    atomic.Int64 // arrival of the last sender report, nanoseconds of Unix time; 0 before
	keyInterval atomic.Int64 // between the last two random access points, nanoseconds
}

// keyframeArrived notes a random access point of the video.
func (s *session) keyframeArrived(at time.Time) {
	since := int64(at.Sub(s.epoch))
	if before := s.lastKey.Swap(since); before != 0 {
		s.figures.keyInterval.Store(since - before)
	}
	s.figures.keyframes.Add(1)
}

// report hands the session's figures to the gateway.
func (l *life) report(now time.Time) {
	f, r := &l.figures, l.receiver
	v := map[string]float64{
		"rtp_packets":               float64(f.packets.Load()),
		"rtp_packets_unknown":       float64(f.unknown.Load()),
		"rtp_packets_lost":          float64(f.lost.Load()),
		"rtp_packets_late":          float64(f.late.Load()),
		"rtp_packets_duplicate":     float64(f.duplicates.Load()),
		"rtp_packets_overtaken":     float64(f.overtaken.Load()),
		"rtp_packets_recovered":     float64(f.recovered.Load()),
		"rtp_packets_resent":        float64(f.resent.Load()),
		"rtp_packets_redundant":     float64(f.redundant.Load()),
		"nacks_sent":                float64(f.requested.Load()),
		"units":                     float64(f.units.Load()),
		"keyframes":                 float64(f.keyframes.Load()),
		"keyframe_requests":         float64(f.keyframeRequests.Load()),
		"keyframe_answers":          float64(l.keys.answered),
		"keyframe_requests_open":    float64(l.keys.unanswered),
		"keyframes_ignored":         flag(l.keys.ignored),
		"resolution_changes":        float64(f.changes.Load()),
		"received_bps":              l.receivedBS,
		"limit_bps":                 float64(l.bitrate.target),
		"limit_ignored":             flag(l.bitrate.ignored),
		"silent":                    flag(l.silent),
		"queue_drops":               float64(f.queueDrops.Load()),
		"socket_drops":              float64(l.server.port.drops.total.Load()),
		"keyframe_interval_seconds": time.Duration(f.keyInterval.Load()).Seconds(),
		"keyframe_answer_seconds":   l.keys.lastReply.Seconds(),
	}
	if at := f.reportAt.Load(); at != 0 {
		v["sender_report_age_seconds"] = now.Sub(time.Unix(0, at)).Seconds()
	}
	r.addTo(v)
	l.pub.ReportStats(sdk.IngestStats{Bytes: f.bytes.Load(), RTT: l.roundTrip, UnitsLost: f.dropped.Load(), Values: v, Info: l.info()})
}

// info is what is no figure: how the publisher reaches the gateway, and how what he
// sends is protected.
func (l *life) info() map[string]string {
	info := make(map[string]string)
	if path := l.path(); path != nil {
		if pair, err := path.GetSelectedCandidatePair(); err == nil && pair != nil {
			info["ice_local"], info["ice_remote"] = pair.Local.Typ.String(), pair.Remote.Typ.String()
			info["ice_protocol"] = pair.Local.Protocol.String()
		}
	}
	l.ciphers.addTo(info)
	return info
}

// addTo adds what the receiver knows.
func (r *receiver) addTo(v map[string]float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tracks {
		kind := "audio"
		if t.id == videoTrack {
			kind = "video"
			median, p99, most := t.buffer.Recovery()
			v["recovery_median_seconds"], v["recovery_p99_seconds"], v["recovery_max_seconds"] = median.Seconds(), p99.Seconds(), most.Seconds()
		}
		v[kind+"_jitter_seconds"] = t.arrivals.jitter
	}
	if offset, ok := r.session.clock.Offset(); ok {
		v["av_offset_seconds"] = offset.Seconds()
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
