package router

import (
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// BenchmarkWrite is the way of one unit to three subscriptions that keep up:
// write, pull, credit. The unit itself is allocated by whoever received it, and
// counts here.
func BenchmarkWrite(b *testing.B) {
	s := NewStream(1, "bench")
	p := s.Publish(silent{})
	p.SetTracks([]media.Track{{ID: 1, Codec: media.H264, DecoderConfig: []byte("c")}, {ID: 2, Codec: media.Opus, DecoderConfig: []byte("h")}})
	var subs [3]*Subscription
	woken := 0
	for i := range subs {
		subs[i] = s.Subscribe(SubscriptionConfig{MaxLag: 2 * time.Second, Wake: func() { woken++ }})
		subs[i].Start(func(t []media.Track) []media.Track { return t })
	}
	payload := make([]byte, 8000)
	var items []Item
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		dts := time.Duration(i) * 20 * time.Millisecond
		p.Write(&media.AccessUnit{Track: media.TrackID(1 + i%2), Seq: uint32(i / 2), DTS: dts, PTS: dts, RandomAccess: i%100 == 0, Payload: payload})
		for _, sub := range subs {
			items = sub.Pull(items[:0], 1<<20)
			for _, it := range items {
				if it.Unit != nil {
					sub.Credited(len(it.Unit.Payload))
				}
			}
		}
		i++
	}
	if woken == 0 {
		b.Fatal("nobody was woken")
	}
}

type silent struct{}

func (silent) RequestKeyframe(media.TrackID) {}
func (silent) Superseded()                   {}
