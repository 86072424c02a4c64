package egressrtmp

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/test/peers"
)

// ask makes the server ask its only publisher to move.
func (r *receiver) ask(t *testing.T, to string) {
	t.Helper()
	peers.Wait(t, 30*time.Second, "a publication to move", func() error {
		for _, st := range r.Stats() {
			if st.Ended.IsZero() && r.RequestReconnect(st.ID, secret.New(to), "maintenance") == nil {
				return nil
			}
		}
		return errors.New("there is none")
	})
}

// waits waits until the sink has a connection that waits for a keyframe.
func (s *sink) waits(t *testing.T) {
	t.Helper()
	peers.Wait(t, 30*time.Second, "a connection that waits", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.next == nil {
			return errors.New("there is none")
		}
		return nil
	})
}

// TestMove: a server that asks to reconnect gets everything up to the next keyframe,
// the new one everything from it on with a timeline of its own; the old one is told
// goodbye. Nothing is lost between them.
func TestMove(t *testing.T) {
	first, second := receive(t), receive(t)
	s := open(t, "rtmp://"+first.addr+"/app/key", Options{}, []media.Track{h264A, aacA})
	write(t, s, video(0, true), audio(10), video(33, false))
	first.ask(t, "rtmp://"+second.addr+"/app2")
	s.waits(t)
	write(t, s, audio(40), video(66, false), audio(61))
	write(t, s, video(100, true), audio(105), video(133, false))
	if err := <-first.ends; err != nil {
		t.Errorf("the old server was not told goodbye: %v", err)
	}
	select {
	case <-s.Failed():
		t.Errorf("the session failed: %v", s.Err())
	default:
	}
	closeSink(t, s)
	if got, want := trace(first.drained()), "0 metadata\n0 video-header A\n0 audio-header 1190\n0 key v0\n10 audio a10\n33 inter v33\n40 audio a40\n66 inter v66\n61 audio a61\n"; got != want {
		t.Errorf("the old server got\n%s", got)
	}
	if got, want := trace(second.all(t)), "0 metadata\n0 video-header A\n0 audio-header 1190\n0 key v100\n5 audio a105\n33 inter v133\n"; got != want {
		t.Errorf("the new server got\n%s", got)
	}
	if n := s.Stats().UnitsDropped; n != 0 {
		t.Errorf("%d units were lost", n)
	}
	if st := second.Stats(); len(st) != 1 || st[0].App != "app2" {
		t.Errorf("%+v", st)
	}
}

// TestMoveSamePlace: without an address it is the same server, and one that takes a
// key only once is left before it is connected to again.
func TestMoveSamePlace(t *testing.T) {
	r := receive(t)
	s := open(t, "rtmp://"+r.addr+"/app/key", Options{}, []media.Track{h264A})
	write(t, s, video(0, true))
	r.ask(t, "")
	s.waits(t)
	write(t, s, video(33, true))
	<-r.ends
	closeSink(t, s)
	<-r.ends
	if n := len(r.Stats()); n != 2 {
		t.Errorf("%d publications, want 2", n)
	}

	r = receive(t, func(s *rtmp.Server) { s.Unique = true })
	s = open(t, "rtmp://"+r.addr+"/app/key", Options{}, []media.Track{h264A})
	write(t, s, video(0, true))
	r.ask(t, "")
	<-s.Failed()
	var e *sdk.Error
	if err := s.Err(); !errors.As(err, &e) || e.Class != "reconnect" || sdk.IsPermanent(err) {
		t.Errorf("%v", err)
	}
	closeSink(t, s)
}

