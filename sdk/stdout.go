package sdk

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// detachStdout points descriptor 1 to standard error and leaves os.Stdout, with
// which go-plugin writes its handshake, on the pipe to the gateway. The gateway
// stops reading that pipe at the first line beyond 64 KB, and whoever writes to
// it then blocks for ever: code that prints past os.Stdout must not reach it.
func detachStdout() error {
	pipe, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("duplicating standard output: %w", err)
	}
	if err := unix.Dup2(2, 1); err != nil {
		return fmt.Errorf("pointing standard output to standard error: %w", err)
	}
	os.Stdout = os.NewFile(uintptr(pipe), "handshake")
	return nil
}
