package session

import (
	"sync"
	"sync/atomic"
	"time"
)

// A dropWatch counts the packets that the kernel threw away before the gateway
// read them: the machine is too slow or the receive buffer too small. The zero
// value is ready.
type dropWatch struct {
	total atomic.Uint64

	mu     sync.Mutex // guards the fields below
	last   map[*socket]uint32
	warned time.Time
}

// warnDropsEvery is how often drops are logged while they go on.
const warnDropsEvery = 10 * time.Second

// watchDrops counts, and says so in the log. It is called about once a second.
func (p *port) watchDrops() {
	w := &p.drops
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		w.last = map[*socket]uint32{}
	}
	more := uint64(0)
	for _, s := range p.sockets {
		if n, ok := dropped(s.conn); ok {
			more += uint64(n - w.last[s])
			w.last[s] = n
		}
	}
	total := w.total.Add(more)
	if now := time.Now(); more > 0 && now.Sub(w.warned) >= warnDropsEvery {
		w.warned = now
		p.log.Warn("the kernel dropped packets of publishers: the machine is busy or net.core.rmem_max is small", "packets", more, "since_start", total)
	}
}
