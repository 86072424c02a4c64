package egressrtmp

import (
	"fmt"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
)

// BenchmarkTargets writes pictures of 12.5 KB, the mean of 720p30 at 3 Mb/s, to
// receivers in this process.
func BenchmarkTargets(b *testing.B) {
	for _, targets := range []int{1, 10} {
		b.Run(fmt.Sprint(targets), func(b *testing.B) {
			r := receive(b, func(s *rtmp.Server) { s.OnMessage = nil })
			var sinks []*sink
			for i := range targets {
				s, err := (&egress{}).open(b.Context(), target(fmt.Sprintf("rtmp://%s/app/key%d", r.addr, i)), Options{Interleave: InterleaveLow}, []media.Track{h264A})
				if err != nil {
					b.Fatal(err)
				}
				sinks = append(sinks, s.(*sink))
			}
			payload := make([]byte, 12_500)
			at := time.Duration(0)
			b.ReportAllocs()
			for b.Loop() {
				at += 33 * time.Millisecond
				u := &media.AccessUnit{Track: 1, PTS: at, DTS: at, RandomAccess: true, Payload: payload}
				for _, s := range sinks {
					if err := s.WriteAccessUnit(b.Context(), u); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.StopTimer()
			for _, s := range sinks {
				_ = s.Close(b.Context())
			}
		})
	}
}
