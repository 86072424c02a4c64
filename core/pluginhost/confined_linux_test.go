package pluginhost

import (
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forbidLandlock makes the kernel answer this process as one without landlock does.
func forbidLandlock() {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_LANDLOCK_CREATE_RULESET, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
		if errno != 0 {
			err = errno
		}
	}
	if err != nil {
		panic(err)
	}
}

// A plugin that the kernel cannot confine runs, and the log says what that means.
func TestPluginOfOldKernel(t *testing.T) {
	action := uint32(unix.SECCOMP_RET_ERRNO)
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action))); errno != 0 {
		t.Skip("needs a kernel with seccomp: ", errno)
	}
	log := &lines{}
	h := start(t, spec("old-kernel"), nil, func(h *Host) {
		h.log = slog.New(slog.NewTextHandler(log, nil))
	})
	open(t, h, "ok")
	until(t, "the warning", func() bool {
		return strings.Contains(log.String(), "the plugin is not confined: it can read and write every file that the gateway's user can") &&
			strings.Contains(log.String(), "the kernel has no landlock")
	})
}
