package sdk

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/wire"
)

// mounts serves the plugin's HTTP prefixes on a unix socket of its own.
type mounts struct {
	name   string // of the socket, in the plugin's socket directory
	server *http.Server
	temp   string // a directory to remove; empty in a plugin process
	wg     sync.WaitGroup
}

// mountSocket is the name of the socket in a plugin process.
const mountSocket = "http.sock"

// notServing is the answer until the ingest has a handler.
const notServing = `{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The plugin is starting; try again in a second."}`

// listenMounts starts serving. Until the ingest has a handler the answer is 503.
func listenMounts(h *IngestHost) (*mounts, error) {
	m := &mounts{}
	dir := os.Getenv(wire.SocketDirEnv)
	if dir == "" { // no plugin process: a test
		var err error
		if dir, err = os.MkdirTemp("", "gw"); err != nil {
			return nil, fmt.Errorf("making the socket directory: %w", err)
		}
		m.temp = dir
	}
	path := filepath.Join(dir, mountSocket)
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening for HTTP: %w", err)
	}
	m.name = mountSocket
	if m.temp != "" {
		m.name = path
	}
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
	if m.temp != "" {
		_ = os.RemoveAll(m.temp)
	}
}
