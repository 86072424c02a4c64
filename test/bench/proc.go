package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in /proc/PID/stat: 100 per second on Linux.
const clockTick = 10 * time.Millisecond

// A process is what /proc says of one.
type process struct {
	name string        // run, or plugin NAME
	cpu  time.Duration // user and system
	rss  int64         // bytes
}

// processes are those of a tree, by id.
type processes map[int]process

// tree reads the processes of root and all below it.
func tree(root int) processes {
	parents := map[int]int{}
	all := processes{}
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range dirs {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		_, rest, ok := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		if !ok || len(f) < 22 {
			continue
		}
		number := func(i int) int64 { n, _ := strconv.ParseInt(f[i], 10, 64); return n }
		parents[pid] = int(number(1))
		all[pid] = process{cpu: time.Duration(number(11)+number(12)) * clockTick, rss: number(21) * int64(os.Getpagesize())}
	}
	below := func(pid int) bool {
		for range 100 {
			if pid == root {
				return true
			}
			if pid = parents[pid]; pid <= 1 {
				return false
			}
		}
		return false
	}
	for pid, p := range all {
		if !below(pid) {
			delete(all, pid)
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		p.name = "core"
		if len(args) > 2 && args[1] == "plugin" {
			p.name = args[2]
		}
		all[pid] = p
	}
	return all
}

// since returns the CPU used after before, in all and by name.
func (p processes) since(before processes) (time.Duration, map[string]time.Duration) {
	var sum time.Duration
	of := map[string]time.Duration{}
	for pid, now := range p {
		used := now.cpu - before[pid].cpu
		sum += used
		of[now.name] += used
	}
	return sum, of
}

func percent(cpu, wall time.Duration) float64 { return 100 * float64(cpu) / float64(wall) }

// privateBytes returns the memory that a process shares with no other; 0 if it has
// ended.
func privateBytes(pid int) int64 {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	var sum int64
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 3 && (f[0] == "Private_Clean:" || f[0] == "Private_Dirty:") {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			sum += n << 10
		}
	}
	return sum
}

// udpDrops returns how many datagrams the kernel has thrown away for want of room in
// the buffers of the sockets at addr, host:port.
func udpDrops(addr string) int {
	_, port, _ := net.SplitHostPort(addr)
	number, _ := strconv.Atoi(port)
	suffix := fmt.Sprintf(":%04X", number)
	drops := 0
	for _, table := range []string{"/proc/net/udp", "/proc/net/udp6"} {
		b, _ := os.ReadFile(table)
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) >= 13 && strings.HasSuffix(f[1], suffix) {
				n, _ := strconv.Atoi(f[12])
				drops += n
			}
		}
	}
	return drops
}
