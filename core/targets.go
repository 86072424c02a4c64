package core

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"sync"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/congestion"
	"github.com/headgate/gateway/core/push"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/secret"
)

// maxTargets bounds the targets of one stream.
const maxTargets = 256

// targets are those of one stream. They can be given, changed and removed while
// the stream runs; each runs by itself, so that its siblings notice nothing.
type targets struct {
	make   func(push.Settings) *push.Target
	with   func(config.Target) push.Settings // what its plugin declares
	report func(error)
	// changed is called when targets come and go, and must not block.
	changed func()

	running sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	list   []*entry
	ctx    context.Context // nil before start
	closed bool
	tags   uint64                     // given out so far
	ending map[string]<-chan struct{} // targets that were removed and are not gone
	turned chan struct{}              // closed when one may have been switched on or off; nil if nobody waits
}

// An entry is one target of the list.
type entry struct {
	conf config.Target
	tag  uint64 // changes with conf
	// halves are the target and, if it sends to its backup all the time, that.
	halves []*half
}

// A half is a push target that runs.
type half struct {
	name string
	push *push.Target
	stop context.CancelFunc // nil before it runs
	done chan struct{}
}

// add gives the targets of the configuration.
func (ts *targets) add(confs []config.Target) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, c := range confs {
		ts.put(&entry{}, c)
	}
}

// followed are the targets in the order of the configuration.
func (ts *targets) followed() []congestion.Target {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	var out []congestion.Target
	for _, e := range ts.list {
		for _, h := range e.halves {
			out = append(out, h.push)
		}
	}
	return out
}

// wanted implements [publish.Demand]: whether a target is switched on.
func (ts *targets) wanted() (bool, <-chan struct{}) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.turned == nil {
		ts.turned = make(chan struct{})
	}
	return slices.ContainsFunc(ts.list, func(e *entry) bool { return e.conf.Enabled }), ts.turned
}

// put makes e what c says, and lists it if it is not there.
func (ts *targets) put(e *entry, c config.Target) {
	if e.tag == 0 {
		ts.list = append(ts.list, e)
	}
	ts.tags++
	e.conf, e.tag = c, ts.tags
	defer ts.changed()
	want := halvesOf(c)
	for i, w := range want {
		if i < len(e.halves) {
			e.halves[i].push.Update(ts.with(w))
			continue
		}
		h := &half{name: w.Name, push: ts.make(ts.with(w)), done: make(chan struct{})}
		e.halves = append(e.halves, h)
		ts.run(h)
	}
	for _, h := range e.halves[len(want):] {
		ts.end(h)
	}
	e.halves = e.halves[:len(want)]
}

// halvesOf are the push targets that c asks for.
func halvesOf(c config.Target) []config.Target {
	if !c.Both {
		return []config.Target{c}
	}
	other := c
	other.Name = config.BackupName(c.Name)
	other.URL, other.Key = c.Backup, c.BackupKey
	c.Backup, other.Backup = secret.String{}, secret.String{}
	return []config.Target{c, other}
}

// run starts h if the stream runs. One of the same name that is still saying
// goodbye goes first: servers take a key once.
func (ts *targets) run(h *half) {
	if ts.ctx == nil {
		return
	}
	before := ts.ending[h.name]
	ctx, stop := context.WithCancel(ts.ctx)
	h.stop = stop
	ts.running.Go(func() {
		defer close(h.done)
		defer stop()
		if before != nil {
			<-before
		}
		ts.report(h.push.Run(ctx))
	})
}

// end ends h in the background.
func (ts *targets) end(h *half) {
	if h.stop == nil {
		return
	}
	h.stop()
	for name, gone := range ts.ending {
		select {
		case <-gone:
			delete(ts.ending, name)
		default:
		}
	}
	ts.ending[h.name] = h.done
}

// start runs the targets until ctx ends.
func (ts *targets) start(ctx context.Context) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.ctx, ts.ending = ctx, make(map[string]<-chan struct{})
	for _, e := range ts.list {
		for _, h := range e.halves {
			ts.run(h)
		}
	}
}

// close takes no more targets, and waits for those that run.
func (ts *targets) close() {
	ts.mu.Lock()
	ts.closed = true
	ts.mu.Unlock()
	ts.running.Wait()
}

func (ts *targets) find(name string) *entry {
	i := slices.IndexFunc(ts.list, func(e *entry) bool { return e.conf.Name == name })
	if i < 0 {
		return nil
	}
	return ts.list[i]
}

// status tells how the targets are, in the order in which they were given.
func (ts *targets) status() []status.Target {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	out := make([]status.Target, 0, len(ts.list))
	for _, e := range ts.list {
		for _, h := range e.halves {
			out = append(out, h.push.Status())
		}
	}
	return out
}

// change gives the target what becomes of it: edit gets its configuration, nil if
// there is none, and answers with the new one, nil to remove it. It may take its time,
// to ask a plugin: nothing waits for it, and it is called again if the target has
// changed meanwhile.
func (ts *targets) change(name string, edit func(before *config.Target, tag uint64) (*config.Target, error)) (created bool, err error) {
	for {
		before, tag := ts.now(name)
		after, err := edit(before, tag)
		if err != nil {
			return false, err
		}
		if created, changed, err := ts.replace(name, tag, after); !changed {
			return created, err
		}
	}
}

// now is the configuration of a target and its tag; nil and 0 if there is none.
func (ts *targets) now(name string) (*config.Target, uint64) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	e := ts.find(name)
	if e == nil {
		return nil, 0
	}
	c := e.conf
	return &c, e.tag
}