// TestMoveRefused: where a server must not send us, and where nobody is: the session
// stays where it is.
func TestMoveRefused(t *testing.T) {
	r := receive(t)
	dead := peers.FreeAddr(t)
	e := &egress{}
	to := target("rtmp://" + r.addr + "/app/key")
	sk, err := e.open(t.Context(), to, Options{}, []media.Track{h264A})
	if err != nil {
		t.Fatal(err)
	}
	s := sk.(*sink)
	write(t, s, video(0, true))
	s.move(s.current(), rtmp.ReconnectRequest{TCURL: secret.New("rtmp://127.0.0.2/SECRET")})
	s.move(s.current(), rtmp.ReconnectRequest{TCURL: secret.New("rtmp://" + dead + "/app")})
	write(t, s, video(33, true))
	if to, ok := e.redirected(targetName{s.target.Stream, s.target.Name}); !ok || !strings.Contains(to.Reveal(), dead) {
		t.Error("the next session does not try where this one could not go")
	}
	closeSink(t, s)
	if got, want := trace(r.all(t)), "0 metadata\n0 video-header A\n0 key v0\n33 key v33\n"; got != want {
		t.Errorf("got\n%s", got)
	}
}

// TestMoveThenLost: the old server dies before the keyframe: what comes from it on
// goes to the new one.
func TestMoveThenLost(t *testing.T) {
	first, second := receive(t), receive(t)
	s := open(t, "rtmp://"+first.addr+"/app/key", Options{}, []media.Track{h264A})
	write(t, s, video(0, true))
	first.ask(t, "rtmp://"+second.addr+"/app")
	s.waits(t)
	s.current().conn.Abort()
	write(t, s, video(33, false), video(66, false), video(100, true))
	closeSink(t, s)
	if got, want := trace(second.all(t)), "0 metadata\n0 video-header A\n0 key v100\n"; got != want {
		t.Errorf("got\n%s", got)
	}
	if n := s.Stats().UnitsDropped; n != 2 {
		t.Errorf("%d units were lost, want 2", n)
	}
}

// TestMoveUnfinished: a session that ends while a connection waits leaves nothing
// behind.
func TestMoveUnfinished(t *testing.T) {
	first, second := receive(t), receive(t)
	s := open(t, "rtmp://"+first.addr+"/app/key", Options{}, []media.Track{h264A})
	write(t, s, video(0, true))
	first.ask(t, "rtmp://"+second.addr+"/app")
	s.waits(t)
	closeSink(t, s)
	<-first.ends
	if err := <-second.ends; err != nil {
		t.Error(err)
	}
}

// TestOnChange: what a change of the decoder config becomes, by option; a change of
// codec is never made in place.
func TestOnChange(t *testing.T) {
	f := func(change OnChange, to media.Track, want error) {
		t.Helper()
		r := receive(t)
		s := open(t, "rtmp://"+r.addr+"/app/key", Options{OnChange: change}, []media.Track{h264A})
		bare := h264A
		bare.DecoderConfig = nil
		for _, same := range []media.Track{bare, h264A} {
			if err := s.SetTracks(t.Context(), []media.Track{same}); err != nil {
				t.Errorf("%s: before the first picture: %v", change, err)
			}
		}
		write(t, s, video(0, true))
		longer := h264A
		longer.BitrateBitsPerSecond = 1000
		if err := s.SetTracks(t.Context(), []media.Track{longer}); err != nil {
			t.Errorf("%s: %v", change, err)
		}
		if err := s.SetTracks(context.Background(), []media.Track{to}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", change, err, want)
		}
		closeSink(t, s)
	}
	hevc := h264A
	hevc.Codec = media.H265
	f(ChangeHeader, h264B, nil)
	f(ChangeReconnect, h264B, sdk.ErrReopen)
	f(ChangeHeader, hevc, sdk.ErrReopen)
}

// TestEarlyAudio: sound from before the first picture, kept.
func TestEarlyAudio(t *testing.T) {
	r := receive(t)
	s := open(t, "rtmp://"+r.addr+"/app/key", Options{EarlyAudio: AudioKeep}, []media.Track{h264A, aacA})
	write(t, s, audio(1000), video(1005, false), audio(1021), video(1033, true), audio(1042))
	closeSink(t, s)
	want := "0 metadata\n0 video-header A\n0 audio-header 1190\n0 audio a1000\n21 audio a1021\n33 key v1033\n42 audio a1042\n"
	if got := trace(r.all(t)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
