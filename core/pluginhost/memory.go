package pluginhost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// goShare is the part of its memory that Go's runtime is told to stay within: it
// collects garbage ever harder near that, before the kernel kills the process.
const goShare = 0.8

// memoryEnv tells a Go process how much memory it has.
func memoryEnv(bytes int64) string {
	return fmt.Sprintf("GOMEMLIMIT=%d", int64(float64(bytes)*goShare))
}

// A memoryController makes control groups, in which the kernel limits the memory of
// processes, beside or below the gateway's own.
type memoryController struct {
	dir string // where they are made
	v2  bool
	n   atomic.Uint64
}

// errNoController is why the kernel does not limit memory.
var errNoController = errors.New("there is no memory controller that the gateway may write to (with systemd: Delegate=memory)")

// findMemoryController looks for a memory controller that this process may use. proc
// and sys are /proc and /sys.
func findMemoryController(proc, sys string) (*memoryController, error) {
	own, err := os.ReadFile(filepath.Join(proc, "self", "cgroup"))
	if err != nil {
		return nil, fmt.Errorf("finding the memory controller: %w", err)
	}
	root := filepath.Join(sys, "fs", "cgroup")
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		switch {
		case f[0] == "0": // version 2
			dir := filepath.Join(root, f[2])
			if hasWord(filepath.Join(dir, "cgroup.controllers"), "memory") {
				if err := delegate(dir); err != nil {
					return nil, fmt.Errorf("%w: %w", errNoController, err)
				}
				return usable(&memoryController{dir: dir, v2: true})
			}
		case hasPart(f[1], "memory"):
			// In a container the path may be that of another namespace.
			for _, dir := range []string{filepath.Join(root, "memory", f[2]), filepath.Join(root, "memory")} {
				if _, err := os.Stat(filepath.Join(dir, "memory.limit_in_bytes")); err == nil {
					return usable(&memoryController{dir: dir})
				}
			}
		}
	}
	return nil, errNoController
}

// usable removes what gateways that were killed have left in c, and tries it.
func usable(c *memoryController) (*memoryController, error) {
	left, err := filepath.Glob(filepath.Join(c.dir, "headgate-*"))
	for _, dir := range left {
		var pid, n int
		if _, scanErr := fmt.Sscanf(filepath.Base(dir), "headgate-%d-%d", &pid, &n); scanErr == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.Remove(dir) // a process may still be ending in it; the next gateway tries again
		}
	}
	probe := c.next()
	if err == nil {
		err = os.Mkdir(probe, 0o755)
	}
	if err == nil {
		err = os.Remove(probe)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoController, err)
	}
	return c, nil
}

// next is the directory of the next group.
func (c *memoryController) next() string {
	return filepath.Join(c.dir, fmt.Sprintf("headgate-%d-%d", os.Getpid(), c.n.Add(1)))
}

func hasWord(file, word string) bool {
	b, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for w := range strings.FieldsSeq(string(b)) {
		if w == word {
			return true
		}
	}
	return false
}

func hasPart(list, part string) bool {
	for p := range strings.SplitSeq(list, ",") {
		if p == part {
			return true
		}
	}
	return false
}

// delegate lets groups below dir limit memory. A group that has processes of its own
// cannot: the gateway moves into one below, where it alone is.
func delegate(dir string) error {
	control := filepath.Join(dir, "cgroup.subtree_control")
	if hasWord(control, "memory") {
		return nil
	}
	if os.WriteFile(control, []byte("+memory"), 0) == nil {
		return nil
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	if pids := strings.Fields(string(procs)); len(pids) != 1 || pids[0] != strconv.Itoa(os.Getpid()) {
		return errors.New("the gateway's control group has other processes too")
	}
	leaf := filepath.Join(dir, "gateway")
	if err := os.Mkdir(leaf, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return err
	}
	return os.WriteFile(control, []byte("+memory"), 0)
}

// A memoryGroup limits the memory of one process and of those that it starts.
type memoryGroup struct {
	dir string
	v2  bool
}

// limit puts the process into a group of its own.
func (c *memoryController) limit(pid int, bytes int64) (*memoryGroup, error) {
	g := &memoryGroup{dir: c.next(), v2: c.v2}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("limiting memory: %w", err)
	}
	file := "memory.limit_in_bytes"
	if c.v2 {
		file = "memory.max"
	}
	err := os.WriteFile(filepath.Join(g.dir, file), []byte(strconv.FormatInt(bytes, 10)), 0)
	if err == nil {
		err = os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("limiting memory: %w", err), g.remove())
	}
	return g, nil
}

// exceeded reports whether the kernel killed a process of the group for its memory.
func (g *memoryGroup) exceeded() bool {
	file := "memory.oom_control"
	if g.v2 {
		file = "memory.events"
	}
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			return f[1] != "0"
		}
	}
	return false
}

// remove removes the group. Its processes have ended, or are about to.
func (g *memoryGroup) remove() error {
	var err error
	for range 50 {
		if err = os.Remove(g.dir); !errors.Is(err, syscall.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// byteText is a size for people.
func byteText(n int64) string {
	if n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%.4g MB", float64(n)/1e6)
}
