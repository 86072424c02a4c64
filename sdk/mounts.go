package sdk

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/wire"
)

// mounts serves the plugin's HTTP prefixes on a unix socket of its own.
type mounts struct {
	*socket
	server *http.Server
	wg     sync.WaitGroup
}

// notServing is the answer until the ingest has a handler.
const notServing = `{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The plugin is starting; try again in a second."}`

// listenMounts starts serving. Until the ingest has a handler the answer is 503.
func listenMounts(h *IngestHost) (*mounts, error) {
	ln, err := listenSocket(mountSocket)
	if err != nil {
		return nil, fmt.Errorf("listening for HTTP: %w", err)
	}
	m := &mounts{socket: ln}
	m.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if addr := r.Header.Get(wire.ClientHeader); addr != "" {
				r.RemoteAddr = addr
				r.Header.Del(wire.ClientHeader)
			}
			handler := h.handler.Load()
			if handler == nil {
				w.Header().Set("Content-Type", "application/problem+json")
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = io.WriteString(w, notServing) // the client hears it or is gone
				return
			}
			(*handler).ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	m.wg.Go(func() { _ = m.server.Serve(ln) }) // ends with close
	return m, nil
}

// close lets requests finish for a moment and ends the server.
func (m *mounts) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if m.server.Shutdown(ctx) != nil {
		_ = m.server.Close()
	}
	m.wg.Wait()
	m.remove()
}
