// Package publish lets publishers in: it decides on what ingests offer, gives the
// stream's name to whoever has the right to it, checks what arrives, and keeps a
// stream held for a publisher who was lost. It also runs the pulls, by which the
// gateway fetches a stream itself.
//
// It knows routes, names and sessions of ingests. It does not know where streams
// go, nor protocols.
package publish

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/headgate/gateway/core/auth"
	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/derive"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// Streams has the streams of the gateway.
type Streams interface {
	// Claim calls use with the stream of that name, which is made for the route if
	// there is none. The stream is not given up while use runs. It reports false,
	// without calling use, when the gateway takes no more streams.
	Claim(route *config.Route, name string, use func(*Stream)) bool
}

// Egress says what a target accepts, as far as it is known without asking it.
type Egress func(t *config.Target) (pluginhost.Accepts, bool)

// A Door decides on offers. It implements [pluginhost.Offers].
type Door struct {
	conf       *config.Config
	tokens     *auth.Tokens
	streams    Streams
	egress     Egress
	transforms derive.Transforms
	log        *slog.Logger

	mu     sync.Mutex // guards the fields below
	closed bool
}

var (
	_ pluginhost.Offers   = (*Door)(nil)
	_ pluginhost.Enquirer = (*Door)(nil)
)

// NewDoor makes a door for the routes of conf.
func NewDoor(conf *config.Config, streams Streams, egress Egress, transforms derive.Transforms, log *slog.Logger) *Door {
	return &Door{
		conf: conf, tokens: auth.New(conf.Routes), streams: streams,
		egress: egress, transforms: transforms, log: log,
	}
}

// Close rejects all offers from now on.
func (d *Door) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
}

func (d *Door) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

// goingAway is when to come back to a gateway that ends.
const goingAway = 5 * time.Second

// Offer implements [pluginhost.Offers]. A name that is taken goes to the newcomer:
// he has the same right to it, and the one who has it is often his own session
// that died. The one before feeds the stream until the newcomer has a picture.
func (d *Door) Offer(plugin string, o pluginhost.Offer, accept func(uint64, pluginhost.SessionHandler) pluginhost.Session, reject func(pluginhost.Rejection)) {
	route, no := d.decide(o)
	if no != nil {
		d.log.Info("publisher rejected", "stream", o.Name, "plugin", plugin, "remote", o.Remote, "agent", o.Agent,
			"reason", no.Reason, "message", no.Message)
		reject(*no)
		return
	}
	ok := d.streams.Claim(route, o.Name, func(s *Stream) {
		p := s.attach(plugin, o.Remote)
		p.offered = d.carried(route, o.Codecs)
		p.bind(accept(s.router.ID(), p))
	})
	if !ok {
		reject(*busy())
		return
	}
	d.log.Info("publisher accepted", "stream", o.Name, "plugin", plugin, "remote", o.Remote, "agent", o.Agent)
}

// Enquire implements [pluginhost.Enquirer]. It tells no more than an offer without
// credentials would.
func (d *Door) Enquire(name string) (open bool, why string) {
	_, no := d.decide(pluginhost.Offer{Name: name})
	if no == nil || no.Reason != wire.OfferRejected_NOT_FOUND {
		return true, ""
	}
	return false, no.Message
}

func busy() *pluginhost.Rejection {
	return &pluginhost.Rejection{Reason: wire.OfferRejected_BUSY, Message: "the gateway is shutting down", RetryAfter: goingAway}
}

