package pluginhost

import (
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/headgate/gateway/sdk/wire"
)

// A pool is all processes of one plugin: those that share its sessions by stream, and
// one for each route that has a process of its own.
type pool struct {
	host   *Host
	spec   Spec
	shared []*plugin   // at least one
	wanted atomic.Bool // the shared ones are needed whatever sessions there are
	// files are those that the options name, as processes have taken them.
	files    atomic.Pointer[map[string][]byte]
	renewing sync.Mutex // held while processes are asked to take others, which mu must not be

	mu     sync.Mutex // guards routes
	routes map[string]*plugin
}

func newPool(h *Host, spec Spec) *pool {
	po := &pool{host: h, spec: spec, routes: make(map[string]*plugin)}
	po.files.Store(&spec.Files)
	n := 1
	if spec.Info.GetShardable() && spec.Socket == "" {
		n = max(spec.Instances, 1)
	}
	for i := range n {
		log := h.log.With("plugin", spec.Name)
		if n > 1 {
			log = log.With("process", strconv.Itoa(i+1))
		}
		po.shared = append(po.shared, newPlugin(po, strconv.Itoa(i+1), log))
	}
	return po
}

// info returns what the plugin is, nil if that is not known yet.
func (po *pool) info() *wire.DescribeResponse { return po.shared[0].describedAs() }

// all returns the processes, those that are shared first.
func (po *pool) all() []*plugin {
	po.mu.Lock()
	defer po.mu.Unlock()
	out := slices.Clone(po.shared)
	for _, route := range slices.Sorted(maps.Keys(po.routes)) {
		out = append(out, po.routes[route])
	}
	return out
}

// needed reports whether there is a process for the sessions of a stream whatever
// sessions there are.
func (po *pool) needed(stream string) bool {
	if po.host.isolate != nil {
		if route := po.host.isolate(stream); route != "" && po.info().GetShardable() {
			po.mu.Lock()
			defer po.mu.Unlock()
			_, is := po.routes[route]
			return is
		}
	}
	return po.wanted.Load()
}

// pick returns the process for a session of a stream.
func (po *pool) pick(streamID uint64, stream string) *plugin {
	if po.host.isolate != nil {
		if route := po.host.isolate(stream); route != "" {
			return po.own(route)
		}
	}
	return po.shared[streamID%uint64(len(po.shared))]
}

// own returns the process of a route's own; for a plugin that cannot have a second
// process the one that there is.
func (po *pool) own(route string) *plugin {
	if !po.info().GetShardable() || po.spec.Socket != "" {
		return po.shared[0]
	}
	po.mu.Lock()
	pl, known := po.routes[route]
	if !known {
		pl = newPlugin(po, "route "+route, po.host.log.With("plugin", po.spec.Name, "route", route))
		po.routes[route] = pl
	}
	po.mu.Unlock()
	if !known {
		po.host.adopt(pl)
	}
	return pl
}
