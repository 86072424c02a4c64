package whip

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/headgate/gateway/sdk"
)

// problemBase begins the type of every problem document; what follows is stable.
const problemBase = "urn:headgate:whip:"

// A Problem is an answer that is not success, as RFC 9457 wants it. It is the
// error that [Sessions] return; other errors become an internal one that says
// nothing to the outside.
type Problem struct {
	Status     int
	Type       string // without its base: "unusable-codec"
	Detail     string // for the person who publishes; no secrets
	RetryAfter time.Duration

	challenge string // WWW-Authenticate
	allow     string // Allow
}

func (p *Problem) Error() string { return p.Type + ": " + p.Detail }

// Rejected is the Problem for the gateway's no to an offer.
func Rejected(e *sdk.RejectedError) *Problem {
	p := &Problem{Detail: e.Message, RetryAfter: e.RetryAfter}
	switch e.Reason {
	case sdk.Unauthenticated:
		p.Status, p.Type, p.challenge = http.StatusUnauthorized, "unauthenticated", `Bearer realm="publish"`
	case sdk.Forbidden:
		p.Status, p.Type = http.StatusForbidden, "forbidden"
	case sdk.NotFound:
		p.Status, p.Type = http.StatusNotFound, "no-such-route"
	case sdk.Conflict:
		p.Status, p.Type = http.StatusConflict, "already-published"
	case sdk.Unusable:
		p.Status, p.Type = http.StatusUnprocessableEntity, "unusable-offer"
	default: // Busy, and reasons of newer gateways
		p.Status, p.Type = http.StatusServiceUnavailable, "busy"
		p.RetryAfter = max(p.RetryAfter, time.Second)
	}
	return p
}

// titles are one line per status; the detail says the rest.
func title(status int) string {
	switch status {
	case http.StatusUnprocessableEntity:
		return "Offer cannot be used"
	case http.StatusUnauthorized:
		return "Token needed"
	default:
		return http.StatusText(status)
	}
}

// ServeHTTP answers with the document.
func (p *Problem) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.challenge != "" {
		h.Set("WWW-Authenticate", p.challenge)
	}
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	if p.RetryAfter > 0 {
		seconds := (p.RetryAfter + time.Second - 1) / time.Second
		h.Set("Retry-After", strconv.Itoa(int(seconds)))
	}
	body, err := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail,omitempty"`
	}{problemBase + p.Type, title(p.Status), p.Status, p.Detail})
	if err != nil {
		body = nil // the types above always marshal
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}
