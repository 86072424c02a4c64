package pluginhost

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// plugin is one place in a pool over all the processes that fill it, one after the
// other.
type plugin struct {
	host *Host
	spec Spec
	pool *pool
	name string // of the place: 1, 2, ... or "route studio"
	log  *slog.Logger
	veil veil // over what its processes print
	// needed holds a token once the process is needed.
	needed chan struct{}

	supervised bool // guarded by host.mu

	mu        sync.Mutex // guards the fields below
	info      *wire.DescribeResponse
	state     State
	since     time.Time
	restarts  int
	lastError string
	process   *process      // the one that is attached, nil if there is none
	ready     chan struct{} // closed while process is not nil
	waiting   []*session    // for the next process
	retryAt   time.Time     // when a broken plugin is tried again
	stopped   bool          // the host is stopping
}

func newPlugin(po *pool, name string, log *slog.Logger) *plugin {
	pl := &plugin{
		host:   po.host,
		spec:   po.spec,
		pool:   po,
		name:   name,
		log:    log,
		needed: make(chan struct{}, 1),
		state:  Stopped,
		since:  time.Now(),
		ready:  make(chan struct{}),
	}
	pl.describe(po.spec.Info)
	return pl
}

// need asks for the process.
func (pl *plugin) need() {
	select {
	case pl.needed <- struct{}{}:
	default:
	}
}

// byHandRetry is how often the gateway looks for a plugin that was started by hand.
const byHandRetry = 500 * time.Millisecond

// supervise keeps the plugin's process running from its first need until ctx ends.
func (pl *plugin) supervise(ctx context.Context) {
	defer pl.stop()
	select {
	case <-pl.needed:
	case <-ctx.Done():
		return
	}
	b := newBackoff(pl.host.timings)
	for {
		pl.enter(Starting, "")
		p, err := pl.attach(ctx)
		var up time.Duration
		if err == nil {
			readyAt := time.Now()
			pl.enterReady(p)
			p.catchUp(ctx)
			pl.log.Info("plugin is ready", "pid", p.pid)
			err = p.serve(ctx)
			up = time.Since(readyAt)
			pl.leaveReady()
		}
		err = pl.veiled(err)
		if ctx.Err() != nil {
			if err != nil && !errors.Is(err, context.Canceled) {
				pl.log.Warn("plugin died while it was stopped", "error", err)
			}
			return
		}
		wait, broken := b.died(time.Now(), up)
		if pl.spec.Socket != "" {
			wait, broken = byHandRetry, false // whoever debugs it starts it again, and waits for us
		}
		state := Backoff
		how := []any{"error", err, "after", up.Round(time.Millisecond), "restart_in", wait.Round(time.Millisecond)}
		if broken {
			state = Broken
			pl.log.Error("plugin died too often and rests; until then its sessions fail", how...)
		} else {
			pl.log.Error("plugin died", how...)
		}
		pl.died(state, err, wait, up == 0)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// enter changes the state.
func (pl *plugin) enter(s State, lastError string) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.state, pl.since = s, time.Now()
	if lastError != "" {
		pl.lastError = lastError
	}
}

// enterReady makes p the process that takes sessions, and opens those that wait.
func (pl *plugin) enterReady(p *process) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.state, pl.since, pl.process = Ready, time.Now(), p
	for _, s := range pl.waiting {
		p.add(s)
	}
	pl.waiting = nil
	close(pl.ready)
}

// leaveReady takes the process away again.
func (pl *plugin) leaveReady() {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.process = nil
	select {
	case <-pl.ready:
		pl.ready = make(chan struct{})
	default:
	}
}

// died records a death. Sessions that waited for a process that did not start, or
// that would have to wait for a broken plugin, end; others wait on.
func (pl *plugin) died(s State, err error, wait time.Duration, atStart bool) {
	pl.mu.Lock()
	pl.state, pl.since = s, time.Now()
	pl.restarts++
	pl.lastError = err.Error()
	pl.retryAt = pl.since.Add(wait)
	var over []*session
	if atStart || s == Broken {
		over, pl.waiting = pl.waiting, nil
	}
	pl.mu.Unlock()
	e := End{Failed: true, Cause: CausePlugin, Message: "plugin " + pl.spec.Name + ": " + err.Error()}
	var refused *refusedError
	if errors.As(err, &refused) {
		e.Cause, e.Permanent = CauseConfig, true
	}
	var checksum *ChecksumError
	if errors.As(err, &checksum) {
		e.Cause, e.Permanent = CauseConfig, true
	}
	for _, w := range over {
		w.end(e)
	}
}

// stop ends what waits and takes no more.
func (pl *plugin) stop() {
	pl.mu.Lock()
	pl.state, pl.since, pl.stopped = Stopped, time.Now(), true
	over := pl.waiting
	pl.waiting = nil
	pl.mu.Unlock()
	for _, s := range over {
		s.end(End{Failed: true, Cause: CauseGateway, Message: "the gateway is shutting down"})
	}
}

