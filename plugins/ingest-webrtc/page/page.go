// Package page is the publish page, /publish/NAME: camera and microphone, or a
// screen or test picture, into the gateway from any browser. It is one HTML file with
// its style and scripts beside it, all embedded, and asks nothing of any other host.
//
// It knows how to deliver files, and asks whether a stream can be published before it
// offers that. What the page does is in publish.js, with whip.js
// for the protocol and media.js for devices.
package page

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"html"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
	"github.com/headgate/gateway/sdk"
)

// Prefix is where the handler is mounted.
const Prefix = "/publish/"

// assets are served under Prefix + "~/": "~" is in no stream's name.
const assets = "~/"

//go:embed publish.html unknown.html publish.css publish.js whip.js media.js
var files embed.FS

// policy lets the page load its own files and nothing else, talk to its own
// host, and stay out of frames.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob: mediastream:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// enquiryLimit is how long the gateway may take to say whether a stream can be
// published. A page that cannot be sure is delivered: publishing will tell.
const enquiryLimit = 2 * time.Second

// Handler serves Prefix. enquire says whether a stream can be published: nil, or an
// *[sdk.RejectedError] whose message says why not.
func Handler(enquire func(ctx context.Context, stream string) error, log *slog.Logger) http.Handler {
	closed := func(r *http.Request, stream string) (why string) {
		ctx, cancel := context.WithTimeout(r.Context(), enquiryLimit)
		defer cancel()
		var no *sdk.RejectedError
		switch err := enquire(ctx, stream); {
		case errors.As(err, &no) && no.Reason == sdk.NotFound:
			return no.Message
		case err != nil && r.Context().Err() == nil:
			log.Warn("asking whether a stream can be published", "stream", stream, "error", err)
		}
		return ""
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			p := whip.Problem{Status: http.StatusMethodNotAllowed, Type: "method-not-allowed", Detail: "this is a page to look at"}
			p.ServeHTTP(w, r)
			return
		}
		rest := strings.TrimPrefix(r.URL.Path, Prefix)
		name, isAsset := strings.CutPrefix(rest, assets)
		switch {
		case isAsset && slices.Contains([]string{"publish.css", "publish.js", "whip.js", "media.js"}, name):
			serve(w, r, name)
		case whip.ValidStream(rest):
			if why := closed(r, rest); why != "" {
				unknown(w, r, "no-such-route", why)
				return
			}
			h.Set("Content-Security-Policy", policy)
			h.Set("Referrer-Policy", "no-referrer")
			h.Set("Permissions-Policy", "camera=(self), microphone=(self), display-capture=(self)")
			h.Set("Cross-Origin-Opener-Policy", "same-origin")
			serve(w, r, "publish.html")
		default:
			unknown(w, r, "not-found", "the address names no stream; it is "+Prefix+"NAME")
		}
	})
}

// unknown answers 404: with a page for a browser, else with a problem document.
func unknown(w http.ResponseWriter, r *http.Request, problem, why string) {
	b, err := files.ReadFile("unknown.html")
	if err != nil || !strings.Contains(r.Header.Get("Accept"), "text/html") {
		p := whip.Problem{Status: http.StatusNotFound, Type: problem, Detail: why}
		p.ServeHTTP(w, r)
		return
	}
	text := strings.ToUpper(why[:1]) + why[1:] + "."
	b = bytes.ReplaceAll(b, []byte("{{why}}"), []byte(html.EscapeString(text)))
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	w.WriteHeader(http.StatusNotFound)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b)
	}
}

func serve(w http.ResponseWriter, r *http.Request, name string) {
	b, err := files.ReadFile(name)
	if err != nil {
		p := whip.Problem{Status: http.StatusNotFound, Type: "not-found"}
		p.ServeHTTP(w, r)
		return
	}
	types := map[string]string{".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
	sum := sha256.Sum256(b)
	h := w.Header()
	h.Set("Content-Type", types[path.Ext(name)])
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", `"`+hex.EncodeToString(sum[:8])+`"`)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(b)))
}
