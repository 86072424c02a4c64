package pluginhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	lockName = "lock"
	// socketPathMax is what the shortest unix allows, less the names below the
	// run directory: /plugin-dir1234567890/plugin1234567890.
	socketPathMax = 103 - 40
	// freshDir is how long a directory without a lock may be one that another
	// gateway is just making.
	freshDir = time.Minute
)

// A runDir is where the plugins of one host make their sockets: private, with a
// short path, and locked for as long as the host lives, so that its successors
// can tell what is left of a host that was killed.
type runDir struct {
	path string
	lock *os.File
}

// newRunDir makes a run directory, in base or, if that is empty, where the system
// keeps such things, and removes those that dead hosts have left there.
func newRunDir(base string) (*runDir, error) {
	var errs []error
	for _, b := range runBases(base) {
		d, err := newRunDirIn(b)
		if err == nil {
			return d, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("making a run directory: %w", errors.Join(errs...))
}

// runBases returns the directories to try, in order.
func runBases(base string) []string {
	if base != "" {
		return []string{base}
	}
	var bases []string
	if dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":"); dir != "" {
		bases = append(bases, dir)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		bases = append(bases, filepath.Join(dir, "headgate"))
	}
	uid := fmt.Sprintf("headgate-%d", os.Getuid())
	return append(bases, filepath.Join(os.TempDir(), uid), filepath.Join("/tmp", uid))
}

func newRunDirIn(base string) (*runDir, error) {
	if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Stat(base)
	if err != nil {
		return nil, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s is not a directory of our own, or others may write to it", base)
	}
	sweep(base)
	for range 3 {
		path, err := os.MkdirTemp(base, "")
		if err != nil {
			return nil, err
		}
		if len(path) > socketPathMax {
			_ = os.Remove(path)
			return nil, fmt.Errorf("%s is too long for the path of a unix socket", path)
		}
		lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := tryLock(lock); err == nil {
			if _, err := os.Stat(lock.Name()); err == nil {
				return &runDir{path: path, lock: lock}, nil
			}
		}
		_ = lock.Close() // another host swept it away between two steps
	}
	return nil, fmt.Errorf("%s does not stay", base)
}

// remove removes the directory.
func (d *runDir) remove() error {
	err := os.RemoveAll(d.path)
	return errors.Join(err, d.lock.Close())
}

// sweep removes the run directories in base whose hosts are dead.
func sweep(base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return
	}
	for _, e := range entries {
		// Ours are made by numbers; whatever else lives here is not ours to remove.
		if e.IsDir() && strings.Trim(e.Name(), "0123456789") == "" {
			sweepDir(filepath.Join(base, e.Name()))
		}
	}
}

// sweepDir removes the run directory at path if nobody holds its lock.
func sweepDir(path string) {
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		info, err := os.Lstat(path)
		if err == nil && time.Since(info.ModTime()) > freshDir {
			_ = os.Remove(path) // empty, or not one of ours
		}
		return
	case err != nil:
		return
	}
	defer func() { _ = lock.Close() }()
	if tryLock(lock) == nil {
		_ = os.RemoveAll(path)
	}
}
