package pluginhost

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"
)

// unstartable is the kernel's refusal to start the file at path, in words: what is
// wrong with the file, and what to do.
func unstartable(path string, err error) error {
	needs := interpreter(path)
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%s %s; name a build of the plugin for this machine, which is %s/%s: %w", path, program(path), runtime.GOOS, runtime.GOARCH, err)
	case errors.Is(err, fs.ErrNotExist) && needs.name != "" && needs.script:
		return fmt.Errorf("%s is run by %s, which is not there; install it, or correct the first line of the file: %w", path, needs.name, err)
	case errors.Is(err, fs.ErrNotExist) && needs.name != "":
		return fmt.Errorf("%s needs %s, which is not there; name a build for this system, or one that is linked statically (CGO_ENABLED=0): %w", path, needs.name, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may not be executed, though it says so; look whether its file system is mounted with noexec: %w", path, err)
	}
	return err
}

// program says what an executable is that cannot be run.
func program(path string) string {
	f, err := elf.Open(path)
	if err != nil {
		return "is no program, and no script either, which begins with #!"
	}
	defer func() { _ = f.Close() }() // only read
	return "is a program for another machine, " + strings.ToLower(strings.TrimPrefix(f.Machine.String(), "EM_"))
}

// An interpretation is what the kernel starts in the place of an executable.
type interpretation struct {
	name   string // its path; empty for none
	script bool   // it is named by #!, and not by the linker
}

// interpreter is what runs the executable at path.
func interpreter(path string) interpretation {
	if script, err := isScript(path); err != nil || script {
		name, err := firstLineOf(path)
		if f := strings.Fields(strings.TrimPrefix(name, "#!")); err == nil && len(f) > 0 {
			return interpretation{f[0], true}
		}
		return interpretation{}
	}
	f, err := elf.Open(path)
	if err != nil {
		return interpretation{}
	}
	defer func() { _ = f.Close() }() // only read
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
			if err != nil {
				return interpretation{}
			}
			return interpretation{name: strings.TrimRight(string(name), "\x00")}
		}
	}
	return interpretation{}
}

func firstLineOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	line, err := bufio.NewReader(io.LimitReader(f, 4096)).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return line, err
}
