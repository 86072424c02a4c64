// Package api is the gateway's HTTP: the public listener, which passes the
// plugins' mounts on and answers health checks, and the admin listener with the
// JSON API, the metrics and pprof.
//
// It knows HTTP, its limits, who may ask, and the shapes of package status. It
// does not know how streams or plugins work, and it parses nothing that a plugin
// is sent.
package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/status"
)

// Limits of both listeners.
const (
	maxHeaderBytes    = 16 << 10
	maxBodyBytes      = 64 << 10
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	publicWriteTime   = 30 * time.Second
	idleTimeout       = 60 * time.Second
	shutdownTime      = time.Second
)

// A Gateway tells how streams and plugins are. Its methods are called
// concurrently, by requests.
type Gateway interface {
	Streams() []status.Stream
	Plugins() []status.Plugin
	// Target is one target and the tag of its definition. PutTarget gives one,
	// PatchTarget changes one and RemoveTarget removes one, each after check has
	// seen the present tag, which is empty if there is no such target. The errors
	// are those of package status and of check.
	Target(stream, name string) (st status.Target, tag string, err error)
	PutTarget(stream, name string, definition []byte, check func(tag string) error) (created bool, ds config.Diagnostics, err error)
	PatchTarget(stream, name string, patch []byte, check func(tag string) error) (config.Diagnostics, error)
	RemoveTarget(stream, name string, check func(tag string) error) error
}

// Options say what a [Server] serves. They are read by [New].
type Options struct {
	Config  *config.Config
	Gateway Gateway
	// Mounts are the plugins' HTTP prefixes; it is asked at each request, since
	// they come with the running gateway.
	Mounts func() []pluginhost.Mount
	// Ready is closed once the configuration runs.
	Ready    <-chan struct{}
	Version  string
	Revision string
	// Log may be nil.
	Log *slog.Logger
}

// A Server answers HTTP for one gateway. Its methods may be called from any
// goroutine.
type Server struct {
	opt      Options
	log      *slog.Logger
	draining atomic.Bool
	public   http.Handler
	admin    http.Handler

	loopbackOnly bool // see foreignPage
}

// New makes a server. It starts nothing.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{opt: o, log: o.Log, loopbackOnly: loopbackOnly(o.Config)}
	s.public = s.publicHandler()
	s.admin = s.adminHandler()
	return s
}

// Public is the handler of the public listener.
func (s *Server) Public() http.Handler { return s.public }

// Admin is the handler of the admin listener.
func (s *Server) Admin() http.Handler { return s.admin }

// Drain makes /readyz answer 503 from now on. Everything else goes on.
func (s *Server) Drain() { s.draining.Store(true) }

// Run serves both listeners until ctx ends, and closes them. It gives running
// requests a second then. The error is nil if ctx ended it.
func (s *Server) Run(ctx context.Context, public, admin net.Listener) error {
	closeBoth := func() {
		_ = public.Close() // they are closed already after Shutdown
		_ = admin.Close()
	}
	defer closeBoth()
	if t := s.opt.Config.TLS; t != nil {
		cert, err := newCertificate(t.CertFile, t.KeyFile, s.log)
		if err != nil {
			return err
		}
		public = tls.NewListener(public, &tls.Config{
			MinVersion:     tls.VersionTLS12,
			NextProtos:     []string{"h2", "http/1.1"},
			GetCertificate: cert.get,
		})
	}
	servers := []*http.Server{
		s.server("public", s.public, publicWriteTime),
		s.server("admin", s.admin, 0), // profiles take as long as they are asked to
	}
	listeners := []net.Listener{public, admin}
	ended := make(chan error, len(servers))
	for i, srv := range servers {
		go func() { ended <- srv.Serve(listeners[i]) }()
	}
	var failure error
	running := len(servers)
	select {
	case <-ctx.Done():
	case failure = <-ended:
		running--
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	for _, srv := range servers {
		if err := srv.Shutdown(grace); err != nil {
			_ = srv.Close() // who did not finish in time is cut off
		}
	}
	for range running {
		if err := <-ended; failure == nil && !errors.Is(err, http.ErrServerClosed) {
			failure = err
		}
	}
	if failure != nil {
		return fmt.Errorf("serving HTTP: %w", failure)
	}
	return nil
}

func (s *Server) server(name string, h http.Handler, write time.Duration) *http.Server {
	return &http.Server{
		Handler:           h,
		MaxHeaderBytes:    maxHeaderBytes - 4096, // net/http adds 4 KiB of its own
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      write,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(s.log.With("listener", name).Handler(), slog.LevelDebug),
	}
}

// guard is around everything: headers that every answer has, and a panic of a
// handler becomes an answer and a log line.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		defer func() {
			p := recover()
			switch p {
			case nil:
			case http.ErrAbortHandler:
				panic(p) // how a proxy gives up an answer that has begun
			default:
				s.log.Error("a handler panicked", "path", r.URL.Path, "panic", p)
				problem(w, http.StatusInternalServerError, "The gateway made a mistake; its log says more.")
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// A problemDocument is RFC 9457.
type problemDocument struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Errors are what is wrong with the body, where that is the problem.
	Errors config.Diagnostics `json:"errors,omitempty"`
}

func problem(w http.ResponseWriter, code int, detail string) { problemWith(w, code, detail, nil) }

func problemWith(w http.ResponseWriter, code int, detail string, ds config.Diagnostics) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	writeJSON(w, problemDocument{Type: "about:blank", Title: http.StatusText(code), Status: code, Detail: detail, Errors: ds})
}

// answer sends v as JSON.
func answer(w http.ResponseWriter, v any) { answerAs(w, http.StatusOK, v) }

func answerAs(w http.ResponseWriter, code int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	writeJSON(w, v)
}

func writeJSON(w http.ResponseWriter, v any) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // who asked is gone: there is nobody to tell
}

// only answers 405 unless the method is one of those for reading.
func only(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			problem(w, http.StatusMethodNotAllowed, "This address can only be read.")
			return
		}
		next(w, r)
	}
}

type health struct {
	Status string `json:"status"`
}

// livez answers as long as the process does.
func (s *Server) livez(w http.ResponseWriter, _ *http.Request) { answer(w, health{"alive"}) }

// readyz answers 200 once the configuration runs and while no plugin that it
// needs is out of order, 503 before that and while draining.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	notYet := func(detail string) {
		w.Header().Set("Retry-After", "1")
		problem(w, http.StatusServiceUnavailable, detail)
	}
	if s.draining.Load() {
		notYet("The gateway is shutting down.")
		return
	}
	select {
	case <-s.opt.Ready:
	default:
		notYet("The gateway is starting.")
		return
	}
	for _, p := range s.opt.Gateway.Plugins() {
		if p.State == string(pluginhost.Broken) {
			notYet("The plugin " + p.Name + " is out of order; the log of the gateway says why.")
			return
		}
	}
	answer(w, health{"ready"})
}
