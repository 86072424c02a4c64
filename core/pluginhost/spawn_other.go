//go:build !linux

package pluginhost

import (
	"os"
	"syscall"
)

// procAttr has nothing to ask for: the SDK notices by itself that the gateway died.
func procAttr() *syscall.SysProcAttr { return nil }

// relaxTimers leaves timers as precise as they are.
func relaxTimers() (restore func()) { return func() {} }

// killGroup kills p.
func killGroup(p *os.Process) error { return p.Kill() }

// awaitExit leaves the waiting to p itself, whose Kill knows that p has ended.
func awaitExit(*os.Process) {}