// refuse takes no more sessions; the process may still be there.
func (pl *plugin) refuse() {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.stopped = true
}

// openSession opens s in the process, now or when there is one.
func (pl *plugin) openSession(s *session) (Session, error) {
	t := s.open.GetTarget()
	secrets := append(pl.secrets(), s.open.GetUrl(), t.GetUrl(), t.GetKey())
	secrets = append(secrets, secret.InOptions(pl.describedAs().GetEgress().GetTargetSchema(), t.GetOptionsJson())...)
	s.hide = secret.Redact(secrets...)
	pl.veil.add(s.hide, secrets...)
	pl.mu.Lock()
	defer pl.mu.Unlock()
	switch {
	case pl.stopped:
		return nil, ErrStopped
	case pl.state == Broken:
		return nil, &UnavailableError{Plugin: pl.spec.Name, RetryAfter: max(time.Until(pl.retryAt), 0), LastError: pl.lastError}
	}
	if pl.process == nil || !pl.process.add(s) {
		pl.waiting = append(pl.waiting, s)
		pl.need()
	}
	return s, nil
}

// secrets are those in the options of the plugin itself.
func (pl *plugin) secrets() []string {
	return secret.InOptions(pl.describedAs().GetOptionsSchema(), pl.spec.Options)
}

// veiled is err, which may quote what the plugin said, without any secret.
func (pl *plugin) veiled(err error) error {
	if err == nil {
		return nil
	}
	text := pl.veil.text(secret.Redact(pl.secrets()...).Text(err.Error()))
	if text == err.Error() {
		return err
	}
	return &veiledError{text: text, err: err}
}

// A veiledError is an error of which only the kind may be seen, and a text without
// secrets.
type veiledError struct {
	text string
	err  error
}

func (e *veiledError) Error() string { return e.text }
func (e *veiledError) Unwrap() error { return e.err }

// forget removes s from those that wait, and reports whether it was one.
func (pl *plugin) forget(s *session) bool {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	i := slices.Index(pl.waiting, s)
	if i < 0 {
		return false
	}
	pl.waiting = slices.Delete(pl.waiting, i, i+1)
	return true
}

// current returns the process that is attached, nil if there is none.
func (pl *plugin) current() *process {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	return pl.process
}

func (pl *plugin) readyChan() <-chan struct{} {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	return pl.ready
}

// describedAs returns what the plugin is, nil if that is not known yet.
func (pl *plugin) describedAs() *wire.DescribeResponse {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	return pl.info
}

// describe takes note of what the plugin is, and of which of its options are secrets.
func (pl *plugin) describe(info *wire.DescribeResponse) {
	pl.mu.Lock()
	pl.info = info
	pl.mu.Unlock()
	if secrets := pl.secrets(); len(secrets) > 0 {
		pl.veil.add(secret.Redact(secrets...), secrets...)
	}
}

func (pl *plugin) status() Status {
	note := ""
	if pl.spec.MemoryBytes > 0 {
		note = pl.host.memoryNote()
	}
	pl.mu.Lock()
	defer pl.mu.Unlock()
	var retryAt time.Time
	if pl.state == Backoff || pl.state == Broken {
		retryAt = pl.retryAt
	}
	st := Status{
		Name:      pl.spec.Name,
		Process:   pl.name,
		Version:   pl.info.GetVersion(),
		State:     pl.state,
		Since:     pl.since,
		Restarts:  pl.restarts,
		LastError: pl.lastError,
		Sessions:  len(pl.waiting),
		RetryAt:   retryAt,

		MemoryBytes: pl.spec.MemoryBytes,
		MemoryNote:  note,
	}
	if pl.process != nil {
		st.PID = pl.process.pid
		st.Sessions += pl.process.sessionCount()
	}
	return st
}

// backoff decides how long a plugin that died waits for its next process. It
// belongs to the supervisor.
type backoff struct {
	t      timings
	row    int         // deaths without a healthy time between them
	quick  []time.Time // deaths soon after being ready, in the circuit's span
	jitter func() float64
}

func newBackoff(t timings) *backoff { return &backoff{t: t, jitter: rand.Float64} }

// died counts a death at now of a process that was ready for up (0: never), and
// returns the wait before the next one, and whether the plugin counts as broken.
func (b *backoff) died(now time.Time, up time.Duration) (time.Duration, bool) {
	if up >= b.t.quickDeath {
		b.row = 0
	}
	b.row++
	b.quick = slices.DeleteFunc(b.quick, func(t time.Time) bool { return now.Sub(t) > b.t.circuitSpan })
	if up < b.t.quickDeath {
		b.quick = append(b.quick, now)
		if len(b.quick) > b.t.circuitDeaths {
			b.quick = nil
			b.row = 0
			return b.t.circuitRest, true
		}
	}
	if b.row == 1 {
		return 0, false
	}
	d := b.t.restartMin << min(b.row-2, 16)
	d = min(d, b.t.restartMax)
	return time.Duration(float64(d) * (0.75 + b.jitter()/2)), false
}
