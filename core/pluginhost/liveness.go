package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/gateway/sdk/wire"
)

// ping kills the process when it has been silent for too many pings. It counts
// pings, not time: a gateway that was stopped itself must not blame its plugins.
func (p *process) ping(ctx context.Context) {
	t := p.plugin.host.timings
	tick := time.NewTicker(t.ping)
	defer tick.Stop()
	var id uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// One that was started by hand stands still in a debugger.
		if n := p.silent.Add(1); time.Duration(n-1)*t.ping >= t.silence && !p.launched.byHand() {
			p.kill(fmt.Errorf("it did not answer for %v and was killed; if it does so again, %s", t.silence, remedy))
			return
		}
		if p.out.Backlog() > backlogMax {
			p.kill(errBacklog)
			return
		}
		id++
		p.out.Control(&wire.HostMsg{M: &wire.HostMsg_Ping{Ping: &wire.Ping{Id: id}}})
	}
}

// errBacklog is the end of a plugin that makes the gateway say more than it reads.
var errBacklog = errors.New("it does not read what the gateway says to it, and was killed; " + remedy)

// kill ends the process at once. One that a person started is only let go.
func (p *process) kill(why error) {
	p.fail(why)
	if p.launched.byHand() {
		p.detach()
		return
	}
	_ = p.launched.child.Kill(context.Background()) // it is dead already then
}
