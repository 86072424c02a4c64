package pluginhost

import (
	"os"
	"syscall"
)

// tryLock locks f until it is closed, or fails at once.
func tryLock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
