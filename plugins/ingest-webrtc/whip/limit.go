package whip

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/secret"
)

// Limits of requests. A publisher needs one POST, a few PATCH and one DELETE.
const (
	requestsBurst   = 1000
	requestInterval = 10 * time.Millisecond // one more each
	// Wrong tokens, of one address for one stream: nobody mistypes more often.
	failuresBurst   = 10
	failureInterval = 3 * time.Second
	// maxBuckets bounds the memory of a limiter.
	maxBuckets = 10_000
)

// limits are those of one Handler. Safe for concurrent use.
type limits struct {
	requests *limiter // by address
	failures *limiter // by address and stream

	mu   sync.Mutex               // guards the field below
	good map[string]secret.String // by stream
}

func newLimits() *limits {
	return &limits{
		requests: newLimiter(requestsBurst, requestInterval),
		failures: newLimiter(failuresBurst, failureInterval),
		good:     map[string]secret.String{},
	}
}

// guess reports whether the token of r may be tried now, and if not, when. The token
// that was right last may always: who guesses shall not lock out who knows,
// where both come from one address.
func (l *limits) guess(r Request) (time.Duration, bool) {
	l.mu.Lock()
	g, ok := l.good[r.Stream]
	l.mu.Unlock()
	if ok && g.Equal(r.Token) {
		return 0, true
	}
	return l.failures.peek(failureKey(r))
}

func (l *limits) wrong(r Request) { l.failures.take(failureKey(r)) }

// right remembers the token. Only names of routes come here.
func (l *limits) right(r Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.good) >= maxBuckets {
		clear(l.good)
	}
	l.good[r.Stream] = r.Token
}

func failureKey(r Request) string { return addressKey(r.Remote) + " " + r.Stream }

// addressKey is what counts as one address: of IPv6 the network, of which one
// machine has all.
func addressKey(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	const networkBits = 64
	p, err := ip.Prefix(networkBits)
	if err != nil {
		return ip.String()
	}
	return p.String()
}

// A limiter is a token bucket per key. Safe for concurrent use.
type limiter struct {
	burst    int
	interval time.Duration

	mu sync.Mutex // guards the field below
	// full is when each bucket is full again; one that is full has no entry.
	full map[string]time.Time
}

func newLimiter(burst int, interval time.Duration) *limiter {
	return &limiter{burst: burst, interval: interval, full: map[string]time.Time{}}
}

// peek reports whether key has a token left, and if not, when there will be one.
func (l *limiter) peek(key string) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.look(key, time.Now())
}

func (l *limiter) look(key string, now time.Time) (time.Duration, bool) {
	full, used := l.full[key]
	if !used {
		return 0, true
	}
	wait := full.Sub(now) - time.Duration(l.burst-1)*l.interval
	return max(wait, 0), wait <= 0
}

// take takes a token of key if there is one.
func (l *limiter) take(key string) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if wait, ok := l.look(key, now); !ok {
		return wait, false
	}
	if len(l.full) >= maxBuckets {
		l.sweep(now)
	}
	from := l.full[key]
	if from.Before(now) {
		from = now
	}
	l.full[key] = from.Add(l.interval)
	return 0, true
}

// sweep forgets the full buckets; all of them if that is not enough.
func (l *limiter) sweep(now time.Time) {
	for k, at := range l.full {
		if at.Before(now) {
			delete(l.full, k)
		}
	}
	if len(l.full) >= maxBuckets {
		clear(l.full)
	}
}
