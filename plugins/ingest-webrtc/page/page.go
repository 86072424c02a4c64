// Package page is the publish page, /publish/NAME: camera and microphone, or a
// screen or test picture, into the gateway from any browser. It is one HTML file with
// its style and scripts beside it, all embedded, and asks nothing of any other host.
//
// It knows how to deliver files. What the page does is in publish.js, with whip.js
// for the protocol and media.js for devices.
package page

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
)

// Prefix is where the handler is mounted.
const Prefix = "/publish/"

// assets are served under Prefix + "~/": "~" is in no stream's name.
const assets = "~/"

//go:embed publish.html publish.css publish.js whip.js media.js
var files embed.FS

// policy lets the page load its own files and nothing else, talk to its own
// host, and stay out of frames.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob: mediastream:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves Prefix.
func Handler() http.Handler {
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
			h.Set("Content-Security-Policy", policy)
			h.Set("Referrer-Policy", "no-referrer")
			h.Set("Permissions-Policy", "camera=(self), microphone=(self), display-capture=(self)")
			h.Set("Cross-Origin-Opener-Policy", "same-origin")
			serve(w, r, "publish.html")
		default:
			p := whip.Problem{Status: http.StatusNotFound, Type: "not-found", Detail: "the address names no stream; it is " + Prefix + "NAME"}
			p.ServeHTTP(w, r)
		}
	})
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
