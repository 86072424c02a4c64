package rtmp

import (
	"strings"
)

// A Stage is how far a connection came.
type Stage string

// The stages of a publishing connection.
const (
	StageDNS          Stage = "dns"
	StageTCP          Stage = "tcp"
	StageTLS          Stage = "tls"
	StageHandshake    Stage = "handshake"
	StageConnect      Stage = "connect"
	StageCreateStream Stage = "createStream"
	StagePublish      Stage = "publish"
	StageLive         Stage = "live"
)

// A RefusalKind says what a refusal means for trying again.
type RefusalKind string

// The kinds of refusal.
const (
	// RefusedKey: the key, the user or the right to publish is refused. Trying
	// again soon will not help.
	RefusedKey RefusalKind = "key"
	// RefusedApp: there is no such application.
	RefusedApp RefusalKind = "app"
	// RefusedBusy: someone publishes under this key, maybe our own former
	// connection that the server has not yet given up.
	RefusedBusy RefusalKind = "busy"
	// RefusedOther: anything else.
	RefusedOther RefusalKind = "other"
)

// A StatusError is the server's no. It contains no secret, even if the server
// sent one back.
type StatusError struct {
	Stage Stage
	// Code is such as NetStream.Publish.BadName; empty if the server gave none.
	Code        string
	Description string
}

func (e *StatusError) Error() string {
	text := string(e.Stage) + " refused"
	if e.Stage == StageLive {
		text = "ended by the server"
	}
	if e.Code != "" {
		text += ": " + e.Code
	}
	if e.Description != "" {
		text += ": " + e.Description
	}
	return text
}

// Kind classifies the refusal.
func (e *StatusError) Kind() RefusalKind {
	code, text := strings.ToLower(e.Code), strings.ToLower(e.Description)
	has := func(s string, parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(s, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has(code, "publish.badname") || has(text, "already publishing", "stream already", "in use"):
		return RefusedBusy
	case has(code, "unauthorized", "publish.denied", "publish.rejected", "notallowed") ||
		has(text, "authmod", "authfailed", "auth failed", "unauthorized", "not authorized", "forbidden", "invalid key", "invalid stream key"):
		return RefusedKey
	case has(code, "invalidapp") || has(text, "application not found", "no such application", "invalid app"):
		return RefusedApp
	case has(code, "connect.rejected", "publish.failed") && has(text, "denied", "permission", "key"):
		return RefusedKey
	default:
		return RefusedOther
	}
}

// A StageError is any other failure on the way to publishing, or after.
type StageError struct {
	Stage Stage
	// Host is where it happened.
	Host string
	Err  error
}

func (e *StageError) Error() string {
	switch e.Stage {
	case StageDNS:
		return "looking up " + e.Host + ": " + e.Err.Error()
	case StageTCP:
		return "connecting to " + e.Host + ": " + e.Err.Error()
	case StageTLS:
		return "securing the connection to " + e.Host + ": " + e.Err.Error()
	case StageLive:
		return "publishing to " + e.Host + ": " + e.Err.Error()
	default:
		return "rtmp " + string(e.Stage) + " with " + e.Host + ": " + e.Err.Error()
	}
}

func (e *StageError) Unwrap() error { return e.Err }
