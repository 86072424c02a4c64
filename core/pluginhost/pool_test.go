package pluginhost

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/wire"
)

// several is a plugin of which several processes may run.
func several() Spec {
	s := spec("several")
	p := testPlugin()
	p.Shardable, p.Ingest.Mounts = true, nil
	s.Info = sdk.Describe(p)
	return s
}

// openFor opens an egress session of a stream.
func openFor(t *testing.T, h *Host, id uint64, stream string) *recorder {
	t.Helper()
	spec := egressSpec("ok")
	spec.StreamID, spec.Stream = id, stream
	r := record()
	if _, err := h.OpenEgress("test", spec, r, &queue{}); err != nil {
		t.Fatal(err)
	}
	get(t, r.ready)
	return r
}

// processes returns the status of each process by its name.
func processes(h *Host) map[string]Status {
	out := map[string]Status{}
	for _, st := range h.Status() {
		out[st.Process] = st
	}
	return out
}

// A track is made where a process runs anyhow: a gateway that sends nothing by the
// first plugin does not start it for that.
func TestTransformerRunsAnyhow(t *testing.T) {
	isolated := func(stream string) string {
		if stream == "alone" {
			return stream
		}
		return ""
	}
	named := func(name string, makes ...string) Spec {
		info := &wire.DescribeResponse{Name: name, Shardable: true}
		for _, to := range makes {
			info.Transforms = append(info.Transforms, &wire.TransformInfo{From: "opus", To: to})
		}
		return Spec{Name: name, Info: info}
	}
	h := New([]Spec{named("a", "aac"), named("b", "mp3"), named("c", "aac")}, nil, slog.New(slog.DiscardHandler), WithIsolation(isolated))
	f := func(to, stream, want string) {
		t.Helper()
		got := ""
		if po := h.transformer("opus", to, stream); po != nil {
			got = po.spec.Name
		}
		if got != want {
			t.Errorf("%s for %s: %q, want %q", to, stream, got, want)
		}
	}
	f("aac", "studio", "a")
	f("mp3", "studio", "b")
	f("vorbis", "studio", "")
	h.Need("c", "")
	f("aac", "studio", "c")
	f("aac", "alone", "a")
	h.Need("c", "alone")
	f("aac", "alone", "c")
	h.Need("a", "")
	f("aac", "studio", "a")
}

// The instances of a plugin share its streams; all sessions of one stream are in one
// process, and the death of a process ends its own sessions alone.
func TestInstances(t *testing.T) {
	s := several()
	s.Instances = 3
	h := start(t, s, nil)
	const streams = 6
	var all []*recorder
	for id := range uint64(streams) {
		all = append(all, openFor(t, h, id, fmt.Sprint(id)), openFor(t, h, id, fmt.Sprint(id)))
	}
	for i, name := range []string{"1", "2", "3"} {
		st := processes(h)[name]
		if st.State != Ready || st.Sessions != 4 || st.PID == 0 {
			t.Errorf("process %d: %+v", i+1, st)
		}
	}
	second := processes(h)["2"].PID
	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for i, r := range all {
		if id := i / 2; id%3 == 1 {
			if e := get(t, r.ended); e.Cause != CausePlugin {
				t.Errorf("stream %d ended with %+v", id, e)
			}
		}
	}
	openFor(t, h, 1, "1")
	for i, r := range all {
		if i/2%3 != 1 && len(r.ended) > 0 {
			t.Errorf("stream %d ended too", i/2)
		}
	}
	if p := processes(h); p["2"].Restarts != 1 || p["1"].Restarts+p["3"].Restarts != 0 || p["2"].PID == second {
		t.Errorf("%+v", p)
	}
}

// A plugin that does not say it can be several has one process, whatever is asked.
func TestOnlyShardablePluginsAreSeveral(t *testing.T) {
	s := spec("serve")
	s.Instances = 3
	h := start(t, s, nil, WithIsolation(func(stream string) string { return stream }))
	openFor(t, h, 1, "one")
	openFor(t, h, 2, "two")
	if st := h.Status(); len(st) != 1 || st[0].Sessions != 2 {
		t.Errorf("%+v", st)
	}
}

