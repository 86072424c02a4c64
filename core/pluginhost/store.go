package pluginhost

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// staleCopy is how long a copy that nobody started is kept.
const staleCopy = 30 * 24 * time.Hour

// A store holds copies of pinned executables, each in a directory named by its
// checksum. Nobody but the gateway's own user can write there, so what was checked is
// what runs, now and at every restart, whatever happens to the file it came from.
type store struct{ dir string }

// openStore opens the store in the gateway's state directory: that of systemd, of
// XDG, or the one below the system's directory for temporary files.
func openStore() (*store, error) {
	var errs []error
	for _, base := range stateDirs() {
		dir := filepath.Join(base, "plugins", "sha256")
		err := makePrivate(dir)
		if err == nil {
			return &store{dir: dir}, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("finding a place for copies of plugins (set STATE_DIRECTORY to a directory of the gateway's own): %w", errors.Join(errs...))
}

// stateDirs are the directories to try, in order.
func stateDirs() []string {
	var dirs []string
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return []string{dir}
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		dirs = append(dirs, filepath.Join(dir, "headgate"))
	} else if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) {
		dirs = append(dirs, filepath.Join(home, ".local", "state", "headgate"))
	}
	return append(dirs, filepath.Join(os.TempDir(), fmt.Sprintf("headgate-%d", os.Getuid())))
}

// makePrivate makes dir, for the gateway's user alone.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Getuid() {
		return fmt.Errorf("%s is not a directory of our own", dir)
	}
	if info.Mode().Perm() == 0o700 {
		return nil
	}
	return os.Chmod(dir, 0o700)
}

// find returns the copy of the executable at path with this checksum, "" if there is
// none. The file at path need not be there any more.
func (s *store) find(path, want string) string {
	name := s.name(path, want)
	if got, err := Checksum(name); err != nil || got != want {
		return ""
	}
	now := time.Now()
	if os.Chtimes(filepath.Dir(name), now, now) != nil {
		return "" // not ours after all
	}
	return name
}

func (s *store) name(path, sum string) string { return filepath.Join(s.dir, sum, filepath.Base(path)) }

// add copies the executable at path, which must have the checksum.
func (s *store) add(path, want string) (string, error) {
	name := s.name(path, want)
	dir := filepath.Dir(name)
	if err := makePrivate(dir); err != nil {
		return "", err
	}
	got, err := copyFile(name, path, want)
	switch {
	case err != nil:
		return "", errors.Join(err, removeIfEmpty(dir))
	case got != want:
		return "", errors.Join(&ChecksumError{Path: path, Want: want, Got: got}, removeIfEmpty(dir))
	}
	return name, nil
}

func removeIfEmpty(dir string) error {
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return err
	}
	return os.Remove(dir)
}

// copyFile copies from to to if the content has the checksum, and returns the one
// that it has.
func copyFile(to, from, want string) (got string, err error) {
	in, err := openExecutable(from)
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }() // only read
	// A process that is forked meanwhile would hold the copy open for writing for a
	// moment, and the kernel would refuse to start it.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	out, err := os.CreateTemp(filepath.Dir(to), ".copy-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil || got != want {
			err = errors.Join(err, os.Remove(out.Name()))
		}
	}()
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, h), in)
	if err == nil {
		err = out.Chmod(0o500)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return "", fmt.Errorf("copying %s: %w", from, err)
	}
	if got = hex.EncodeToString(h.Sum(nil)); got != want {
		return got, nil
	}
	return got, os.Rename(out.Name(), to)
}

// sweep removes the copies that nobody started for long.
func (s *store) sweep() error {
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		info, infoErr := e.Info()
		if infoErr == nil && time.Since(info.ModTime()) > staleCopy {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, e.Name())))
		}
	}
	return err
}

// openExecutable opens a regular file that may be executed.
func openExecutable(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = executable(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// executable returns what keeps the file from being started.
func executable(path string, info fs.FileInfo) error {
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file; name the plugin's executable", path)
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s is not executable; chmod +x %s makes it so", path, path)
	}
	return nil
}

// isScript reports whether an interpreter runs the file.
func isScript(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // only read
	head := make([]byte, 2)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, fmt.Errorf("reading %s: %w", path, err)
	}
	return bytes.Equal(head[:n], []byte("#!")), nil
}

// Checksum is the SHA-256 of a file, in hexadecimal digits.
func Checksum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// A ChecksumError says that a plugin's file is not the one that was pinned.
type ChecksumError struct{ Path, Want, Got string }

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("%s has sha256 %s, but %s is configured; if you replaced the file, configure its new sha256 (gateway plugins pin %s prints it)",
		e.Path, e.Got, e.Want, e.Path)
}
