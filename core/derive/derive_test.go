package derive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/sdk/media"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plugin is a transform that gives every unit back as another.
type plugin struct {
	mu     sync.Mutex // guards the fields below
	opened []*transform
	err    error
}

type transform struct {
	spec   pluginhost.TransformSpec
	h      pluginhost.SessionHandler
	src    pluginhost.Source
	wake   chan struct{}
	stop   chan struct{}
	once   sync.Once
	inputs []media.Track // by run alone
}

func (p *plugin) OpenTransform(spec pluginhost.TransformSpec, h pluginhost.SessionHandler, src pluginhost.Source) (pluginhost.Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	s := &transform{spec: spec, h: h, src: src, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	p.opened = append(p.opened, s)
	go s.run()
	return s, nil
}

func (p *plugin) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.opened)
}

func (p *plugin) last() *transform {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened[len(p.opened)-1]
}

func (s *transform) run() {
	s.h.Tracks([]media.Track{{ID: s.spec.Out, Codec: s.spec.To, DecoderConfig: []byte("asc")}})
	s.h.Ready(pluginhost.Accepts{})
	seq := uint32(0)
	for {
		select {
		case <-s.wake:
		case <-s.stop:
			return
		}
		for _, it := range s.src.Pull(1 << 20) {
			if it.Unit == nil {
				s.inputs = it.Tracks
				continue
			}
			u := it.Unit.Clone()
			u.Seq = seq
			seq++
			s.h.Unit(u)
			s.h.Credited(len(it.Unit.Payload))
		}
	}
}

func (s *transform) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
func (s *transform) RequestKeyframe(media.TrackID)            {}
func (s *transform) SetTargetBitrate(uint64)                  {}
func (s *transform) SetTargetStates([]pluginhost.TargetState) {}
func (s *transform) Close(string, bool) {
	s.once.Do(func() { close(s.stop); go s.h.Ended(pluginhost.End{}) })
}

func (s *transform) die(message string) {
	s.once.Do(func() {
		close(s.stop)
		s.h.Ended(pluginhost.End{Failed: true, Cause: pluginhost.CausePlugin, Message: message})
	})
}

type silent struct{}

func (silent) RequestKeyframe(media.TrackID) {}
func (silent) Superseded()                   {}

func TestDeriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := router.NewStream(1, "studio")
		p := &plugin{}
		d := New(s, p, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()

		pub := s.Publish(silent{})
		at := time.Duration(0)
		feed := func(n int) {
			for range n {
				pub.Write(&media.AccessUnit{Track: 1, DTS: at, PTS: at, Payload: []byte{1}})
				at += 20 * time.Millisecond
				time.Sleep(20 * time.Millisecond)
			}
		}
		sub := s.Subscribe(router.SubscriptionConfig{MaxLag: 2 * time.Second})
		sub.Start(func(list []media.Track) []media.Track {
			for _, tr := range list {
				if tr.Codec == media.AAC {
					return []media.Track{tr}
				}
			}
			return nil
		})
		got := func() string {
			synctest.Wait()
			var out []string
			for _, it := range sub.Pull(nil, 1<<20) {
				if it.Unit == nil {
					out = append(out, fmt.Sprintf("track %d<%d", it.Tracks[0].ID, it.Tracks[0].DerivedFrom))
					continue
				}
				mark := ""
				if it.Unit.Discontinuity || it.Discontinuity {
					mark = "!"
				}
				out = append(out, fmt.Sprint(it.Unit.DTS.Milliseconds(), mark))
				sub.Credited(len(it.Unit.Payload))
			}
			return strings.Join(out, " ")
		}
		expect := func(what, want string) {
			t.Helper()
			if g := got(); g != want {
				t.Errorf("%s: got %q, want %q", what, g, want)
			}
		}

		// Nobody needs it: it is not made.
		pub.SetTracks([]media.Track{{ID: 1, Codec: media.Opus, DecoderConfig: []byte("head")}})
		synctest.Wait()
		if p.count() != 0 {
			t.Error("opened without a need")
		}
		n := Need{From: 1, To: media.AAC}
		release := d.Need(n)
		release2 := d.Need(n)
		synctest.Wait()
		if p.count() != 1 {
			t.Fatalf("%d sessions for two who need the same", p.count())
		}
		feed(3)
		expect("live", "track 2<1 0 20 40")

		// The transform dies: another one goes on, the track stays.
		p.last().die("signal: killed")
		synctest.Wait()
		if err := d.Err(n); err == nil || !strings.Contains(err.Error(), "signal: killed") {
			t.Errorf("error %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if p.count() != 2 || d.Err(n) != nil {
			t.Fatalf("%d sessions, error %v", p.count(), d.Err(n))
		}
		feed(2)
		expect("again", "60! 80")

		// Its plugin is out of order for a minute.
		p.mu.Lock()
		p.err = &pluginhost.UnavailableError{Plugin: "p", RetryAfter: time.Minute}
		p.mu.Unlock()
		p.last().die("signal: killed")
		time.Sleep(30 * time.Second)
		p.mu.Lock()
		p.err = nil
		p.mu.Unlock()
		synctest.Wait()
		if p.count() != 2 || d.Err(n) == nil {
			t.Errorf("%d sessions, error %v", p.count(), d.Err(n))
		}
		time.Sleep(31 * time.Second)
		feed(1)
		expect("after the rest", "100!")

		// Nobody needs it any more.
		release()
		feed(1)
		expect("one left", "120")
		release2()
		synctest.Wait()
		if snap, _ := s.Watch(); len(snap.Tracks) != 1 {
			t.Errorf("tracks %v", snap.Tracks)
		}
		// Needed again; and all ends.
		d.Need(n)
		synctest.Wait()
		if p.count() != 4 {
			t.Errorf("%d sessions", p.count())
		}
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if snap, _ := s.Watch(); len(snap.Tracks) != 1 {
			t.Errorf("tracks %v", snap.Tracks)
		}
	})
}
