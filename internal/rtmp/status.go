package rtmp

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
)

// A Stage is how far a connection came.
type Stage string

// The stages of a publishing connection.
const (
	StageDNS          Stage = "dns"
	StageTCP          Stage = "tcp"
	StageProxy        Stage = "proxy"
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
	// RefusedKey: the key, or the right to publish under it, is refused. Trying again
	// soon will not help.
	RefusedKey RefusalKind = "key"
	// RefusedLogin: the server wants a user and a password, or others.
	RefusedLogin RefusalKind = "auth"
	// RefusedApp: there is no such application.
	RefusedApp RefusalKind = "app"
	// RefusedBusy: someone publishes under this key, maybe our own former
	// connection that the server has not yet given up.
	RefusedBusy RefusalKind = "in_use"
	// RefusedOther: anything else.
	RefusedOther RefusalKind = "refused"
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
	case has(text, "authmod", "authfailed", "auth failed"):
		return RefusedLogin
	case has(code, "unauthorized", "publish.denied", "publish.rejected", "notallowed") ||
		has(text, "unauthorized", "not authorized", "forbidden", "invalid key", "invalid stream key"):
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
	case StageTCP, StageProxy:
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

// Class returns one word for what kind of failure err of this package is: a
// [RefusalKind], or
//
//   - dns: the name has no address
//   - unreachable: no connection could be made
//   - timeout: no answer in time
//   - proxy: the proxy did not let us through
//   - tls: the connection could not be secured
//   - protocol: what answers does not speak RTMP as it should
//   - reset, closed: the server cut the connection off, or closed it
//   - stalled: the server takes no data
//
// It is empty for other errors.
func Class(err error) string {
	var status *StatusError
	if errors.As(err, &status) {
		return string(status.Kind())
	}
	var stage *StageError
	if !errors.As(err, &stage) {
		return ""
	}
	var protocol *protocolError
	switch {
	case errors.Is(err, errStalled):
		return "stalled"
	case stage.Stage == StageTLS && isCertificate(err), isTLSAlert(err):
		return "tls"
	case stage.Stage == StageDNS:
		return "dns"
	case isTimeout(err):
		return "timeout"
	case stage.Stage == StageProxy:
		return "proxy"
	case stage.Stage == StageTCP:
		return "unreachable"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED):
		return "reset"
	case stage.Stage == StageTLS:
		return "tls"
	case errors.Is(err, errServerClosed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "closed"
	case errors.As(err, &protocol), stage.Stage == StageHandshake:
		return "protocol"
	default:
		return "reset"
	}
}
