package api

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed" // the status page
	"encoding/base64"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/status"
)

const adminIndex = `Headgate, admin address

GET /v1/streams    streams, publishers, tracks and targets, as JSON
GET, PUT, PATCH, DELETE /v1/streams/NAME/targets/TARGET
                   give, change, switch off and remove a target of a running stream
GET /v1/plugins    plugin processes, as JSON
GET /metrics       the same for Prometheus
GET /livez         200 while the process answers
GET /readyz        200 while the gateway can take streams
GET /debug/pprof/  profiles of the gateway's process
`

func (s *Server) adminHandler() http.Handler {
	metrics := promhttp.HandlerFor(s.registry(), promhttp.HandlerOpts{ErrorLog: promLog{s.log}})
	table := map[string]http.HandlerFunc{
		"/": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = w.Write([]byte(adminIndex)) // who asked is gone: there is nobody to tell
		},
		"/v1/streams":          s.streams,
		"/v1/plugins":          s.plugins,
		"/metrics":             metrics.ServeHTTP,
		"/livez":               s.livez,
		"/readyz":              s.readyz,
		"/debug/pprof/":        pprof.Index,
		"/debug/pprof/cmdline": pprofCmdline,
		"/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/symbol":  pprof.Symbol,
		"/debug/pprof/trace":   pprof.Trace,
	}
	for _, name := range []string{"allocs", "block", "goroutine", "heap", "mutex", "threadcreate"} {
		table["/debug/pprof/"+name] = pprof.Handler(name).ServeHTTP
	}
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, ok := table[r.URL.Path]
		if strings.HasPrefix(r.URL.Path, streamPrefix) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
			s.streamTree(w, r)
			return
		}
		if !ok {
			problem(w, http.StatusNotFound, "There is nothing at this address. / says what there is.")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		only(h)(w, r)
	})
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem(w, http.StatusForbidden, "A page of another origin may not ask this.")
	}))
	api := s.authorized(origin.Handler(serve))
	return s.guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" && wantsPage(r) && (!s.opt.Config.AdminToken.Empty() || localHost(r.Host)) {
			s.statusPage(w)
			return
		}
		api.ServeHTTP(w, r)
	}))
}

// wantsPage reports whether a browser asks to show a page.
func wantsPage(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && strings.Contains(r.Header.Get("Accept"), "text/html")
}

//go:embed status.html
var statusHTML []byte

// statusPolicy lets the page's own style and script run, and lets it ask this
// address; nothing else.
var statusPolicy = "default-src 'none'; connect-src 'self'; style-src " + inlineHash(statusHTML, "style") + "; script-src " + inlineHash(statusHTML, "script") +
	"; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// inlineHash is the source expression of the one element of that name in a page.
func inlineHash(page []byte, element string) string {
	_, rest, _ := bytes.Cut(page, []byte("<"+element+">"))
	text, _, _ := bytes.Cut(rest, []byte("</"+element+">"))
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// statusPage answers with the page, which is the same for everybody: what it shows
// it asks the API for, with the token if there is one.
func (s *Server) statusPage(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", statusPolicy)
	h.Set("Cache-Control", "no-cache")
	_, _ = w.Write(statusHTML) // who asked is gone: there is nobody to tell
}

// pprofCmdline shows the program alone: the arguments may contain keys.
func pprofCmdline(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("gateway")) // who asked is gone: there is nobody to tell
}

// authorized asks for the token if there is one. Without, the listener is on
// loopback, and a request must name it so: a page whose host name leads to
// 127.0.0.1 gets nothing.
func (s *Server) authorized(next http.Handler) http.Handler {
	token := s.opt.Config.AdminToken
	want := sha256.Sum256([]byte(token.Reveal()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token.Empty() {
			if !localHost(r.Host) {
				problem(w, http.StatusForbidden, "The admin address answers to localhost and IP addresses only while it has no admin_token.")
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(strings.TrimSpace(given)))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="gateway admin"`)
			problem(w, http.StatusUnauthorized, "Send the admin_token of the configuration as a bearer token.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// localHost reports whether the Host of a request is localhost or an address.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	return strings.EqualFold(host, "localhost") || net.ParseIP(host) != nil
}

func (s *Server) streams(w http.ResponseWriter, _ *http.Request) {
	out := status.Streams{Streams: []status.Stream{}}
	for _, st := range s.opt.Gateway.Streams() {
		out.Streams = append(out.Streams, shown(st))
	}
	answer(w, out)
}

// shown is a stream as it is answered: a list that is empty is [] for who reads
// it, not null.
func shown(st status.Stream) status.Stream {
	if st.Tracks == nil {
		st.Tracks = []status.Track{}
	}
	targets := make([]status.Target, len(st.Targets))
	for i, t := range st.Targets {
		if t.UnitsDropped == nil {
			t.UnitsDropped = map[string]uint64{}
		}
		targets[i] = t
	}
	st.Targets = targets
	return st
}

// pluginList is the answer of GET /v1/plugins.
type pluginList struct {
	Plugins []status.Plugin `json:"plugins"`
}

func (s *Server) plugins(w http.ResponseWriter, _ *http.Request) {
	answer(w, pluginList{append([]status.Plugin{}, s.opt.Gateway.Plugins()...)})
}

// configured are the streams that routes name; others matched a pattern.
func configured(cfg *config.Config) map[string]bool {
	out := map[string]bool{}
	for _, r := range cfg.Routes {
		if !config.IsPattern(r.Name) {
			out[r.Name] = true
		}
	}
	return out
}
