// Package whip is the HTTP side of WHIP (RFC 9725): the endpoint /whip/NAME, on
// which publishers post their offers, and the sessions /whip/~/ID that come of
// them. Beyond the RFC it has /whip/~/ID/targets, which says where the stream goes.
// Every answer that is not success is a problem document whose type is
// stable and whose detail a person understands.
//
// It knows HTTP. It knows nothing of WebRTC: what an offer says and who may
// publish is decided by [Sessions].
package whip

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/gateway/sdk/secret"
)

// Prefix is where the handler is mounted.
const Prefix = "/whip/"

// sessionPrefix begins the path of a session: "~" is in no stream's name.
const sessionPrefix = Prefix + "~/"

// Limits of bodies.
const (
	maxOfferBytes    = 64 << 10
	maxFragmentBytes = 16 << 10
)

// targetsPath follows the path of a session; targetsRel is the relation of the link
// that leads there.
const (
	targetsPath = "/targets"
	targetsRel  = "urn:headgate:whip:targets"
)

const (
	offerType    = "application/sdp"
	fragmentType = "application/trickle-ice-sdpfrag"
)

// A Request is a publisher's wish to publish.
type Request struct {
	Stream string
	Token  secret.String
	Remote string // address of the publisher
	Agent  string // its User-Agent
	Offer  []byte
}

// Created is a session that has begun.
type Created struct {
	ID     string
	ETag   string // strong, with its quotes; of the ICE session
	Answer string
	// ICEServers are for this publisher to use.
	ICEServers []ICEServer
}

// Restarted is the new ICE session of a session.
type Restarted struct {
	ETag     string
	Fragment string // the gateway's new credentials and candidates
}

// Elsewhere is the error of [Sessions] for what another gateway holds: the
// publisher is sent there with 307, so that method, body and token go along.
type Elsewhere struct{ URL string }

func (e *Elsewhere) Error() string { return "held by another gateway: " + e.URL }

// A Target is one place that a session's stream is sent to.
type Target struct {
	Name  string `json:"name"`
	State string `json:"state"` // live, connecting, waiting or failed
	// Reason says why it is not live, after "because".
	Reason string `json:"reason,omitempty"`
}

// Sessions makes and holds sessions. Its methods are called concurrently.
type Sessions interface {
	// Publish begins a session. A *[Problem] is passed on to the publisher; an
	// *[Elsewhere] sends him on.
	Publish(ctx context.Context, r Request) (Created, error)
	// Session returns a session that has not ended.
	Session(id string) (Session, bool)
}

// A Session is one that has not ended, or has only just. Its methods are called
// concurrently.
type Session interface {
	// ETag is that of the current ICE session.
	ETag() string
	// Ufrag is the publisher's ICE user fragment.
	Ufrag() string
	// AddCandidates takes in candidates of the publisher; those that cannot be
	// used are left out silently.
	AddCandidates(c []Candidate)
	// Restart begins a new ICE session with the publisher's new credentials and
	// candidates. When it returns an error, the session goes on as it was. A
	// *[Problem] is passed on.
	Restart(ctx context.Context, f Fragment) (Restarted, error)
	// Targets are where the session's stream is sent; known is false where the gateway
	// has not said.
	Targets() (list []Target, known bool)
	// End ends the session as the publisher wishes, and returns when its peer
	// connection is gone.
	End()
}

// A Handler serves [Prefix]. Safe for concurrent use.
type Handler struct {
	sessions Sessions
	log      *slog.Logger
	limits   *limits
}