// A route with a process of its own shares it with no other stream.
func TestIsolation(t *testing.T) {
	h, stop := startHost(t, several(), nil, WithIsolation(func(stream string) string {
		if strings.HasPrefix(stream, "vip/") {
			return "vip/*"
		}
		return ""
	}))
	h.Need("test", "vip/*")
	common, vip, again := openFor(t, h, 1, "live"), openFor(t, h, 2, "vip/a"), openFor(t, h, 3, "vip/b")
	p := processes(h)
	own := p["route vip/*"]
	if len(p) != 2 || p["1"].Sessions != 1 || own.Sessions != 2 || own.PID == p["1"].PID {
		t.Errorf("%+v", p)
	}
	if err := syscall.Kill(own.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	get(t, vip.ended)
	get(t, again.ended)
	openFor(t, h, 2, "vip/a")
	if len(common.ended) > 0 || processes(h)["1"].Restarts != 0 {
		t.Error("the others noticed")
	}
	stop()
	for _, st := range h.Status() {
		if st.State != Stopped {
			t.Errorf("after the end %+v", st)
		}
	}
	if _, err := h.OpenEgress("test", egressSpec("ok"), record(), &queue{}); !errors.Is(err, ErrStopped) {
		t.Errorf("opened in a host that has stopped: %v", err)
	}
	late := egressSpec("ok")
	late.Stream = "vip/late"
	if _, err := h.OpenEgress("test", late, record(), &queue{}); !errors.Is(err, ErrStopped) {
		t.Errorf("opened in a host that has stopped: %v", err)
	}
}

// A process that takes more than its memory is killed for it, which is said, and
// nobody else notices. Where the kernel does not limit memory that is said too.
func TestMemory(t *testing.T) {
	s := several()
	s.MemoryBytes = 128 << 20
	h := start(t, s, nil, WithIsolation(func(stream string) string {
		if stream == "hungry" {
			return "hungry"
		}
		return ""
	}))
	other := openFor(t, h, 1, "live")
	if st := h.Status()[0]; st.MemoryBytes != 128<<20 {
		t.Errorf("%+v", st)
	}
	if note := h.Status()[0].MemoryNote; note != "" {
		if !strings.Contains(note, "Delegate=memory") {
			t.Errorf("no remedy in %q", note)
		}
		t.Skip("this machine has no memory controller for it: " + note)
	}
	hungry := egressSpec("eat")
	hungry.Stream = "hungry"
	r := record()
	if _, err := h.OpenEgress("test", hungry, r, &queue{}); err != nil {
		t.Fatal(err)
	}
	if e := get(t, r.ended); e.Cause != CausePlugin {
		t.Errorf("ended with %+v", e)
	}
	const want = "the kernel killed it for using more than its memory of 128 MiB; give it more with plugins.test.memory"
	until(t, "the reason", func() bool { return strings.Contains(processes(h)["route hungry"].LastError, want) })
	if len(other.ended) > 0 || processes(h)["1"].Restarts != 0 {
		t.Error("the others noticed")
	}
}

// tree makes files below a directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func content(t *testing.T, name ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(name...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// How a controller is found and used, on trees that look as /proc and /sys do.
func TestMemoryController(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	f := func(name string, files map[string]string, wantDir string, wantV2 bool, wantErr string) string {
		t.Helper()
		root := tree(t, files)
		c, err := findMemoryController(root, root)
		switch {
		case wantErr != "":
			if err == nil || !errors.Is(err, errNoController) || !strings.Contains(err.Error(), wantErr) {
				t.Errorf("%s: %v", name, err)
			}
			return root
		case err != nil:
			t.Errorf("%s: %v", name, err)
			return root
		}
		if c.dir != filepath.Join(root, wantDir) || c.v2 != wantV2 {
			t.Errorf("%s: found %+v", name, c)
		}
		g, err := c.limit(4711, 1<<26)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return root
		}
		file, events := "memory.limit_in_bytes", "memory.oom_control"
		if wantV2 {
			file, events = "memory.max", "memory.events"
		}
		if content(t, g.dir, file) != "67108864" || content(t, g.dir, "cgroup.procs") != "4711" || g.exceeded() {
			t.Errorf("%s: the group is not as it should be", name)
		}
		for text, want := range map[string]bool{"low 0\noom 1\noom_kill 0\n": false, "under_oom 0\noom_kill 2\n": true} {
			if err := os.WriteFile(filepath.Join(g.dir, events), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if g.exceeded() != want {
				t.Errorf("%s: %q is not understood", name, text)
			}
		}
		return root
	}
	v2 := func(procs, enabled string) map[string]string {
		const dir = "fs/cgroup/system.slice/gateway.service/"
		return map[string]string{
			"self/cgroup": "0::/system.slice/gateway.service\n", dir + "cgroup.controllers": "cpu memory pids",
			dir + "cgroup.subtree_control": enabled, dir + "cgroup.procs": procs,
		}
	}
	f("version 2", v2(self+"\n", "cpu memory"), "fs/cgroup/system.slice/gateway.service", true, "")
	f("version 1", map[string]string{"self/cgroup": "4:memory:/some/where\n0::/\n", "fs/cgroup/memory/memory.limit_in_bytes": "1"},
		"fs/cgroup/memory", false, "")
	f("version 1, own group", map[string]string{"self/cgroup": "4:cpu,memory:/a\n", "fs/cgroup/memory/a/memory.limit_in_bytes": "1"},
		"fs/cgroup/memory/a", false, "")
	f("no controller", map[string]string{"self/cgroup": "0::/\n", "fs/cgroup/cgroup.controllers": "cpu pids"}, "", false, "Delegate=memory")
	f("nothing", map[string]string{"self/cgroup": "\n"}, "", false, "Delegate=memory")
}

// What a gateway that was killed left of its control groups goes.
func TestMemoryGroupsAreSwept(t *testing.T) {
	gone := 1 << 30 // no process has this number
	root := tree(t, map[string]string{"self/cgroup": "4:memory:/\n", "fs/cgroup/memory/memory.limit_in_bytes": "1"})
	dir := filepath.Join(root, "fs/cgroup/memory")
	for _, name := range []string{fmt.Sprintf("headgate-%d-1", gone), fmt.Sprintf("headgate-%d-77", os.Getpid()), "headgate-x"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := findMemoryController(root, root); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{fmt.Sprintf("headgate-%d-77", os.Getpid()), "headgate-x", "memory.limit_in_bytes"}
	if !slices.Equal(names, want) {
		t.Errorf("left %q, want %q", names, want)
	}
}
