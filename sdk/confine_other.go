//go:build !linux

package sdk

import "errors"

var errNoLandlock = errors.New("only Linux can confine a plugin")

func confine(...string) error { return errNoLandlock }