// NewHandler returns a Handler over sessions.
func NewHandler(sessions Sessions, log *slog.Logger) *Handler {
	return &Handler{sessions: sessions, log: log, limits: newLimits()}
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cors(w.Header())
	err := h.serve(w, r)
	if err == nil {
		return
	}
	var elsewhere *Elsewhere
	if errors.As(err, &elsewhere) {
		// No other status: 301 and 302 may turn POST into GET.
		w.Header().Set("Location", elsewhere.URL)
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	var p *Problem
	if !errors.As(err, &p) {
		h.log.Error("WHIP request", "method", r.Method, "error", err)
		p = &Problem{Status: http.StatusInternalServerError, Type: "internal", Detail: "the gateway could not do this; its log says why"}
	}
	p.ServeHTTP(w, r)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	switch r.Method {
	case http.MethodPost, http.MethodPatch, http.MethodDelete:
		if wait, ok := h.limits.requests.take(addressKey(r.RemoteAddr)); !ok {
			return tooMany("more requests from your address than any publisher needs", wait)
		}
	}
	if id, ok := strings.CutPrefix(r.URL.Path, sessionPrefix); ok {
		return h.serveSession(w, r, id)
	}
	return h.serveEndpoint(w, r, strings.TrimPrefix(r.URL.Path, Prefix))
}

func tooMany(detail string, wait time.Duration) *Problem {
	return &Problem{Status: http.StatusTooManyRequests, Type: "too-many-requests", Detail: detail, RetryAfter: max(wait, time.Second)}
}

// cors lets pages of any origin publish: what is protected is protected by a
// token that the page must have, never by a cookie.
func cors(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "Location, ETag, Link, Accept-Post, Accept-Patch, Retry-After, WWW-Authenticate")
}

func preflight(w http.ResponseWriter, allow string) {
	h := w.Header()
	h.Set("Allow", allow)
	h.Set("Access-Control-Allow-Methods", allow)
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, If-Match, Link")
	h.Set("Access-Control-Max-Age", "86400")
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
}

func (h *Handler) serveEndpoint(w http.ResponseWriter, r *http.Request, stream string) error {
	const allow = "POST, OPTIONS, GET, HEAD"
	if !ValidStream(stream) {
		return &Problem{Status: http.StatusNotFound, Type: "no-such-route", Detail: "the path names no stream; publish to " + Prefix + "NAME"}
	}
	switch r.Method {
	case http.MethodOptions:
		w.Header().Set("Accept-Post", offerType)
		preflight(w, allow)
		return nil
	case http.MethodGet, http.MethodHead:
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodPost:
		return h.publish(w, r, stream)
	default:
		return &Problem{Status: http.StatusMethodNotAllowed, Type: "method-not-allowed", allow: allow}
	}
}

func (h *Handler) publish(w http.ResponseWriter, r *http.Request, stream string) error {
	if !hasType(r, offerType) {
		w.Header().Set("Accept-Post", offerType)
		return &Problem{Status: http.StatusUnsupportedMediaType, Type: "content-type", Detail: "the body must be " + offerType}
	}
	offer, err := body(w, r, maxOfferBytes)
	if err != nil {
		return err
	}
	if len(offer) == 0 {
		return &Problem{Status: http.StatusBadRequest, Type: "malformed-offer", Detail: "the body is empty; it must be an SDP offer"}
	}
	request := Request{Stream: stream, Token: token(r), Remote: r.RemoteAddr, Agent: r.UserAgent(), Offer: offer}
	if wait, ok := h.limits.guess(request); !ok {
		return tooMany("too many wrong tokens for this stream from your address", wait)
	}
	created, err := h.sessions.Publish(r.Context(), request)
	var refused *Problem
	if errors.As(err, &refused) && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden) {
		h.limits.wrong(request)
	}
	if err != nil {
		return err
	}
	h.limits.right(request)
	header := w.Header()
	for _, s := range created.ICEServers {
		header.Add("Link", s.Link())
	}
	header.Add("Link", "<"+sessionPrefix+created.ID+targetsPath+`>; rel="`+targetsRel+`"`)
	header.Set("Content-Type", offerType)
	header.Set("Location", sessionPrefix+created.ID)
	header.Set("ETag", created.ETag)
	header.Set("Accept-Patch", fragmentType)
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Length", strconv.Itoa(len(created.Answer)))
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, created.Answer)
	return nil
}

