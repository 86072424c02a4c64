package egressrtmp

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/test/peers"
)

// toxic puts a proxy before addr whose way to the server has the toxic.
func toxic(t *testing.T, addr, toxicJSON string) *toxiproxy.Proxy {
	t.Helper()
	s := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	p := toxiproxy.NewProxy(s, "rtmp", "127.0.0.1:0", addr)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	if toxicJSON != "" {
		if _, err := p.Toxics.AddToxicJson(strings.NewReader(toxicJSON)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// TestBadNetworks publishes the card through networks that are slow, late, cut in
// pieces, reset and dead: what can be lived with arrives whole, the rest is heard of
// in time and by the right name.
func TestBadNetworks(t *testing.T) {
	f := func(name, toxicJSON string, classes ...string) {
		t.Run(name, func(t *testing.T) {
			r := receive(t)
			p := toxic(t, r.addr, toxicJSON)
			m := load(t, 0)
			m.units = m.units[:300] // four seconds
			s := open(t, "rtmp://"+p.Listen+"/app/key", Options{Interleave: InterleaveStrict}, m.tracks)
			err := pour(t, s, m)
			cerr := s.Close(t.Context())
			if len(classes) == 0 {
				if err = errors.Join(err, cerr); err != nil {
					t.Fatal(err)
				}
				if got := r.all(t); len(got) != len(m.units)+3 && len(got) != len(m.units)+2 {
					t.Errorf("%d messages of %d units arrived", len(got), len(m.units))
				}
				st := r.Stats()[0]
				if st.Video.Backward+st.Audio.Backward+st.BackwardAcross+st.ExtendedFaults+st.Malformed > 0 {
					t.Errorf("%+v", st)
				}
				return
			}
			var e *sdk.Error
			if !errors.As(err, &e) || !slices.Contains(classes, e.Class) || sdk.IsPermanent(err) {
				t.Errorf("%v, want one of %v", err, classes)
			}
		})
	}
	f("latency", `{"name":"t","type":"latency","stream":"upstream","attributes":{"latency":200,"jitter":100}}`)
	f("bandwidth", `{"name":"t","type":"bandwidth","stream":"upstream","attributes":{"rate":500}}`)
	f("slicer", `{"name":"t","type":"slicer","stream":"upstream","attributes":{"average_size":50,"size_variation":40,"delay":10}}`)
	// The proxy closes; whether that resets depends on what it had not read.
	f("cut", `{"name":"t","type":"limit_data","stream":"upstream","attributes":{"bytes":100000}}`, "reset", "closed")
}

// TestDeadNetwork: a network that resets a publication under way.
func TestDeadNetwork(t *testing.T) {
	f := func(toxicJSON string, classes ...string) {
		t.Helper()
		r := receive(t)
		p := toxic(t, r.addr, "")
		s := open(t, "rtmp://"+p.Listen+"/app/key", Options{}, []media.Track{h264A})
		write(t, s, video(0, true))
		peers.Wait(t, 30*time.Second, "the first picture", func() error {
			if len(r.Stats()) == 0 || r.Stats()[0].Video.Units == 0 {
				return errors.New("it is not there")
			}
			return nil
		})
		if _, err := p.Toxics.AddToxicJson(strings.NewReader(toxicJSON)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var err error
		for i := 1; err == nil; i++ {
			u := video(float64(33*i), false)
			u.Payload = make([]byte, 64<<10)
			err = s.WriteAccessUnit(t.Context(), u)
			if time.Since(start) > 30*time.Second {
				err = fmt.Errorf("nothing was noticed in 30 s")
			}
		}
		var e *sdk.Error
		if !errors.As(err, &e) || !slices.Contains(classes, e.Class) {
			t.Errorf("%s: %v, want one of %v", toxicJSON, err, classes)
		}
		_ = s.Close(t.Context())
	}
	f(`{"name":"t","type":"reset_peer","stream":"upstream","attributes":{"timeout":0}}`, "reset", "closed")
}

// pour writes all units of m.
func pour(t *testing.T, s *sink, m testMedia) error {
	t.Helper()
	for _, u := range m.units {
		if err := s.WriteAccessUnit(t.Context(), u); err != nil {
			return err
		}
	}
	return nil
}
