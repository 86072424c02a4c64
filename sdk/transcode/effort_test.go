package transcode

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// heavy is an encoder on a machine that has too little time for it: each frame takes
// so long, by the clock of the test.
type heavy struct {
	quick
	careful, hurried time.Duration
	fast             bool
	steps            int
}

func (h *heavy) SetFast(fast bool) {
	if h.fast != fast {
		h.fast = fast
		h.steps++
	}
}

func (h *heavy) Encode(dst []byte, planar [][]float32) ([]byte, error) {
	if h.fast {
		time.Sleep(h.hurried)
	} else {
		time.Sleep(h.careful)
	}
	return h.quick.Encode(dst, planar)
}

// A machine that is overloaded for real: packets come every 20 ms whether they can
// be dealt with or not, and wait their turn. The encoder works less before any sound
// is lost, the queue empties, and when the load is gone it works as before.
func TestOverload(t *testing.T) {
	packets := clipPackets(t)
	synctest.Test(t, func(t *testing.T) {
		enc := &heavy{careful: 25 * time.Millisecond, hurried: 8 * time.Millisecond} // a frame is 21.3 ms
		tr, err := newTransformer(opusTrack(), enc, channels, defaultBitsPerSecond, false)
		if err != nil {
			t.Fatal(err)
		}
		enc.steps = 0
		c := &collector{t: t}
		queue := make(chan *media.AccessUnit, 500)
		const overload, calm = 30 * time.Second, 90 * time.Second
		go func() {
			defer close(queue)
			for i := range int((overload + calm) / (20 * time.Millisecond)) {
				at := time.Duration(i) * 20 * time.Millisecond
				queue <- &media.AccessUnit{Seq: uint32(i), PTS: at, DTS: at, Payload: packets[i%len(packets)], Received: time.Now()}
				time.Sleep(20 * time.Millisecond)
			}
		}()
		began, longest := time.Now(), 0
		for u := range queue {
			c.feed(tr, u)
			switch longest = max(longest, len(queue)); u.PTS {
			case overload:
				if !enc.fast || enc.steps != 1 || len(queue) > 3 {
					t.Errorf("after %v of overload: fast %v after %d steps, %d packets wait", overload, enc.fast, enc.steps, len(queue))
				}
				if tr.Figures()["fast"] != 1 {
					t.Error("the figures do not say that it does less work")
				}
				enc.careful, enc.hurried = time.Millisecond, time.Millisecond
			case overload + calm - 20*time.Millisecond:
				if enc.fast || enc.steps != 2 {
					t.Errorf("after %v of calm: fast %v after %d steps", calm, enc.fast, enc.steps)
				}
			}
		}
		complete(t, c.units, overload+calm)
		if longest < 5 || longest > 100 {
			t.Errorf("up to %d packets waited: want overload, and an end to it", longest)
		}
		if s := tr.audio.stats; s != (stats{}) {
			t.Errorf("stats %+v: want no sound to be lost or made up", s)
		}
		if d := time.Since(began) - overload - calm; d > time.Second {
			t.Errorf("it ended %v late", d)
		}
	})
}