func (h *Handler) serveSession(w http.ResponseWriter, r *http.Request, id string) error {
	if id, ok := strings.CutSuffix(id, targetsPath); ok {
		return h.serveTargets(w, r, id)
	}
	const allow = "PATCH, DELETE, OPTIONS, GET, HEAD"
	if r.Method == http.MethodOptions {
		w.Header().Set("Accept-Patch", fragmentType)
		preflight(w, allow)
		return nil
	}
	s, ok := h.sessions.Session(id)
	if !ok {
		return noSession()
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodDelete:
		s.End()
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return nil
	case http.MethodPatch:
		return patch(w, r, s)
	default:
		return &Problem{Status: http.StatusMethodNotAllowed, Type: "method-not-allowed", allow: allow}
	}
}

// serveTargets says where the stream of a session is sent and how that goes. Who knows
// the session may know: its path is as secret as the token that it was made with.
func (h *Handler) serveTargets(w http.ResponseWriter, r *http.Request, id string) error {
	const allow = "OPTIONS, GET, HEAD"
	switch r.Method {
	case http.MethodOptions:
		preflight(w, allow)
		return nil
	case http.MethodGet, http.MethodHead:
	default:
		return &Problem{Status: http.StatusMethodNotAllowed, Type: "method-not-allowed", allow: allow}
	}
	s, ok := h.sessions.Session(id)
	if !ok {
		return noSession()
	}
	var answer struct {
		// Targets is null where it is not known.
		Targets []Target `json:"targets"`
	}
	if list, known := s.Targets(); known {
		answer.Targets = append([]Target{}, list...)
	}
	b, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = w.Write(b)
	}
	return nil
}

func noSession() *Problem {
	return &Problem{Status: http.StatusNotFound, Type: "no-such-session", Detail: "the session has ended or never was; publish again"}
}

func patch(w http.ResponseWriter, r *http.Request, s Session) error {
	if !hasType(r, fragmentType) {
		w.Header().Set("Accept-Patch", fragmentType)
		return &Problem{Status: http.StatusUnsupportedMediaType, Type: "content-type", Detail: "the body must be " + fragmentType}
	}
	text, err := body(w, r, maxFragmentBytes)
	if err != nil {
		return err
	}
	f, err := ParseFragment(string(text))
	if err != nil {
		return &Problem{Status: http.StatusBadRequest, Type: "malformed-fragment", Detail: "the body is not an SDP fragment: " + err.Error()}
	}
	match := r.Header.Get("If-Match")
	switch {
	case match == "":
		return &Problem{Status: http.StatusPreconditionRequired, Type: "if-match-missing", Detail: `PATCH needs If-Match with the session's ETag; "*" to restart ICE`}
	case match != "*" && match != s.ETag():
		return &Problem{Status: http.StatusPreconditionFailed, Type: "if-match", Detail: "If-Match is not the session's ETag: ICE has been restarted since"}
	case f.Ufrag == "" || f.Ufrag == s.Ufrag():
		s.AddCandidates(f.Candidates)
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if err := f.checkCredentials(); err != nil {
		return &Problem{Status: http.StatusBadRequest, Type: "malformed-fragment", Detail: "ICE cannot be restarted: " + err.Error()}
	}
	restarted, err := s.Restart(r.Context(), f)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", fragmentType)
	h.Set("ETag", restarted.ETag)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(restarted.Fragment)))
	w.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(w, restarted.Fragment)
	return nil
}

func hasType(r *http.Request, want string) bool {
	got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && got == want
}

func body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return nil, &Problem{Status: http.StatusRequestEntityTooLarge, Type: "too-large", Detail: "the body is longer than " + strconv.FormatInt(limit>>10, 10) + " KiB"}
	case err != nil:
		return nil, &Problem{Status: http.StatusBadRequest, Type: "body", Detail: "the body did not arrive whole"}
	}
	return b, nil
}

func token(r *http.Request) secret.String {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return secret.String{}
	}
	return secret.New(strings.TrimSpace(value))
}

const (
	maxStreamBytes    = 128
	maxStreamSegments = 4
)

var segment = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

// ValidStream reports whether name can be the name of a stream.
func ValidStream(name string) bool {
	if len(name) > maxStreamBytes {
		return false
	}
	parts := strings.Split(name, "/")
	if len(parts) > maxStreamSegments {
		return false
	}
	for _, p := range parts {
		if !segment.MatchString(p) {
			return false
		}
	}
	return true
}
