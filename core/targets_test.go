package core

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// anyTag takes every tag.
func anyTag(string) error { return nil }

// TestTargets gives, changes and removes targets of a stream that runs; the others
// lose nothing.
func TestTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plugins{}
		g := gateway(p)
		cfg := conf()
		for i := range cfg.Routes[0].To {
			to := &cfg.Routes[0].To[i]
			to.Definition = secret.New(fmt.Sprintf(`{"url": "rtmp://h/app", "key": %q, "enabled": %v}`, to.Key.Reveal(), to.Enabled))
		}
		cfg.Catalog = config.Catalog{"egress-rtmp": &wire.DescribeResponse{Egress: &wire.EgressInfo{Schemes: []string{"rtmp"}}}}
		stop := runsWith(t, g, cfg)
		pub := p.publish("studio", "t")
		pub.tracks()
		synctest.Wait()
		fed := 0
		feed := func() {
			t.Helper()
			at := time.Duration(fed/75) * time.Second
			pub.feedFrom(at, at+time.Second)
			synctest.Wait()
			fed += 25 + 50
			// What two gets is the picture and the sound derived for all.
			if st, _, err := g.Target("studio", "two"); err != nil || st.UnitsSent != uint64(fed) || len(st.UnitsDropped) > 0 || st.Attempt != 1 || st.State != status.TargetLive {
				t.Errorf("the sibling got %d of %d units, dropped %v, %d sessions, %s %v", st.UnitsSent, fed, st.UnitsDropped, st.Attempt, st.State, err)
			}
		}
		said := func(want string) {
			t.Helper()
			synctest.Wait()
			p.mu.Lock()
			got := strings.Join(p.events, "; ")
			p.events = nil
			p.mu.Unlock()
			if !strings.Contains(got, want) || want == "" && got != "" {
				t.Errorf("said %q, want %q", got, want)
			}
		}
		state := func(name string, want status.TargetState) string {
			t.Helper()
			st, tag, err := g.Target("studio", name)
			if err != nil || st.State != want || st.Name != name {
				t.Errorf("%s: %s %v, want %s", name, st.State, err, want)
			}
			return tag
		}
		feed()
		said("open studio to two key k2")

		// A new one.
		created, ds, err := g.PutTarget("studio", "three", []byte(`{"url": "rtmp://h/app", "key": "k3"}`), anyTag)
		if !created || err != nil || len(ds) > 0 {
			t.Errorf("%v %v %v", created, ds, err)
		}
		said("open studio to three key k3")
		feed()
		tag := state("three", status.TargetLive)

		// The same once more changes nothing.
		if created, _, err = g.PutTarget("studio", "three", []byte(`{"key": "k3", "url": "rtmp://h/app"}`), anyTag); created || err != nil || state("three", status.TargetLive) != tag {
			t.Errorf("%v %v", created, err)
		}
		said("")

		// Another key: a goodbye, and a session with it.
		if _, err := g.PatchTarget("studio", "three", []byte(`{"key": "k4"}`), anyTag); err != nil {
			t.Error(err)
		}
		said("close studio to three key k3: the target was changed, drain true; open studio to three key k4")
		feed()
		if state("three", status.TargetLive) == tag {
			t.Error("the tag is that of before")
		}

		// Off and on.
		patch := func(name, patch string) {
			t.Helper()
			if _, err := g.PatchTarget("studio", name, []byte(patch), anyTag); err != nil {
				t.Errorf("%s %s: %v", name, patch, err)
			}
		}
		patch("one", `{"enabled": false}`)
		said("close studio to one key k1")
		feed()
		state("one", status.TargetIdle)
		patch("one", `{"enabled": null}`)
		said("open studio to one key k1")
		feed()
		state("one", status.TargetLive)
		patch("off", `{"enabled": true, "key": "k9"}`)
		feed()
		state("off", status.TargetLive)

		// Both at once, and only the one again.
		patch("three", `{"backup": "rtmp://b/app", "mode": "both"}`)
		said("open studio to three~backup key k4")
		feed()
		state("three", status.TargetLive)
		state("three~backup", status.TargetLive)
		patch("three", `{"mode": null}`)
		said("close studio to three~backup key k4")
		if _, _, err := g.Target("studio", "three~backup"); !errors.Is(err, status.ErrNoTarget) {
			t.Error(err)
		}
		feed()

		// Gone, and back at once: the new one waits for the goodbye of the old one.
		said("")
		p.slow = true
		if err := g.RemoveTarget("studio", "three", anyTag); err != nil {
			t.Error(err)
		}
		if _, _, err := g.PutTarget("studio", "three", []byte(`{"url": "rtmp://h/app", "key": "k5"}`), anyTag); err != nil {
			t.Error(err)
		}
		said("close studio to three key k4: the gateway ends, drain true")
		feed()
		p.slow = false
		time.Sleep(5 * time.Second)
		said("open studio to three key k5")

		// Two at once: who comes second starts again from what the first has made.
		var tags []string
		meanwhile := func(tag string) error {
			tags = append(tags, tag)
			if len(tags) == 1 {
				patch("three", `{"key": "k6"}`)
			}
			return nil
		}
		if _, err := g.PatchTarget("studio", "three", []byte(`{"max_lag": "3s"}`), meanwhile); err != nil || len(tags) != 2 || tags[0] == tags[1] {
			t.Errorf("%v, asked with %q", err, tags)
		}
		time.Sleep(5 * time.Second)
		said("open studio to three key k6")

		// What is no target, no stream, or refused.
		no := func(err, want error) {
			t.Helper()
			if !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
		_, err = g.PatchTarget("studio", "none", []byte(`{}`), anyTag)
		no(err, status.ErrNoTarget)
		no(g.RemoveTarget("studio", "none", anyTag), status.ErrNoTarget)
		no(g.RemoveTarget("live/eve", "cdn", anyTag), status.ErrNoStream)
		_, _, err = g.PutTarget("nothing", "x", []byte(`{}`), anyTag)
		no(err, status.ErrNoStream)
		mine := errors.New("not this one")
		refuse := func(tag string) error {
			if tag == "" {
				t.Error("no tag")
			}
			return mine
		}
		no(g.RemoveTarget("studio", "one", refuse), mine)
		_, err = g.PatchTarget("studio", "one", []byte(`{"enabled": false}`), refuse)
		no(err, mine)
		_, _, err = g.PutTarget("studio", "one", []byte(`{"url": "rtmp://h/app", "key": "k"}`), refuse)
		no(err, mine)
		var invalid *status.InvalidTargetError
		if _, _, err = g.PutTarget("studio", "one", []byte(`{"url": "rtpm://h/app"}`), anyTag); !errors.As(err, &invalid) || len(invalid.Diagnostics) != 1 || invalid.Diagnostics[0].Path != "url" {
			t.Errorf("%v", err)
		}
		if _, err = g.PatchTarget("studio", "one", []byte(`5`), anyTag); !errors.As(err, &invalid) {
			t.Errorf("%v", err)
		}
		feed()
		state("one", status.TargetLive)

		// There is an end to them.
		for i := 0; ; i++ {
			_, _, err := g.PutTarget("loop", fmt.Sprintf("t%d", i), []byte(`{"url": "rtmp://h/app", "key": "k", "enabled": false}`), anyTag)
			if err == nil && i < maxTargets {
				continue
			}
			if i != maxTargets || !errors.Is(err, status.ErrTooManyTargets) {
				t.Errorf("after %d: %v", i, err)
			}
			break
		}
		pub.end(pluginhost.End{})
		if err := stop(); err != nil {
			t.Error(err)
		}
		_, _, err = g.PutTarget("studio", "late", []byte(`{"url": "rtmp://h/app", "key": "k"}`), anyTag)
		no(err, status.ErrEnding)
	})
}

