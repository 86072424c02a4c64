package egressrtmp

import (
	"sync"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/transcode"
)

// TestHour sends an hour of media, of a publisher whose clock is 100 ppm fast,
// through the transcoder and a sink, on a timeline that began five hours ago: at the
// receiver sound and picture belong together to 40 ms throughout, and the timestamps
// keep every law.
func TestHour(t *testing.T) {
	const start = 5 * time.Hour
	length := time.Hour
	if raceEnabled {
		length /= 30 // it is the same code, slower
	}
	drift := func(d time.Duration) time.Duration { return start + d + d/10000 }
	var mu sync.Mutex
	var worst time.Duration // of the offset between the newest sound and the newest picture
	var last [2]uint32      // timestamps of sound and picture
	var ended [2]int        // units
	var crossed, behind int // laws that were broken
	r := receive(t, func(s *rtmp.Server) {
		s.OnMessage = func(_ *rtmp.Publish, m rtmp.Message, _ time.Time) {
			list, _ := rtmp.Packets(nil, m)
			if len(list) != 1 || list[0].Kind != rtmp.PacketFrame {
				return
			}
			i := 0
			if m.Type == rtmp.TypeVideo {
				i = 1
			}
			mu.Lock()
			defer mu.Unlock()
			if ended[i] > 0 && m.TimestampMS <= last[i] {
				behind++
			}
			if m.TimestampMS < last[1-i] {
				crossed++
			}
			last[i] = m.TimestampMS
			ended[i]++
			if ended[0] > 10 && ended[1] > 10 {
				worst = max(worst, (time.Duration(last[0])-time.Duration(last[1])).Abs()*time.Millisecond)
			}
		}
	})
	tr, err := transcode.OpusToAAC().Open(t.Context(), media.Track{ID: 2, Codec: media.Opus, SampleRateHz: 48000, Channels: 2}, sdk.TransformSettings{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	aac := tr.Track()
	aac.ID = 3
	s := open(t, "rtmp://"+r.addr+"/app/key", Options{Interleave: InterleaveStrict}, []media.Track{h264A, aac})
	const packet, picture = 20 * time.Millisecond, time.Second / 30
	silence := []byte{0xFC, 0xFF, 0xFE} // 20 ms, stereo
	var lastIn, lastOut time.Duration
	sound, pictures := time.Duration(0), 0
	for sound < length {
		for time.Duration(pictures)*picture <= sound {
			at := drift(time.Duration(pictures) * picture)
			write(t, s, &media.AccessUnit{Track: 1, PTS: at, DTS: at, RandomAccess: pictures%60 == 0, Payload: []byte("picture")})
			pictures++
		}
		at := drift(sound)
		lastIn = at
		err := tr.Transform(&media.AccessUnit{Track: 2, PTS: at, DTS: at, RandomAccess: true, Payload: silence}, func(u *media.AccessUnit) {
			u.Track = 3
			lastOut = u.PTS
			write(t, s, u)
		})
		if err != nil {
			t.Fatal(err)
		}
		sound += packet
	}
	closeSink(t, s)
	<-r.ends
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d pictures, %d frames of sound, offset %v at most, sound in at %v and out at %v", ended[1], ended[0], worst, lastIn, lastOut)
	if worst > 40*time.Millisecond {
		t.Errorf("sound and picture are apart by %v", worst)
	}
	if d := lastIn - lastOut; d < 0 || d > 60*time.Millisecond {
		t.Errorf("the transcoder is behind its input's clock by %v", d)
	}
	if crossed > 0 || behind > 0 {
		t.Errorf("%d timestamps fell across tracks, %d did not rise on their own", crossed, behind)
	}
	if got := time.Duration(last[1]) * time.Millisecond; (got - (drift(length) - start)).Abs() > 100*time.Millisecond {
		t.Errorf("the last picture is at %v", got)
	}
	if ended[1] != pictures {
		t.Errorf("%d of %d pictures arrived", ended[1], pictures)
	}
}
