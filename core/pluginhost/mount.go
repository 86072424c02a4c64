package pluginhost

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"

	"github.com/headgate/gateway/sdk/wire"
)

// Mounts returns the HTTP prefixes of all plugins. Their handlers answer 503 with
// a Retry-After while the process is not there, and start it if it was not
// needed before.
func (h *Host) Mounts() []Mount {
	var mounts []Mount
	for _, po := range h.pools {
		handler := newMountHandler(po.shared[0]) // a plugin with mounts has no other
		for _, prefix := range po.info().GetMounts() {
			mounts = append(mounts, Mount{Prefix: prefix, Plugin: po.spec.Name, Handler: handler})
		}
	}
	return mounts
}

// errNoProcess: the plugin's process is not there, or serves no HTTP.
var errNoProcess = errors.New("the plugin is not running")

// mountHandler passes requests on to the plugin's process, whichever it is.
type mountHandler struct {
	plugin *plugin
	proxy  *httputil.ReverseProxy
}

func newMountHandler(pl *plugin) *mountHandler {
	m := &mountHandler{plugin: pl}
	m.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", pl.spec.Name
			r.Out.Host = r.In.Host
			r.SetXForwarded()
			r.Out.Header.Set(wire.ClientHeader, r.In.RemoteAddr)
		},
		Transport:     m,
		FlushInterval: -1,
		ErrorHandler:  m.unavailable,
		ErrorLog:      slog.NewLogLogger(pl.log.Handler(), slog.LevelWarn),
	}
	return m
}

// ServeHTTP implements [http.Handler].
func (m *mountHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.proxy.ServeHTTP(w, r) }

// RoundTrip implements [http.RoundTripper].
func (m *mountHandler) RoundTrip(r *http.Request) (*http.Response, error) {
	p := m.plugin.current()
	if p == nil || p.transport == nil {
		m.plugin.need()
		return nil, errNoProcess
	}
	return p.transport.RoundTrip(r)
}

// unavailable answers a request that did not reach the process.
func (m *mountHandler) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the client is gone
	}
	if !errors.Is(err, errNoProcess) {
		m.plugin.log.Warn("a request did not get through to the plugin", "method", r.Method, "error", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusServiceUnavailable)
	// The client hears it or is gone; nobody else needs to know.
	_ = json.NewEncoder(w).Encode(map[string]any{
		"title":  "The part of the gateway that serves this is starting",
		"status": http.StatusServiceUnavailable,
		"detail": "plugin " + m.plugin.spec.Name + " is not ready; try again in a second",
	})
}
