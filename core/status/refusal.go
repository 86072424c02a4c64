package status

import (
	"errors"

	"github.com/headgate/gateway/core/config"
)

// Why a target cannot be shown, given, changed or removed.
var (
	ErrNoStream       = errors.New("there is no stream of this name; one that matches a pattern is there while somebody publishes it")
	ErrNoTarget       = errors.New("the stream has no target of this name")
	ErrTooManyTargets = errors.New("the stream has as many targets as it can have")
	ErrEnding         = errors.New("the gateway is shutting down")
)

// An InvalidTargetError says what is wrong with the definition of a target.
type InvalidTargetError struct{ Diagnostics config.Diagnostics }

func (e *InvalidTargetError) Error() string { return "the target cannot be used as it is given" }
