package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/gateway/sdk/wire"
)

// ErrNotRenewed says that a plugin goes on with the files that it was started with.
var ErrNotRenewed = errors.New("the plugin reads files at its start alone")

// Renew gives a plugin other contents of the files that its options name: to the
// processes that are attached, and to those that start from now on. It returns when they
// have answered, within 5 s each. The error is [ErrNotRenewed] where a process goes on
// with what it has or does not answer. With any other error the plugin cannot use them,
// and processes that start later get what there was before.
func (h *Host) Renew(ctx context.Context, plugin string, files map[string][]byte) error {
	po := h.pool(plugin)
	if po == nil {
		return fmt.Errorf("there is no plugin %q", plugin)
	}
	po.renewing.Lock()
	defer po.renewing.Unlock()
	before := po.files.Swap(&files)
	notRenewed := false
	for _, pl := range po.all() {
		p := pl.current()
		if p == nil {
			continue // its next process has them
		}
		switch err := p.renew(ctx); {
		case errors.Is(err, ErrNotRenewed):
			notRenewed = true
		case err != nil:
			po.files.Store(before)
			return pl.veiled(err)
		}
	}
	if notRenewed {
		return ErrNotRenewed
	}
	return nil
}

// renew tells the process of the files as they are now, and waits for its answer.
func (p *process) renew(ctx context.Context) error {
	p.renewing.Lock()
	defer p.renewing.Unlock()
	select {
	case <-p.configured: // to a question of which nobody waited for the answer
	default:
	}
	p.out.Control(&wire.HostMsg{M: &wire.HostMsg_Configure{Configure: &wire.Configure{
		OptionsJson: p.plugin.spec.Options, Files: *p.plugin.files.Load(),
	}}})
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
		return nil // the one after it has them
	case <-late.C:
		return ErrNotRenewed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// catchUp tells a process that has just started of files that were renewed meanwhile.
func (p *process) catchUp(ctx context.Context) {
	if p.plugin.files.Load() == p.files {
		return
	}
	p.plugin.host.async(func() {
		if err := p.renew(ctx); err != nil && ctx.Err() == nil {
			p.plugin.log.Error("files that were renewed while it started are not in use", "error", p.plugin.veiled(err))
		}
	})
}
