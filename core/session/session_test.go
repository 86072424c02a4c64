package session

import (
	"testing"
	"time"

	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/sdk/media"
)

type publisher struct{ keyframes int }

func (p *publisher) RequestKeyframe(media.TrackID) { p.keyframes++ }
func (p *publisher) Superseded()                   {}

type fake struct {
	pluginhost.Session
	wakes int
}

func (s *fake) Wake() { s.wakes++ }

func changed(f *Feed) bool {
	select {
	case <-f.Changed():
		return true
	default:
		return false
	}
}

// A session that needs no more than the time gets no payload; what it was spared is
// not waited for.
func TestTimeOnly(t *testing.T) {
	s := router.NewStream(1, "studio")
	pub := s.Publish(&publisher{})
	pub.SetTracks([]media.Track{{ID: 1, Codec: media.VP8}})
	f := New()
	f.TimeOnly = true
	sub := f.Subscribe(s, router.SubscriptionConfig{MaxLag: time.Second})
	defer sub.Close()
	sub.Start(func(t []media.Track) []media.Track { return t })
	f.Bind(&fake{})
	payload := make([]byte, 10)
	pub.Write(&media.AccessUnit{Track: 1, RandomAccess: true, DTS: time.Second, Payload: payload})
	items := f.Pull(100)
	if len(items) != 2 || items[1].Unit == nil || len(items[1].Unit.Payload) > 0 || !items[1].Unit.RandomAccess {
		t.Fatalf("items %+v", items)
	}
	if st := sub.Stats(); st.FlightBytes > 0 || st.Units != 1 {
		t.Errorf("%+v: want it to be dealt with", st)
	}
}

func TestFeed(t *testing.T) {
	s := router.NewStream(1, "studio")
	src := &publisher{}
	pub := s.Publish(src)
	pub.SetTracks([]media.Track{{ID: 1, Codec: media.VP8}})
	f := New()
	sub := f.Subscribe(s, router.SubscriptionConfig{MaxLag: time.Second})
	defer sub.Close()
	if f.Pull(100) != nil {
		t.Error("something to pull before the start")
	}
	sub.Start(func(t []media.Track) []media.Track { return t }) // wakes nobody: no session yet
	sess := &fake{}
	f.Bind(sess)
	pub.Write(&media.AccessUnit{Track: 1, RandomAccess: true, Payload: make([]byte, 10)})
	if sess.wakes != 1 {
		t.Errorf("%d wakes", sess.wakes)
	}
	if items := f.Pull(100); len(items) != 2 || items[0].Tracks == nil || items[1].Unit == nil {
		t.Errorf("items %+v", items)
	}
	if changed(f) {
		t.Error("changed before anything was said")
	}
	f.Ready(pluginhost.Accepts{VideoTracks: 1})
	if !changed(f) || !f.State().Ready || f.State().Accepts.VideoTracks != 1 {
		t.Errorf("state %+v", f.State())
	}
	f.Credited(0)
	if changed(f) || f.State().Credited {
		t.Error("no byte is no credit")
	}
	f.Credited(4)
	if !changed(f) || !f.State().Credited {
		t.Error("the first credit is no news")
	}
	f.Credited(4)
	if changed(f) {
		t.Error("every credit is news")
	}
	f.AwaitCredit()
	f.Credited(2)
	if !changed(f) || sub.Stats().Units != 1 {
		t.Errorf("the awaited credit is no news; %+v", sub.Stats())
	}
	f.Stats(pluginhost.Stats{UnsentAge: time.Minute, UnitsDropped: 3})
	if sub.Stats().Lag != time.Minute || f.State().Stats.UnitsDropped != 3 {
		t.Errorf("%+v, %+v", sub.Stats(), f.State())
	}
	f.Keyframe(0)
	if src.keyframes != 1 {
		t.Errorf("%d keyframes asked for", src.keyframes)
	}
	// An egress that sends media is none.
	f.Tracks(nil)
	f.Unit(&media.AccessUnit{})
	f.Ended(pluginhost.End{Failed: true, Message: "gone"})
	if !changed(f) || !f.State().Ended || f.State().End.Message != "gone" {
		t.Errorf("state %+v", f.State())
	}
}
