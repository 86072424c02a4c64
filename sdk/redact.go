package sdk

import (
	"errors"

	"github.com/headgate/gateway/sdk/secret"
)

// redactError returns err with its text redacted; kind, cause and class stay.
func redactError(r secret.Redaction, err error) error {
	if err == nil {
		return nil
	}
	text := r.Text(err.Error())
	if text == err.Error() {
		return err
	}
	clean := errors.New(text)
	var e *Error
	if errors.As(err, &e) {
		clean = &Error{Cause: e.Cause, RetryAfter: e.RetryAfter, Class: e.Class, Err: clean}
	}
	if IsPermanent(err) {
		clean = Permanent(clean)
	}
	return clean
}
