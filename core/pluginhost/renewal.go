package pluginhost

import (
	"context"
	"errors"
	"time"

	"github.com/headgate/gateway/sdk/wire"
)

// Why a plugin has not taken renewed files, beside what it says of them itself.
var (
	// ErrNotRenewed says that it reads files at its start alone. It stays with those
	// that the gateway started with.
	ErrNotRenewed = errors.New("the plugin reads files at its start alone")
	// ErrNoProcess says that there is none to ask at the moment.
	ErrNoProcess = errors.New("no process of the plugin runs")
	// ErrNoAnswer says that it died, or did not answer within 5 s; that process is not
	// asked again.
	ErrNoAnswer = errors.New("the plugin did not answer")
)

// Renew gives the attached processes of a plugin other contents of the files that its
// options name. When all have taken them, processes that start later get them, too. After
// an error nothing has changed: processes that had taken them before another one refused
// are given what there was, and later ones get that. It returns when all have answered,
// within 5 s each.
func (h *Host) Renew(ctx context.Context, plugin string, files map[string][]byte) error {
	po := h.pool(plugin)
	if po == nil {
		return ErrNoProcess
	}
	po.renewing.Lock()
	defer po.renewing.Unlock()
	var took []*process
	for _, pl := range po.all() {
		p := pl.current()
		if p == nil {
			continue
		}
		if err := p.renew(ctx, files); err != nil {
			for _, other := range took {
				_ = other.renew(ctx, *po.files.Load()) // it had them
			}
			return pl.veiled(err)
		}
		took = append(took, p)
	}
	if len(took) == 0 {
		return ErrNoProcess
	}
	po.files.Store(&files)
	return nil
}

// renew gives the process files and waits for its answer. Calls follow one another: the
// caller holds the pool's renewing.
func (p *process) renew(ctx context.Context, files map[string][]byte) error {
	if p.unanswered {
		return ErrNoAnswer
	}
	p.out.Control(&wire.HostMsg{M: &wire.HostMsg_Configure{Configure: &wire.Configure{OptionsJson: p.plugin.spec.Options, Files: files}}})
	late := time.NewTimer(p.plugin.host.timings.renewal)
	defer late.Stop()
	select {
	case c := <-p.configured:
		switch {
		case c.GetError() != "":
			return errors.New(cut(c.GetError(), messageBytesMax))
		case !c.GetApplied():
			return ErrNotRenewed
		}
		return nil
	case <-p.gone:
	case <-late.C:
	case <-ctx.Done():
	}
	p.unanswered = true // an answer that comes now is none to the next question
	return ErrNoAnswer
}

// catchUp gives a process that has just started what others have taken meanwhile.
func (p *process) catchUp(ctx context.Context) {
	po := p.plugin.pool
	p.plugin.host.async(func() {
		po.renewing.Lock() // what is on its way to others counts, too
		defer po.renewing.Unlock()
		if po.files.Load() == p.files {
			return
		}
		if err := p.renew(ctx, *po.files.Load()); err != nil && ctx.Err() == nil {
			p.plugin.log.Error("files that were renewed while it started are not in use", "error", p.plugin.veiled(err))
		}
	})
}
