package ingestrtsp

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"

	"github.com/headgate/gateway/sdk"
)

// errStalled: the other side is silent for longer than the timeout.
var errStalled = &sdk.Error{Cause: sdk.CauseRemote, Class: "stalled", Err: errors.New("no media come any more")}

// explain says of an error of the library whose fault it is, of which kind, and
// whether trying again soon may help. Texts that a source wrote are not repeated.
func explain(err error, withCredentials bool) error {
	fault := func(cause sdk.Cause, class, text string) *sdk.Error {
		return &sdk.Error{Cause: cause, Class: class, Err: errors.New(text)}
	}
	remote := func(class, text string) error { return fault(sdk.CauseRemote, class, text) }
	config := func(class, text string) error { return sdk.Permanent(fault(sdk.CauseConfig, class, text)) }

	var known *sdk.Error
	var status liberrors.ErrClientBadStatusCode
	var name *net.DNSError
	var verification *tls.CertificateVerificationError
	var header tls.RecordHeaderError
	var alert tls.AlertError
	var unknown x509.UnknownAuthorityError
	var sdp liberrors.ErrClientSDPInvalid
	var setup liberrors.ErrClientAuthSetup
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &status):
		return explainStatus(status.Code, withCredentials, remote, config)
	case errors.As(err, &setup):
		return config("auth", "the source wants a kind of credentials that is not known: basic and digest are")
	case errors.Is(err, errFingerprint):
		return config("tls", err.Error())
	case errors.As(err, &verification), errors.As(err, &unknown):
		return config("tls", "the source's certificate is not trusted ("+err.Error()+"): give its authority by the option ca, or pin it with #fingerprint=SHA256 at the end of the URL")
	case errors.As(err, &header), errors.As(err, &alert):
		return config("tls", "the source does not speak TLS as rtsps does: want rtsp, or another port")
	case errors.As(err, &name):
		return remote("dns", "the name of the source leads to no address: "+name.Err)
	case errors.As(err, &sdp):
		return remote("protocol", "the source's description is not understood: "+sdp.Err.Error())
	case errors.As(err, new(liberrors.ErrClientTCPTimeout)), errors.As(err, new(liberrors.ErrClientUDPTimeout)):
		return errStalled
	case errors.As(err, new(liberrors.ErrClientRequestTimedOut)), errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return remote("timeout", "the source does not answer")
	case errors.Is(err, syscall.ECONNREFUSED):
		return remote("refused", "the source refuses the connection: nothing listens there")
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return remote("reset", "the source broke the connection off")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return remote("closed", "the source ended the connection")
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return remote("address", "no route leads to the source")
	}
	return &sdk.Error{Cause: sdk.CauseRemote, Class: "protocol", Err: fmt.Errorf("the source is not understood: %w", err)}
}

func explainStatus(code base.StatusCode, withCredentials bool, remote, config func(class, text string) error) error {
	switch code {
	case base.StatusUnauthorized, base.StatusForbidden, base.StatusProxyAuthRequired:
		if withCredentials {
			return config("auth", fmt.Sprintf("the source refuses user and password (%d)", code))
		}
		return config("auth", fmt.Sprintf("the source wants a user and a password (%d): write rtsp://user:password@host/path", code))
	case base.StatusNotFound, base.StatusGone:
		return remote("app", fmt.Sprintf("the source has no such stream (%d), or has it not yet", code))
	case base.StatusUnsupportedTransport:
		return config("protocol", fmt.Sprintf("the source does not send by this transport (%d): want transport auto", code))
	case base.StatusServiceUnavailable, base.StatusNotEnoughBandwidth:
		return remote("in_use", fmt.Sprintf("the source has no room for another reader (%d)", code))
	}
	return remote("protocol", fmt.Sprintf("the source refuses (%d)", code))
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