// replace makes of the target with this tag what after says. It reports if the target
// has another by now, and does nothing then.
func (ts *targets) replace(name string, tag uint64, after *config.Target) (created, changed bool, err error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.closed {
		return false, false, status.ErrNoStream
	}
	e := ts.find(name)
	if e == nil && tag != 0 || e != nil && e.tag != tag {
		return false, true, nil
	}
	defer func() {
		if ts.turned != nil {
			close(ts.turned)
			ts.turned = nil
		}
	}()
	switch {
	case after == nil && e != nil:
		ts.list = slices.DeleteFunc(slices.Clone(ts.list), func(o *entry) bool { return o == e })
		for _, h := range e.halves {
			ts.end(h)
		}
		ts.changed()
	case after == nil || e != nil && sameDefinition(e.conf, *after):
	case e == nil && len(ts.list) >= maxTargets:
		return false, false, status.ErrTooManyTargets
	case e == nil:
		ts.put(&entry{}, *after)
		return true, false, nil
	default:
		ts.put(e, *after)
	}
	return false, false, nil
}

// sameDefinition reports whether two configurations say the same.
func sameDefinition(a, b config.Target) bool {
	var x, y any
	if a.Restricted != b.Restricted ||
		json.Unmarshal([]byte(a.Definition.Reveal()), &x) != nil || json.Unmarshal([]byte(b.Definition.Reveal()), &y) != nil {
		return false
	}
	return reflect.DeepEqual(x, y) && bytes.Equal(a.Options, b.Options)
}

// The rest is what the API calls.

// Target tells how a target is, and its tag: another one says that its definition
// has changed. The errors are those of package status.
func (g *Gateway) Target(stream, name string) (st status.Target, tag string, err error) {
	ts, err := g.targetsOf(stream)
	if err != nil {
		return status.Target{}, "", err
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	owner, backup := config.IsBackupName(name)
	e := ts.find(owner)
	if e == nil || backup && len(e.halves) < 2 {
		return status.Target{}, "", status.ErrNoTarget
	}
	if backup {
		return e.halves[1].push.Status(), g.tag(e.tag), nil
	}
	return e.halves[0].push.Status(), g.tag(e.tag), nil
}

// PutTarget gives a stream a target, or replaces it. definition is as in the
// configuration, in JSON. check is asked before anything changes, with the present
// tag, empty if there is no such target; its error is returned.
func (g *Gateway) PutTarget(stream, name string, definition []byte, check func(tag string) error) (created bool, ds config.Diagnostics, err error) {
	created, err = g.edit(stream, name, func(route string, before *config.Target, tag string) (*config.Target, error) {
		if err := check(tag); err != nil {
			return nil, err
		}
		after, found := g.cfg.Target(route, name, definition, before)
		if after == nil {
			return nil, &status.InvalidTargetError{Diagnostics: found}
		}
		ds = found
		return after, nil
	})
	return created, ds, err
}

// PatchTarget changes the definition of a target by a merge patch (RFC 7396).
func (g *Gateway) PatchTarget(stream, name string, patch []byte, check func(tag string) error) (ds config.Diagnostics, err error) {
	_, err = g.edit(stream, name, func(route string, before *config.Target, tag string) (*config.Target, error) {
		if before == nil {
			return nil, status.ErrNoTarget
		}
		if err := check(tag); err != nil {
			return nil, err
		}
		definition, err := config.Patch(before.Definition, patch)
		if err != nil {
			return nil, &status.InvalidTargetError{Diagnostics: config.Diagnostics{{Finding: err.Error(), Remedy: `send one such as {"enabled": false}`}}}
		}
		after, found := g.cfg.Target(route, name, definition, before)
		if after == nil {
			return nil, &status.InvalidTargetError{Diagnostics: found}
		}
		ds = found
		return after, nil
	})
	return ds, err
}

// RemoveTarget takes a target off its stream. It says goodbye in the background.
func (g *Gateway) RemoveTarget(stream, name string, check func(tag string) error) error {
	_, err := g.edit(stream, name, func(_ string, before *config.Target, tag string) (*config.Target, error) {
		if before == nil {
			return nil, status.ErrNoTarget
		}
		return nil, check(tag)
	})
	return err
}

func (g *Gateway) edit(stream, name string, edit func(route string, before *config.Target, tag string) (*config.Target, error)) (created bool, err error) {
	ts, err := g.targetsOf(stream)
	if err != nil {
		return false, err
	}
	route := g.routeOf(stream)
	created, err = ts.change(name, func(before *config.Target, tag uint64) (*config.Target, error) {
		text := ""
		if before != nil {
			text = g.tag(tag)
		}
		return edit(route, before, text)
	})
	if err == nil {
		g.log.Info("target set by the API", "stream", stream, "target", name, "new", created)
	}
	return created, err
}

func (g *Gateway) targetsOf(stream string) (*targets, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, status.ErrEnding
	}
	s := g.streams[stream]
	if s == nil {
		return nil, status.ErrNoStream
	}
	return &s.targets, nil
}

func (g *Gateway) routeOf(stream string) string {
	if r := g.cfg.Route(stream); r != nil {
		return r.Name
	}
	return stream
}

// tag is a revision as others see it: one of another run never equals it.
func (g *Gateway) tag(n uint64) string { return g.runID + "." + strconv.FormatUint(n, 10) }
