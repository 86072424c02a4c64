package session

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/pion/webrtc/v4"
)

// A reach keeps up to date how publishers reach the port: the public addresses, and
// the TURN servers that answer.
type reach struct {
	port   *port
	relays relays
	stun   []string // asked for the public address; none if it is fixed

	once  sync.Once
	known chan struct{} // closed when everything has been asked once

	mu       sync.Mutex // guards the field below
	mappings []mapping
}

func newReach(p *port, cfg Config) (*reach, error) {
	r := &reach{port: p, stun: cfg.STUN, known: make(chan struct{}), relays: relays{servers: cfg.TURN}}
	var err error
	r.mappings, err = p.staticMappings(cfg.PublicIPs)
	return r, err
}

// run asks until ctx ends.
func (r *reach) run(ctx context.Context) {
	var all, first sync.WaitGroup
	loop := func(ask func() time.Duration) {
		first.Add(1)
		all.Go(func() {
			wait := ask()
			first.Done()
			for {
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					return
				}
				wait = ask()
			}
		})
	}
	if len(r.stun) > 0 {
		loop(func() time.Duration { return r.discover(ctx) })
	}
	for _, s := range r.relays.servers {
		loop(func() time.Duration { return r.probe(ctx, s) })
	}
	all.Go(func() {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				r.port.watchDrops()
			case <-ctx.Done():
				return
			}
		}
	})
	first.Wait()
	r.once.Do(func() { close(r.known) })
	all.Wait()
}

// wait returns when everything has been asked once, or ctx ends.
func (r *reach) wait(ctx context.Context) {
	select {
	case <-r.known:
	case <-ctx.Done():
	}
}

func (r *reach) discover(ctx context.Context) time.Duration {
	found, err := r.port.discover(ctx, r.stun)
	if err != nil {
		if ctx.Err() == nil {
			r.port.log.Warn("public address not found: publishers beyond a NAT may not reach the gateway; set public_ips or check stun_servers", "error", err)
		}
		return discoverAgain
	}
	r.mu.Lock()
	news := !slices.Equal(r.mappings, found)
	r.mappings = found
	r.mu.Unlock()
	if news {
		for _, m := range found {
			r.port.log.Info("public address found", "address", m.public.String(), "of", m.local.String())
		}
	}
	return discoverEvery
}

func (r *reach) probe(ctx context.Context, s ICEServer) time.Duration {
	err := s.probe(ctx)
	if ctx.Err() != nil {
		return relayEvery
	}
	switch changed := r.relays.set(s.URL, err == nil); {
	case changed && err != nil:
		r.port.log.Warn("TURN server does not answer; going on without it", "url", s.URL, "error", err)
	case changed:
		r.port.log.Info("TURN server answers", "url", s.URL)
	}
	if err != nil {
		return relayAgain
	}
	return relayEvery
}

func (r *reach) current() []mapping {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mappings
}

func (r *reach) rules() []webrtc.ICEAddressRewriteRule { return rewrite(r.current()) }

// announced are the addresses that publishers are told, and the one of the machine
// behind each.
func (r *reach) announced() []mapping {
	out := slices.Clone(r.current())
	for _, s := range r.port.sockets {
		replaced := s.ip.IsLoopback() && slices.ContainsFunc(out, func(m mapping) bool { return m.local == s.ip })
		if !replaced && !slices.ContainsFunc(out, func(m mapping) bool { return m.public == s.ip }) {
			out = append(out, mapping{s.ip, s.ip})
		}
	}
	return out
}