// TestTargetsAtRandom changes the targets of a live stream in every way, at moments
// of chance, with servers that refuse, stall and die. The one that nobody touches
// loses nothing, the list is what was asked for, and nothing is left behind.
func TestTargetsAtRandom(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			p := &plugins{}
			g := gateway(p)
			cfg := conf()
			for i := range cfg.Routes[0].To {
				to := &cfg.Routes[0].To[i]
				to.Definition = secret.New(fmt.Sprintf(`{"url": "rtmp://h/app", "key": "k%d", "enabled": %v}`, i, to.Enabled))
			}
			cfg.Catalog = config.Catalog{"egress-rtmp": &wire.DescribeResponse{Egress: &wire.EgressInfo{Schemes: []string{"rtmp"}}}}
			stop := runsWith(t, g, cfg)
			pub := p.publish("studio", "t")
			pub.tracks()
			synctest.Wait()
			there := map[string]bool{"one": true, "off": true} // beside two, which stays
			fed := time.Duration(0)
			for range 150 {
				name := fmt.Sprintf("t%d", rnd.IntN(4))
				if rnd.IntN(3) == 0 {
					name = []string{"one", "off"}[rnd.IntN(2)]
				}
				var err error
				switch rnd.IntN(6) {
				case 0:
					_, _, err = g.PutTarget("studio", name, fmt.Appendf(nil, `{"url": "rtmp://h/app", "key": "p%d"}`, rnd.IntN(1000)), anyTag)
					there[name] = true
				case 1:
					err = g.RemoveTarget("studio", name, anyTag)
				case 2:
					_, err = g.PatchTarget("studio", name, fmt.Appendf(nil, `{"enabled": %v}`, rnd.IntN(2) == 0), anyTag)
				case 3:
					_, err = g.PatchTarget("studio", name, fmt.Appendf(nil, `{"key": "r%d"}`, rnd.IntN(1000)), anyTag)
				case 4:
					_, err = g.PatchTarget("studio", name, []byte(`{"backup": "rtmp://b/app", "mode": "`+[]string{"both", "failover"}[rnd.IntN(2)]+`"}`), anyTag)
				case 5:
					// One of the sessions that are not two's ends by itself.
					p.mu.Lock()
					var ends []*conn
					for c := range p.open {
						if strings.Contains(c.name, " to ") && !strings.Contains(c.name, "to two") && c.src != nil && !c.copy {
							ends = append(ends, c)
						}
					}
					p.mu.Unlock()
					slices.SortFunc(ends, func(a, b *conn) int { return strings.Compare(a.name, b.name) })
					if len(ends) > 0 {
						e := pluginhost.End{Failed: true, Cause: pluginhost.CauseRemote, Message: "gone", Permanent: rnd.IntN(4) == 0}
						ends[rnd.IntN(len(ends))].end(e)
					}
					err = status.ErrNoTarget
				}
				if err != nil && !errors.Is(err, status.ErrNoTarget) {
					t.Errorf("%s: %v", name, err)
				}
				if errors.Is(err, status.ErrNoTarget) && name != "" {
					_, _, err := g.Target("studio", name)
					there[name] = err == nil
				} else if _, _, err := g.Target("studio", name); err != nil {
					there[name] = false
				}
				if rnd.IntN(3) == 0 {
					step := time.Duration(1+rnd.IntN(20)) * 40 * time.Millisecond
					pub.feedFrom(fed, fed+step)
					fed += step
				}
			}
			synctest.Wait()
			st, _, err := g.Target("studio", "two")
			units := uint64(fed/(20*time.Millisecond)) + uint64(fed/(40*time.Millisecond))
			if err != nil || st.UnitsSent != units || len(st.UnitsDropped) > 0 || st.Attempt != 1 {
				t.Errorf("seed %d: two got %d of %d units in %d sessions, dropped %v, %v", seed, st.UnitsSent, units, st.Attempt, st.UnitsDropped, err)
			}
			for _, s := range g.Streams() {
				if s.Name != "studio" {
					continue
				}
				for _, tg := range s.Targets {
					name, _ := strings.CutSuffix(tg.Name, "~backup")
					if name != "two" && !there[name] {
						t.Errorf("seed %d: %s is listed and was removed", seed, tg.Name)
					}
				}
			}
			pub.end(pluginhost.End{})
			if err := stop(); err != nil {
				t.Error(err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.open) > 0 {
				t.Errorf("seed %d: %d sessions are left", seed, len(p.open))
			}
		})
	}
}