func (d *Door) decide(o pluginhost.Offer) (*config.Route, *pluginhost.Rejection) {
	no := func(r wire.OfferRejected_Reason, message string) (*config.Route, *pluginhost.Rejection) {
		return nil, &pluginhost.Rejection{Reason: r, Message: message}
	}
	if d.isClosed() {
		return nil, busy()
	}
	if err := config.CheckStreamName(o.Name); err != nil {
		return no(wire.OfferRejected_NOT_FOUND, "this is not the name of a stream: "+err.Error())
	}
	route := d.conf.Route(o.Name)
	if route == nil {
		return no(wire.OfferRejected_NOT_FOUND, "no route has the name "+o.Name)
	}
	switch d.tokens.Decide(route.Name, o.Credentials) {
	case auth.Allowed:
	case auth.Unauthenticated:
		if o.Credentials.Empty() {
			return no(wire.OfferRejected_UNAUTHENTICATED, "a token is needed to publish "+o.Name)
		}
		return no(wire.OfferRejected_UNAUTHENTICATED, "the token is wrong")
	case auth.Forbidden:
		return no(wire.OfferRejected_FORBIDDEN, "the token is for another stream than "+o.Name)
	default:
		return no(wire.OfferRejected_NOT_FOUND, "nobody publishes "+o.Name+": the gateway fetches it itself")
	}
	if why := d.unusable(route, o.Codecs); why != "" {
		return no(wire.OfferRejected_UNUSABLE, why)
	}
	return route, nil
}

// carried are those of codecs that every target of the route can carry for certain;
// of a kind of which there is none, those that some target can.
func (d *Door) carried(route *config.Route, codecs []media.Codec) []media.Codec {
	var all, some []media.Codec
	for _, c := range codecs {
		can, cannot := 0, 0
		for i := range route.To {
			t := &route.To[i]
			if !t.Enabled {
				continue
			}
			if a, known := d.egress(t); !known || derive.Carried(c, derive.WantOf(t.Audio, a), d.transforms) {
				can++
			} else {
				cannot++
			}
		}
		switch {
		case cannot == 0:
			all = append(all, c)
		case can > 0:
			some = append(some, c)
		}
	}
	out := slices.Clip(all)
	for _, c := range some {
		if !slices.ContainsFunc(all, func(a media.Codec) bool { return a.Kind() == c.Kind() }) {
			out = append(out, c)
		}
	}
	return out
}

// unusable says why no target of the route could use what the publisher can send;
// empty if one could, if there is none, or if nothing is known. A target that
// cannot, beside others that can, shows that itself: it must not cost the others
// their publisher.
func (d *Door) unusable(route *config.Route, codecs []media.Codec) string {
	first := ""
	for i := range route.To {
		t := &route.To[i]
		if !t.Enabled {
			continue
		}
		a, known := d.egress(t)
		if !known {
			return ""
		}
		why := derive.Usable(codecs, derive.WantOf(t.Audio, a), d.transforms)
		if why == "" {
			return ""
		}
		if first == "" {
			first = t.Name + ": " + why
		}
	}
	return first
}

// validTracks returns the tracks that can be used, and what is wrong with others.
func validTracks(tracks []media.Track) (good []media.Track, wrong []string) {
	const most = 32
	for _, t := range tracks {
		switch {
		case t.ID == 0:
			wrong = append(wrong, "a track without id")
		case t.Codec.Kind() == media.UnknownKind:
			wrong = append(wrong, "a track of an unknown codec")
		case slices.ContainsFunc(good, func(o media.Track) bool { return o.ID == t.ID }):
			wrong = append(wrong, "two tracks of one id")
		case len(good) == most:
			wrong = append(wrong, "too many tracks")
		default:
			good = append(good, t)
		}
	}
	return good, wrong
}

// farPTS is how far a picture may be shown after it is decoded.
const farPTS = 10 * time.Second

// wellFormed reports whether a unit has the outer shape of its codec: the lengths
// of NAL units add up. It looks at four bytes per NAL unit.
func wellFormed(c media.Codec, u *media.AccessUnit) bool {
	if len(u.Payload) == 0 || u.PTS-u.DTS > farPTS || u.PTS-u.DTS < -farPTS {
		return false
	}
	if c != media.H264 && c != media.H265 {
		return true
	}
	for b := u.Payload; len(b) > 0; {
		if len(b) < 5 {
			return false
		}
		n := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
		if n == 0 || n > uint64(len(b)-4) {
			return false
		}
		b = b[4+n:]
	}
	return true
}
