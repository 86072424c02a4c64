package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/internal/whipclient"
)

// receivers are the RTMP servers that the gateway publishes to.
type receivers struct {
	addrs  []string
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex // guards the fields below
	arrivals  map[arrival]*pictures
	measuring bool
}

// An arrival is one publication at one receiver.
type arrival struct {
	receiver int
	id       uint64
}

// pictures are what came of one publication.
type pictures struct {
	setup             time.Duration // POST to first picture
	last              uint64        // frame number
	latency           []time.Duration
	count, lost       int
	disordered, audio int
}

func startReceivers(ctx context.Context, n int) (*receivers, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &receivers{cancel: cancel, arrivals: map[arrival]*pictures{}}
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			r.stop()
			return nil, fmt.Errorf("starting a receiver: %w", err)
		}
		r.addrs = append(r.addrs, l.Addr().String())
		s := &rtmp.Server{Listener: l, OnMessage: func(p *rtmp.Publish, m rtmp.Message, at time.Time) { r.message(arrival{i, p.ID}, m, at) }}
		r.wg.Go(func() {
			if err := s.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				fmt.Println("receiver:", err)
			}
		})
	}
	return r, nil
}

func (r *receivers) stop() {
	r.cancel()
	r.wg.Wait()
}

func (r *receivers) message(a arrival, m rtmp.Message, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.arrivals[a]
	if p == nil {
		p = &pictures{}
		r.arrivals[a] = p
	}
	if m.Type == rtmp.TypeAudio && r.measuring {
		p.audio++
	}
	if m.Type != rtmp.TypeVideo {
		return
	}
	timing, found := whipclient.FindTiming(m.Body)
	if !found {
		return // a sequence header
	}
	if p.last == 0 {
		p.setup = at.Sub(timing.Posted)
	}
	if r.measuring {
		p.count++
		p.latency = append(p.latency, at.Sub(timing.Sent))
		switch {
		case timing.Frame <= p.last:
			p.disordered++
		case p.last > 0:
			p.lost += int(timing.Frame - p.last - 1)
		}
	}
	p.last = timing.Frame
}

func (r *receivers) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.arrivals)
}

func (r *receivers) measure(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.measuring = on
}

// setups returns the times from POST to first picture of the publications that
// have one.
func (r *receivers) setups() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var d []time.Duration
	for _, p := range r.arrivals {
		if p.setup > 0 {
			d = append(d, p.setup)
		}
	}
	return d
}

func (r *receivers) fill(s *steady) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.arrivals {
		s.latency = append(s.latency, p.latency...)
		s.pictures += p.count
		s.lost += p.lost
		s.disordered += p.disordered
		s.audio += p.audio
	}
}
