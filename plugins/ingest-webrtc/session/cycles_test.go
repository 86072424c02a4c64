package session_test

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/whipclient"
)

// take finds the publication of a stream and forgets it.
func (h *host) take(stream string) *publication {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.pubs, func(p *publication) bool { return p.offer.Name == stream })
	if i < 0 {
		return nil
	}
	p := h.pubs[i]
	h.pubs = slices.Delete(h.pubs, i, i+1)
	return p
}

// Publishers who come and go, politely, by hanging up, by vanishing or with garbage,
// leave nothing behind. `make soak` sets SOAK_SESSIONS.
func TestManySessions(t *testing.T) {
	sessions := 200
	if n, err := strconv.Atoi(os.Getenv("SOAK_SESSIONS")); err == nil {
		sessions = n
	}
	g := start(t)
	cfg := config(t, g)
	once := func(i int) error {
		stream := fmt.Sprintf("studio-%d", i)
		if i%10 == 9 {
			status, _, body := post(t, g.url+"-"+strconv.Itoa(i), strings.Repeat("v=0\r\ngarbage\r\n", 1+i%7))
			if status < 400 || status >= 500 {
				return fmt.Errorf("garbage: %d %s", status, body)
			}
			return nil
		}
		mine := cfg
		mine.URL += "-" + strconv.Itoa(i)
		p, err := whipclient.Publish(t.Context(), mine)
		if err != nil {
			return err
		}
		r := run(t, p)
		defer r.stop()
		pub := g.host.take(stream)
		if pub == nil {
			return fmt.Errorf("no publication of %s", stream)
		}
		pub.wait(t, "a picture", func() bool { return pub.count(1) > 0 })
		r.stop()
		switch i % 10 {
		case 7:
			p.Close()
		case 8:
			p.Vanish()
		default:
			if err := p.Delete(t.Context()); err != nil {
				return err
			}
		}
		return nil
	}
	play := func(from, to int) {
		t.Helper()
		var wg sync.WaitGroup
		next := make(chan int)
		for range 8 {
			wg.Go(func() {
				for i := range next {
					if err := once(i); err != nil {
						t.Errorf("session %d: %v", i, err)
					}
				}
			})
		}
		// No address may make more than 100 requests a second, after the first 1000.
		const burst, pace = 400, 25 * time.Millisecond
		for i := from; i < to && !t.Failed(); i++ {
			if i > burst {
				time.Sleep(pace)
			}
			next <- i
		}
		close(next)
		wg.Wait()
	}
	// settled waits until the sessions of vanished publishers have ended, and
	// returns what is left.
	settled := func(most int) (goroutines int, heap uint64) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		limit := time.After(60 * time.Second)
		for {
			http.DefaultClient.CloseIdleConnections()
			if n := runtime.NumGoroutine(); n <= most {
				break
			}
			select {
			case <-tick.C:
				continue
			case <-limit:
			}
			break
		}
		// What lies in pools is gone with the second collection, what a finalizer held
		// with the third.
		for range 3 {
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	idle := runtime.NumGoroutine()
	play(0, 20)
	before, heapBefore := settled(idle + 10)
	play(20, 20+sessions)
	after, heapAfter := settled(before + 5)
	t.Logf("%d sessions: goroutines %d, then %d; heap %d KB, then %d KB", sessions, before, after, heapBefore>>10, heapAfter>>10)
	if after > before+5 {
		t.Errorf("%d goroutines, %d before", after, before)
	}
	if heapAfter > heapBefore+2<<20 {
		t.Errorf("heap of %d KB, %d KB before", heapAfter>>10, heapBefore>>10)
	}
}
