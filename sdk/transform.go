package sdk

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// transformErrorsMax is how many units in a row a transformer may fail at before
// its session does.
const transformErrorsMax = 250

// transformSession derives one track: a goroutine between an inbox and a
// publication.
type transformSession struct {
	a         *attachment
	id        uint32
	transform Transform
	settings  TransformSettings
	outID     media.TrackID
	in        *inbox
	out       *Publication
	credits   *credits
	ctx       context.Context // for opening
	cancel    context.CancelFunc

	tr       Transformer
	track    media.Track   // of the output, as announced
	failures int           // in a row
	gap      bool          // input was lost, and maybe its time in what comes out
	next     time.Duration // DTS that joins on to the last unit that came out

	quiet    *time.Timer // to the next call of an Idler; nil without one
	taken    time.Time   // when the newest unit was
	reported time.Time   // when figures were last sent
}

// openTransform starts a session.
func (a *attachment) openTransform(o *wire.Open) {
	tracks := wire.ToTracks(o.GetTracks())
	if len(tracks) != 1 {
		a.refuse(o, "a transform takes one track")
		return
	}
	to, from := media.Codec(o.GetTransform().GetTo()), tracks[0].Codec
	if from.Kind() != to.Kind() {
		from = "" // silence beside a picture
	}
	i := slices.IndexFunc(a.plugin.Transforms, func(t Transform) bool { return t.From == from && t.To == to })
	if i < 0 {
		a.refuse(o, fmt.Sprintf("the plugin does not make %s of %s", to, tracks[0].Codec))
		return
	}
	s := &transformSession{
		a:         a,
		id:        o.GetSession(),
		transform: a.plugin.Transforms[i],
		settings: TransformSettings{
			Bitrate:  int(o.GetTransform().GetBitrateBps()),
			Channels: int(o.GetTransform().GetChannels()),
			Quality:  o.GetTransform().GetQuality(),
		},
		outID:   media.TrackID(o.GetTransform().GetTrack()),
		in:      newInbox(),
		out:     newPublication(a, o),
		credits: newCredits(&a.credits, o.GetSession(), tracks),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	a.add(s.id, s)
	a.wg.Go(func() {
		defer s.cancel()
		s.out.Close(s.run(tracks[0]))
	})
}

// run is the life of the session.
func (s *transformSession) run(in media.Track) error {
	err := guard(s.ctx, s.id, s.a.hide, func() (err error) {
		s.tr, err = s.transform.Open(s.ctx, in, s.settings)
		return err
	})
	if err != nil {
		return fmt.Errorf("opening the transform: %w", err)
	}
	defer func() {
		_ = guard(s.ctx, s.id, s.a.hide, func() error { s.tr.Close(); return nil }) // a panic is logged
	}()
	s.out.ready(&wire.SessionState{WindowBytes: uint64(s.credits.window)})
	if err := s.announce(in); err != nil {
		return err
	}
	var quiet <-chan time.Time
	if _, ok := s.tr.(Idler); ok {
		s.quiet = time.NewTimer(2 * IdleInterval)
		s.quiet.Stop() // until the first unit
		defer s.quiet.Stop()
		quiet = s.quiet.C
	}
	for {
		it, what := s.in.next(nil, quiet)
		switch what {
		case newsItem:
		case newsQuiet:
			if err := s.idle(); err != nil {
				return err
			}
			continue
		case newsClosed, newsFailed:
			s.credits.flush()
			return nil
		}
		if it.Unit != nil {
			err := s.unit(it.Unit)
			s.credits.done(it.Unit)
			if err != nil {
				return err
			}
			continue
		}
		if len(it.Tracks) != 1 || equalTracks(it.Tracks[0], in) {
			continue
		}
		in = it.Tracks[0]
		if err := guard(s.ctx, s.id, s.a.hide, func() error { return s.tr.SetTrack(in) }); err != nil {
			return fmt.Errorf("changing the track: %w", err)
		}
		if err := s.announce(in); err != nil {
			return err
		}
	}
}

// announce tells the gateway the output's track, if it is new.
func (s *transformSession) announce(in media.Track) error {
	var t media.Track
	if err := guard(s.ctx, s.id, s.a.hide, func() error { t = s.tr.Track(); return nil }); err != nil {
		return err
	}
	t.ID, t.DerivedFrom = s.outID, in.ID
	if !equalTracks(t, s.track) {
		s.track = t
		s.out.SetTracks([]media.Track{t})
	}
	return nil
}

// unit transforms one unit. Its own failure costs that unit alone, a panic or
// too many failures in a row the session.
func (s *transformSession) unit(u *media.AccessUnit) error {
	s.taken = time.Now()
	if s.quiet != nil {
		s.quiet.Reset(2 * IdleInterval)
	}
	return s.call(u.Received, func(emit func(*media.AccessUnit)) error { return s.tr.Transform(u, emit) })
}

// idle lets an Idler say something.
func (s *transformSession) idle() error {
	now := time.Now()
	s.quiet.Reset(IdleInterval)
	return s.call(now, func(emit func(*media.AccessUnit)) error { return s.tr.(Idler).Idle(now.Sub(s.taken), emit) })
}

// call calls the transformer and publishes what it emits, as received at the time
// given unless it says otherwise.
func (s *transformSession) call(received time.Time, f func(emit func(*media.AccessUnit)) error) error {
	var bad error
	err := guard(s.ctx, s.id, s.a.hide, func() error {
		bad = f(func(o *media.AccessUnit) {
			o.Track = s.outID
			if o.Received.IsZero() {
				o.Received = received
			}
			s.follow(o)
			s.out.WriteAccessUnit(o)
		})
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.report(); err != nil {
		return err
	}
	if bad == nil {
		s.failures = 0
		return nil
	}
	s.gap = true
	s.failures++
	if s.failures == 1 {
		slog.Warn("a unit could not be transformed", "session", s.id, "error", bad)
	}
	if s.failures == transformErrorsMax {
		return &Error{Cause: CausePlugin, Err: fmt.Errorf("%d units in a row could not be transformed: %w", s.failures, bad)}
	}
	return nil
}

// report sends the transformer's figures once a second.
func (s *transformSession) report() error {
	r, ok := s.tr.(TransformReporter)
	if !ok || time.Since(s.reported) < statsInterval {
		return nil
	}
	s.reported = time.Now()
	var values map[string]float64
	if err := guard(s.ctx, s.id, s.a.hide, func() error { values = r.Figures(); return nil }); err != nil {
		return err
	}
	s.a.out.Control(&wire.PluginMsg{M: &wire.PluginMsg_Stats{Stats: &wire.SessionStats{Session: s.id, Values: values}}})
	return nil
}

// follow marks a unit that leaves a hole after input was lost. A transformer that
// fills the time of what it could not read leaves none.
func (s *transformSession) follow(o *media.AccessUnit) {
	const rounding = time.Millisecond
	if s.gap && o.DTS-s.next > rounding {
		o.Discontinuity, s.gap = true, false
	}
	s.next = o.DTS + o.Duration
}

// The rest is the receiving goroutine's.

func (s *transformSession) receive(it wire.Item) { s.in.put(it) }
func (s *transformSession) keyframe(uint32)      {} // for ingests
func (s *transformSession) targetBitrate(uint64) {} // for ingests

func (s *transformSession) close(reason string, drain, lost bool) {
	s.in.close(drain)
	if !drain {
		s.cancel()
		s.out.close(reason, false, lost)
		return
	}
	time.AfterFunc(s.a.closeTime()/2, s.cancel)
}
