package pluginhost

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/wire"
)

// desk decides on offers by the stream's name.
type desk struct {
	offers   chan Offer
	recorder *recorder
	session  chan Session
}

func (d *desk) Offer(_ string, o Offer, accept func(uint64, SessionHandler) Session, reject func(Rejection)) {
	d.offers <- o
	if o.Name != "good" {
		reject(Rejection{Reason: wire.OfferRejected_CONFLICT, Message: "taken", RetryAfter: 3 * time.Second})
		return
	}
	go func() { d.session <- accept(7, d.recorder) }()
}

func (d *desk) Enquire(name string) (bool, string) { return name == "good", "no route" }

func TestOffers(t *testing.T) {
	f := func(end string, want End, tail string) {
		t.Run("end="+end, func(t *testing.T) {
			d := &desk{offers: make(chan Offer, 8), recorder: record(), session: make(chan Session, 1)}
			h := start(t, spec("serve"), d)
			h.Need("test", "")
			get(t, h.Ready("test"))
			srv := httptest.NewServer(h.Mounts()[0].Handler)
			defer srv.Close()
			until(t, "the handler", func() bool { return request(t, http.MethodGet, srv.URL+"/test/hello", nil).code == 200 })

			res := request(t, http.MethodPost, srv.URL+"/test/offer/bad", http.Header{"Authorization": {"Bearer t0ken"}})
			if res.code != http.StatusForbidden || res.body != "conflict taken 3s\n" {
				t.Errorf("%+v", res)
			}
			for name, want := range map[string]string{"good": "<nil>", "nosuch": "offer rejected: no route"} {
				if res := request(t, http.MethodGet, srv.URL+"/test/enquire/"+name, nil); res.body != want {
					t.Errorf("enquiry for %s: %+v", name, res)
				}
			}
			o := get(t, d.offers)
			if o.Name != "bad" || o.Credentials.Reveal() != "Bearer t0ken" || !strings.HasPrefix(o.Remote, "127.0.0.1:") || len(o.Codecs) != 1 {
				t.Errorf("offer %+v", o)
			}
			answer := make(chan response, 1)
			go func() { answer <- request(t, http.MethodPost, srv.URL+"/test/offer/good?end="+end, nil) }()
			s, r := get(t, d.session), d.recorder
			get(t, r.ready)
			until(t, "units", func() bool { return r.unitCount() == 4 })
			s.RequestKeyframe(1)
			s.SetTargetBitrate(500_000)
			s.SetTargetStates([]TargetState{{Name: "old"}})
			s.SetTargetStates([]TargetState{{Name: "cdn", State: wire.TargetStates_LIVE}, {Name: "two", State: wire.TargetStates_FAILED, Reason: "so"}, {Name: "new", State: 99}})
			if end == "asked" {
				s.Close("another publisher took over", false)
			}
			if e := get(t, r.ended); e != want {
				t.Errorf("ended with %+v, want %+v", e, want)
			}
			if res := get(t, answer); res.body != "keyframe 1\nbitrate 500000\n"+tail {
				t.Errorf("%+v", res)
			}
			checkPublished(t, r)
		})
	}
	f("clean", End{}, "")
	f("lost", End{Failed: true, Cause: CauseRemote, Message: "the publisher vanished"}, "")
	f("asked", End{}, "another publisher took over [{cdn live } {two failed so} {new connecting }] true\n")
}

func checkPublished(t *testing.T, r *recorder) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.tracks) != 1 || r.tracks[0][0].Width != 640 || r.tracks[0][0].DecoderConfig[0] != 1 {
		t.Errorf("tracks %+v", r.tracks)
	}
	one, two, three, big := r.units[0], r.units[1], r.units[2], r.units[3]
	if one.PTS != time.Second || !one.RandomAccess || one.Discontinuity || string(one.Payload) != "one" ||
		!one.Captured.Equal(time.Unix(1700000000, 5)) {
		t.Errorf("first unit %+v", one.Clone())
	}
	if age := time.Since(one.Received); age < 100*time.Millisecond || age > patience {
		t.Errorf("the first unit was received %v ago", age)
	}
	if two.Seq != 1 || !two.Disposable || two.Discontinuity {
		t.Errorf("second unit %+v", two.Clone())
	}
	if three.Seq != 3 || !three.Discontinuity { // one between went back in time
		t.Errorf("third unit %+v", three.Clone())
	}
	if len(big.Payload) != 6<<20 {
		t.Errorf("big unit of %d bytes", len(big.Payload))
	}
	if len(r.stats) != 1 || r.stats[0].Bytes != 42 || r.stats[0].UnitsLost != 1 {
		t.Errorf("stats %+v", r.stats)
	}
}
