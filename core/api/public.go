package api

import (
	"bytes"
	_ "embed" // the landing page
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
)

//go:embed landing.html
var landing []byte

// landingScriptHash lets the page's one line of script run, and no other.
const landingScriptHash = "DVeIigvxIA923IrC8CvN4C5Vrxo0gTrwaBb+3yvCXzU="

func (s *Server) publicHandler() http.Handler {
	return s.guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch p := r.URL.Path; p {
		case "/livez":
			only(s.livez)(w, r)
		case "/readyz":
			only(s.readyz)(w, r)
		case "/":
			only(s.landing)(w, r)
		default:
			if clean := path.Clean(p); p != clean && p != clean+"/" {
				problem(w, http.StatusBadRequest, "The path contains empty segments or dots.")
				return
			}
			s.mounted(w, r)
		}
	}))
}

func (s *Server) landing(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-"+landingScriptHash+"'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("Cache-Control", "no-cache")
	_, _ = w.Write(landing) // who asked is gone: there is nobody to tell
}

// mounted passes a request on to the plugin that serves its prefix. The body is
// read here first: it is small, and a slow client shall not occupy a plugin.
func (s *Server) mounted(w http.ResponseWriter, r *http.Request) {
	mounts := s.opt.Mounts()
	var to *pluginhost.Mount
	for i, m := range mounts {
		if strings.HasPrefix(r.URL.Path, m.Prefix) && (to == nil || len(m.Prefix) > len(to.Prefix)) {
			to = &mounts[i]
		}
	}
	if to == nil {
		select {
		case <-s.opt.Ready:
			problem(w, http.StatusNotFound, "There is nothing at this address. / says what there is.")
		default:
			w.Header().Set("Retry-After", "1")
			problem(w, http.StatusServiceUnavailable, "The gateway is starting.")
		}
		return
	}
	if s.foreignPage(r) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="publish"`)
		problem(w, http.StatusUnauthorized, "A page of another site may publish here with a token only, or where the route says publish: {open: true}.")
		return
	}
	if r.ContentLength > maxBodyBytes {
		w.Header().Set("Connection", "close") // rather than reading all of it
		problem(w, http.StatusRequestEntityTooLarge, "The body is larger than 64 KiB.")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		problem(w, http.StatusRequestEntityTooLarge, "The body is larger than 64 KiB.")
		return
	case err != nil:
		problem(w, http.StatusBadRequest, "The body did not arrive whole.")
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.TransferEncoding = nil
	// The plugin's answer has its own.
	w.Header().Del("X-Content-Type-Options")
	w.Header().Del("Referrer-Policy")
	to.Handler.ServeHTTP(w, r)
}

// foreignPage reports whether a page that is not of this machine wants to publish
// without a token. Routes without one are open because only this machine
// reaches a loopback listener; the pages that its browsers show are from anywhere,
// and a name of their own may lead here.
func (s *Server) foreignPage(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if !s.loopbackOnly || r.Method != http.MethodPost || origin == "" || r.Header.Get("Authorization") != "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || !config.Loopback(net.JoinHostPort(u.Hostname(), "0"))
}

// loopbackOnly reports whether routes of cfg are open for the reason alone that
// the listener is on loopback.
func loopbackOnly(cfg *config.Config) bool {
	return config.Loopback(cfg.Listen) &&
		!slices.ContainsFunc(cfg.Routes, func(r config.Route) bool { return r.Publish.Open })
}
