package pluginhost

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// patience bounds every wait of these tests; none of them gets near it.
const patience = 20 * time.Second

// spec starts this test binary as a plugin.
func spec(mode string) Spec {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Spec{Name: "test", Command: []string{exe, "plugin", mode}, Info: sdk.Describe(testPlugin())}
}

// runDirBase returns a directory whose path is short enough for sockets.
func runDirBase(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) > 0 {
			t.Errorf("left in the run directory: %v, %v", entries, err)
		}
		_ = os.RemoveAll(dir)
	})
	return dir
}

// start runs a host until the test ends.
func start(t *testing.T, s Spec, offers Offers, opts ...Option) *Host {
	t.Helper()
	h, stop := startHost(t, s, offers, opts...)
	t.Cleanup(stop)
	return h
}

func startHost(t *testing.T, s Spec, offers Offers, opts ...Option) (*Host, func()) {
	t.Helper()
	log := &lines{}
	opts = append([]Option{WithRunDir(runDirBase(t)), WithVersion("9.9.9")}, opts...)
	h := New([]Spec{s}, offers, slog.New(slog.NewTextHandler(log, nil)), opts...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	return h, sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the host does not stop")
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
}

func withTimings(f func(*timings)) Option { return func(h *Host) { f(&h.timings) } }

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// recorder is a SessionHandler that keeps what it hears.
type recorder struct {
	ready chan Accepts
	ended chan End

	mu       sync.Mutex
	tracks   [][]media.Track
	units    []*media.AccessUnit
	credited int
	stats    []Stats
	keys     int
	over     bool
}

func record() *recorder {
	return &recorder{ready: make(chan Accepts, 1), ended: make(chan End, 1)}
}

func (r *recorder) do(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		panic("called after Ended")
	}
	f()
}

func (r *recorder) Ready(a Accepts)          { r.ready <- a }
func (r *recorder) Tracks(t []media.Track)   { r.do(func() { r.tracks = append(r.tracks, t) }) }
func (r *recorder) Unit(u *media.AccessUnit) { r.do(func() { r.units = append(r.units, u) }) }
func (r *recorder) Credited(n int)           { r.do(func() { r.credited += n }) }
func (r *recorder) Keyframe(media.TrackID)   { r.do(func() { r.keys++ }) }
func (r *recorder) Stats(s Stats)            { r.do(func() { r.stats = append(r.stats, s) }) }
func (r *recorder) Ended(e End)              { r.do(func() { r.over = true }); r.ended <- e }

func (r *recorder) unitCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.units)
}

func (r *recorder) creditedBytes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.credited
}

// value returns a figure of the newest stats.
func (r *recorder) value(name string) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.stats) == 0 {
		return 0
	}
	return r.stats[len(r.stats)-1].Values[name]
}

// queue is a Source.
type queue struct {
	mu     sync.Mutex
	items  []Item
	pulled int // bytes
}

func (q *queue) put(items ...Item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, items...)
}

func (q *queue) Pull(maxBytes int) []Item {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.items) {
		size := 0
		if u := q.items[n].Unit; u != nil {
			size = len(u.Payload)
		}
		if n > 0 && bytes+size > maxBytes {
			break
		}
		bytes += size
		n++
	}
	out := q.items[:n:n]
	q.items = q.items[n:]
	q.pulled += bytes
	return out
}

func (q *queue) pulledBytes() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pulled
}

// get receives from c within the test's patience.
func get[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// until waits for a condition.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

var twoTracks = []media.Track{
	{ID: 1, Codec: media.H264, DecoderConfig: []byte{1}, Width: 1280, Height: 720},
	{ID: 2, Codec: media.AAC, DecoderConfig: []byte{0x11, 0x90}, SampleRateHz: 48000, Channels: 2},
}

// open opens an egress session and waits until it is ready.
func open(t *testing.T, h *Host, verb string) (Session, *recorder, *queue) {
	t.Helper()
	r, q := record(), &queue{}
	s, err := h.OpenEgress("test", egressSpec(verb), r, q)
	if err != nil {
		t.Fatal(err)
	}
	get(t, r.ready)
	return s, r, q
}

func egressSpec(verb string) EgressSpec {
	return EgressSpec{
		StreamID: 1, Stream: "live", Target: "cdn", Attempt: 1, Tracks: twoTracks,
		URL: secret.New("test://" + verb), Key: secret.New("k3y-of-the-stream"),
	}
}

// units returns n units of size bytes.
func units(n, size int) []Item {
	items := make([]Item, n)
	for i := range items {
		items[i].Unit = &media.AccessUnit{
			Track: 1, Seq: uint32(i), DTS: time.Duration(i) * 33 * time.Millisecond, PTS: time.Duration(i) * 33 * time.Millisecond,
			RandomAccess: i%30 == 0, Received: time.Now(), Payload: make([]byte, size),
		}
	}
	return items
}

func TestEgressSession(t *testing.T) {
	h := start(t, spec("serve"), nil)
	r, q := record(), &queue{}
	q.put(Item{Tracks: twoTracks})
	q.put(units(100, 2000)...)
	q.put(Item{Unit: &media.AccessUnit{Track: 1, DTS: time.Hour, Payload: make([]byte, 6<<20)}, Discontinuity: true})
	began := time.Now()
	s, err := h.OpenEgress("test", egressSpec("ok"), r, q)
	if err != nil {
		t.Fatal(err)
	}
	a := get(t, r.ready)
	t.Logf("process started and session opened in %v", time.Since(began))
	if len(a.Codecs) != 2 || a.VideoTracks != 1 || a.AudioTracks != 1 {
		t.Errorf("accepts %+v", a)
	}
	// The queue was filled before: being ready is enough to have it pulled.
	want := 100*2000 + 6<<20
	until(t, "credit for all", func() bool { return r.creditedBytes() == want })
	until(t, "stats", func() bool { return r.value("units") == 101 && r.value("gaps") == 1 })
	if n := r.value("tracks"); n != 0 {
		t.Errorf("SetTracks was called %v times for the tracks that the sink was opened with", n)
	}
	s.Close("done", true)
	if e := get(t, r.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	st := h.Status()[0]
	if st.State != Ready || st.PID == 0 || st.Version != "1.2.3" || st.Sessions != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestOpenFails(t *testing.T) {
	h := start(t, spec("serve"), nil)
	f := func(verb string, want End) {
		t.Helper()
		r := record()
		if _, err := h.OpenEgress("test", egressSpec(verb), r, &queue{}); err != nil {
			t.Fatal(err)
		}
		got := get(t, r.ended)
		if strings.Contains(got.Message, "k3y-of") || strings.Contains(got.Message, "test://") {
			t.Errorf("a secret in %q", got.Message)
		}
		if got != want {
			t.Errorf("%s: got %+v, want %+v", verb, got, want)
		}
	}
	f("refuse", End{Failed: true, Permanent: true, Cause: CauseRemote, Class: "key", Message: "the key *** of *** is refused"})
	f("panic", End{Failed: true, Cause: CausePlugin, Message: "the plugin panicked: in Open"})
	if _, err := h.OpenEgress("none", egressSpec("ok"), record(), &queue{}); err == nil {
		t.Error("an unknown plugin opened a session")
	}
}

func TestPanicIsContained(t *testing.T) {
	h := start(t, spec("serve"), nil)
	s, r, q := open(t, h, "panic-write")
	_, neighbour, _ := open(t, h, "ok")
	pid := h.Status()[0].PID
	q.put(units(1, 10)...)
	s.Wake()
	if e := get(t, r.ended); e.Cause != CausePlugin || e.Message != "the plugin panicked: in WriteAccessUnit" {
		t.Errorf("ended with %+v", e)
	}
	if len(neighbour.ended) > 0 || h.Status()[0].PID != pid {
		t.Error("the neighbour ended too")
	}
}

func TestPrintingDoesNotWedge(t *testing.T) {
	h := start(t, spec("serve"), nil)
	_, r, _ := open(t, h, "print")
	_, _, _ = open(t, h, "ok")
	if len(r.ended) > 0 {
		t.Error("the session ended")
	}
}

// One payload crosses once for all sessions of a process that send it together.
// Whether two sessions are woken in time for one round is for the scheduler to
// say, so most of many rounds must do.
func TestSharedUnit(t *testing.T) {
	h := start(t, spec("serve"), nil)
	s1, r1, q1 := open(t, h, "ok")
	s2, r2, q2 := open(t, h, "ok")
	const rounds, n = 40, 50
	for i := range rounds {
		items := units(n, 100)
		q1.put(items...)
		q2.put(items...)
		s1.Wake()
		s2.Wake()
		want := (i + 1) * n * 100
		until(t, "all credited", func() bool { return r1.creditedBytes() == want && r2.creditedBytes() == want })
	}
	until(t, "stats", func() bool { return r1.value("units") == rounds*n && r2.value("units") == rounds*n })
	sum := r1.value("derived") + r2.value("derived")
	t.Logf("%v units muxed, of %d for each of 2 targets", sum, rounds*n)
	if sum > 1.5*rounds*n {
		t.Errorf("%v derived forms for %d units: the sessions did not share them", sum, rounds*n)
	}
}

// A session's outstanding bytes stay within its window and one unit, and a
// session that does not move leaves its neighbour alone.
func TestCreditIsolatesSessions(t *testing.T) {
	h := start(t, spec("serve"), nil)
	stalled, rs, qs := open(t, h, "stall")
	s, r, q := open(t, h, "ok")
	qs.put(units(1000, 8000)...)
	stalled.Wake()
	q.put(units(1000, 8000)...)
	s.Wake()
	until(t, "the neighbour's credit", func() bool { return r.creditedBytes() == 1000*8000 })
	if got, most := qs.pulledBytes(), wire.MinWindowBytes+8000; got > most {
		t.Errorf("%d bytes were sent to a target that takes none, more than %d", got, most)
	}
	if rs.creditedBytes() != 0 {
		t.Error("credit for a write that never returned")
	}
	began := time.Now()
	stalled.Close("enough", false)
	if e := get(t, rs.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("closing took %v", took)
	}
}

func TestSlowSessionDoesNotDelayItsNeighbour(t *testing.T) {
	h := start(t, spec("serve"), nil)
	slow, rs, qs := open(t, h, "slow")
	s, r, q := open(t, h, "ok")
	const much = 4000 // units: twenty seconds for the slow one
	qs.put(units(much, 4000)...)
	slow.Wake()
	for i := range 50 {
		q.put(units(1, 4000)...)
		s.Wake()
		until(t, "credit", func() bool { return r.creditedBytes() == (i+1)*4000 })
	}
	if rs.creditedBytes() == much*4000 {
		t.Error("the neighbour had to wait until the slow session had done all")
	}
	if len(rs.ended)+len(r.ended) > 0 {
		t.Error("a session ended")
	}
}

func TestCrash(t *testing.T) {
	h := start(t, spec("serve"), nil)
	_, r, _ := open(t, h, "ok")
	pid := h.Status()[0].PID
	began := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e := get(t, r.ended)
	heard := time.Since(began)
	if !e.Failed || e.Cause != CausePlugin {
		t.Errorf("ended with %+v", e)
	}
	// Opened again at once, without asking whether the process is back.
	_, _, _ = open(t, h, "ok")
	if at := h.Status()[0].RetryAt; !at.IsZero() {
		t.Errorf("one that runs is to be started at %v", at)
	}
	t.Logf("crash heard after %v, next session ready after %v", heard, time.Since(began))
	st := h.Status()[0]
	if st.PID == pid || st.PID == 0 || st.Restarts != 1 || !strings.Contains(st.LastError, "killed") {
		t.Errorf("status %+v", st)
	}
}

func TestHangIsKilled(t *testing.T) {
	h := start(t, spec("serve"), nil, withTimings(func(t *timings) {
		t.ping, t.silence = 20*time.Millisecond, 200*time.Millisecond
	}))
	// One that a busy machine holds up for so long is killed like one that hangs.
	for hung := false; !hung; {
		r := openInTime(t, h)
		if pid := h.Status()[0].PID; pid > 0 { // 0 would be this very process and its group
			hung = syscall.Kill(pid, syscall.SIGSTOP) == nil
		}
		if e := get(t, r.ended); e.Cause != CausePlugin {
			t.Errorf("ended with %+v", e)
		}
	}
	openInTime(t, h)
	if st := h.Status()[0]; !strings.Contains(st.LastError, "did not answer for 200ms") {
		t.Errorf("status %+v", st)
	}
}

// openInTime opens a session in a process that lives long enough to answer.
func openInTime(t *testing.T, h *Host) *recorder {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		r := record()
		if _, err := h.OpenEgress("test", egressSpec("ok"), r, &queue{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-r.ready:
			return r
		case <-r.ended:
		case <-time.After(patience):
			t.Fatal("a session neither opened nor failed")
		}
	}
	t.Fatal("no session opened")
	return nil
}

func TestFailingStarts(t *testing.T) {
	f := func(mode, want string) {
		t.Run(mode, func(t *testing.T) {
			h := start(t, spec(mode), nil, withTimings(func(t *timings) {
				t.restartMin, t.restartMax = time.Millisecond, time.Millisecond
				if mode == "mute" {
					t.start = 500 * time.Millisecond
				}
			}))
			for range 8 { // until the circuit opens
				r := record()
				_, err := h.OpenEgress("test", egressSpec("ok"), r, &queue{})
				var unavailable *UnavailableError
				if errors.As(err, &unavailable) {
					if st := h.Status()[0]; st.State != Broken || unavailable.RetryAfter < 50*time.Second {
						t.Errorf("%v, status %+v", unavailable, st)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if e := get(t, r.ended); e.Cause != CausePlugin || !strings.Contains(e.Message, want) {
					t.Errorf("ended with %+v, want %q", e, want)
				}
			}
			t.Error("the circuit did not open")
		})
	}
	f("exit", "exit status 7")
	f("panic", "this plugin cannot start")
	f("mute", "did not answer within 500ms")
}

func TestQuickDeathsOpenTheCircuit(t *testing.T) {
	h := start(t, spec("quick"), nil, withTimings(func(t *timings) { t.restartMin, t.restartMax = time.Millisecond, time.Millisecond }))
	h.Need("test", "")
	until(t, "the circuit", func() bool { return h.Status()[0].State == Broken })
	st := h.Status()[0]
	if st.Restarts != 6 || !strings.Contains(st.LastError, "exit status 3") {
		t.Errorf("status %+v", st)
	}
	if rest := st.RetryAt.Sub(st.Since); rest != h.timings.circuitRest {
		t.Errorf("it is started again %v after the circuit opened, want %v", rest, h.timings.circuitRest)
	}
}

func TestSessionsThatNeverOpened(t *testing.T) {
	h, stop := startHost(t, spec("mute"), nil)
	r1, r2 := record(), record()
	s1, err1 := h.OpenEgress("test", egressSpec("ok"), r1, &queue{})
	_, err2 := h.OpenEgress("test", egressSpec("ok"), r2, &queue{})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	s1.Wake()
	s1.Close("changed my mind", true)
	if e := get(t, r1.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	stop()
	if e := get(t, r2.ended); e.Cause != CauseGateway {
		t.Errorf("ended with %+v", e)
	}
	if _, err := h.OpenEgress("test", egressSpec("ok"), record(), &queue{}); !errors.Is(err, ErrStopped) {
		t.Errorf("opened a session in a host that has stopped: %v", err)
	}
}

func TestStopDrains(t *testing.T) {
	h, stop := startHost(t, spec("serve"), nil)
	_, r, q := open(t, h, "slow")
	_, stalled, qs := open(t, h, "stall")
	q.put(units(10, 100)...)
	qs.put(units(10, 100)...)
	pid := h.Status()[0].PID
	began := time.Now()
	stop()
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("stopping took %v", took)
	}
	for _, r := range []*recorder{r, stalled} {
		if e := get(t, r.ended); e.Cause != CauseGateway {
			t.Errorf("ended with %+v", e)
		}
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
}

// A process that does nothing any more costs the end of the host no more time
// than the gateway has left of its 5 s when the targets had theirs.
func TestStopWithStuckProcess(t *testing.T) {
	h, stop := startHost(t, spec("serve"), nil)
	_, r, _ := open(t, h, "ok")
	if err := syscall.Kill(h.Status()[0].PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	stop()
	took := time.Since(began)
	if bound := h.timings.drain + h.timings.stopGrace; bound > 2*time.Second || took > bound+3*time.Second {
		t.Errorf("stopping took %v, and may take %v", took, bound)
	}
	if e := get(t, r.ended); e.Cause != CauseGateway {
		t.Errorf("ended with %+v", e)
	}
}

// A gateway that is killed leaves no plugin behind, and the next one clears its
// run directory away.
func TestKilledHostLeavesNothing(t *testing.T) {
	base := runDirBase(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "host", base)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid == 0 {
		t.Fatalf("pid %q: %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	until(t, "the plugin's end", func() bool { return !alive(pid) })
	d, err := newRunDir(base)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.remove(); err != nil {
		t.Fatal(err)
	}
}

// alive reports whether a process runs that is no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return state[0] != 'Z' && state[0] != 'X'
}

func TestMounts(t *testing.T) {
	t.Setenv("GATEWAY_CANARY", "a-secret-of-the-host")
	s := spec("serve")
	s.Options = []byte(`{"greeting": "hello", "delay": "250ms"}`)
	h := start(t, s, nil)
	mounts := h.Mounts()
	if len(mounts) != 1 || mounts[0].Prefix != "/test/" || mounts[0].Plugin != "test" {
		t.Fatalf("mounts %+v", mounts)
	}
	srv := httptest.NewServer(mounts[0].Handler)
	defer srv.Close()

	res := request(t, http.MethodGet, srv.URL+"/test/hello", nil)
	if res.code != http.StatusServiceUnavailable || res.header.Get("Retry-After") != "1" ||
		res.header.Get("Content-Type") != "application/problem+json" || !strings.Contains(res.body, `"status":503`) {
		t.Errorf("before the start: %+v", res)
	}
	get(t, h.Ready("test")) // the request asked for it

	until(t, "the handler", func() bool {
		return request(t, http.MethodGet, srv.URL+"/test/hello", nil).code == http.StatusOK
	})
	res = request(t, http.MethodGet, srv.URL+"/test/hello", http.Header{"Gateway-Client-Address": {"6.6.6.6:6"}})
	if f := strings.Fields(res.body); len(f) != 4 || f[0] != "hello" || f[1] != "250ms" ||
		!strings.HasPrefix(f[2], "127.0.0.1:") || f[3] != strings.TrimPrefix(srv.URL, "http://") {
		t.Errorf("%+v", res)
	}
	env := request(t, http.MethodGet, srv.URL+"/test/env", nil).body
	if strings.Contains(env, "canary") || strings.Contains(env, "a-secret-of-the-host") || !strings.Contains(env, "PATH=") {
		t.Errorf("the plugin's environment:\n%s", env)
	}
	if got := request(t, http.MethodGet, srv.URL+"/test/stdin", nil).body; got != "0 EOF" {
		t.Errorf("standard input: %s", got)
	}
}

type response struct {
	code   int
	header http.Header
	body   string
}

func request(t *testing.T, method, url string, header http.Header) response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{res.StatusCode, res.Header, string(b)}
}

// desk decides on offers by the stream's name.
type desk struct {
	offers   chan Offer
	recorder *recorder
	session  chan Session
}

func (d *desk) Offer(_ string, o Offer, accept func(uint64, SessionHandler) Session, reject func(Rejection)) {
	d.offers <- o
	if o.Name != "good" {
		reject(Rejection{Reason: wire.OfferRejected_CONFLICT, Message: "taken", RetryAfter: 3 * time.Second})
		return
	}
	go func() { d.session <- accept(7, d.recorder) }()
}

func (d *desk) Enquire(name string) (bool, string) { return name == "good", "no route" }

func TestOffers(t *testing.T) {
	f := func(end string, want End, tail string) {
		t.Run("end="+end, func(t *testing.T) {
			d := &desk{offers: make(chan Offer, 8), recorder: record(), session: make(chan Session, 1)}
			h := start(t, spec("serve"), d)
			h.Need("test", "")
			get(t, h.Ready("test"))
			srv := httptest.NewServer(h.Mounts()[0].Handler)
			defer srv.Close()
			until(t, "the handler", func() bool { return request(t, http.MethodGet, srv.URL+"/test/hello", nil).code == 200 })

			res := request(t, http.MethodPost, srv.URL+"/test/offer/bad", http.Header{"Authorization": {"Bearer t0ken"}})
			if res.code != http.StatusForbidden || res.body != "conflict taken 3s\n" {
				t.Errorf("%+v", res)
			}
			for name, want := range map[string]string{"good": "<nil>", "nosuch": "offer rejected: no route"} {
				if res := request(t, http.MethodGet, srv.URL+"/test/enquire/"+name, nil); res.body != want {
					t.Errorf("enquiry for %s: %+v", name, res)
				}
			}
			o := get(t, d.offers)
			if o.Name != "bad" || o.Credentials.Reveal() != "Bearer t0ken" || !strings.HasPrefix(o.Remote, "127.0.0.1:") || len(o.Codecs) != 1 {
				t.Errorf("offer %+v", o)
			}
			answer := make(chan response, 1)
			go func() { answer <- request(t, http.MethodPost, srv.URL+"/test/offer/good?end="+end, nil) }()
			s, r := get(t, d.session), d.recorder
			get(t, r.ready)
			until(t, "units", func() bool { return r.unitCount() == 4 })
			s.RequestKeyframe(1)
			s.SetTargetBitrate(500_000)
			s.SetTargetStates([]TargetState{{Name: "old"}})
			s.SetTargetStates([]TargetState{{Name: "cdn", State: wire.TargetStates_LIVE}, {Name: "two", State: wire.TargetStates_FAILED, Reason: "so"}, {Name: "new", State: 99}})
			if end == "asked" {
				s.Close("another publisher took over", false)
			}
			if e := get(t, r.ended); e != want {
				t.Errorf("ended with %+v, want %+v", e, want)
			}
			if res := get(t, answer); res.body != "keyframe 1\nbitrate 500000\n"+tail {
				t.Errorf("%+v", res)
			}
			checkPublished(t, r)
		})
	}
	f("clean", End{}, "")
	f("lost", End{Failed: true, Cause: CauseRemote, Message: "the publisher vanished"}, "")
	f("asked", End{}, "another publisher took over [{cdn live } {two failed so} {new connecting }] true\n")
}

func checkPublished(t *testing.T, r *recorder) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.tracks) != 1 || r.tracks[0][0].Width != 640 || r.tracks[0][0].DecoderConfig[0] != 1 {
		t.Errorf("tracks %+v", r.tracks)
	}
	one, two, three, big := r.units[0], r.units[1], r.units[2], r.units[3]
	if one.PTS != time.Second || !one.RandomAccess || one.Discontinuity || string(one.Payload) != "one" ||
		!one.Captured.Equal(time.Unix(1700000000, 5)) {
		t.Errorf("first unit %+v", one.Clone())
	}
	if age := time.Since(one.Received); age < 100*time.Millisecond || age > patience {
		t.Errorf("the first unit was received %v ago", age)
	}
	if two.Seq != 1 || !two.Disposable || two.Discontinuity {
		t.Errorf("second unit %+v", two.Clone())
	}
	if three.Seq != 3 || !three.Discontinuity { // one between went back in time
		t.Errorf("third unit %+v", three.Clone())
	}
	if len(big.Payload) != 6<<20 {
		t.Errorf("big unit of %d bytes", len(big.Payload))
	}
	if len(r.stats) != 1 || r.stats[0].Bytes != 42 || r.stats[0].UnitsLost != 1 {
		t.Errorf("stats %+v", r.stats)
	}
}

func TestPull(t *testing.T) {
	h := start(t, spec("serve"), nil)
	pull := func(url string) (Session, *recorder) {
		t.Helper()
		r := record()
		s, err := h.OpenPull("test", 1, "live", secret.New(url), r)
		if err != nil {
			t.Fatal(err)
		}
		return s, r
	}
	_, r := pull("pull://end")
	if e := get(t, r.ended); e.Failed || r.unitCount() != 10 {
		t.Errorf("ended with %+v after %d units", e, r.unitCount())
	}
	_, r = pull("pull://user:pa55word@host/path")
	if e := get(t, r.ended); !e.Failed || e.Message != "dial ***: refused" {
		t.Errorf("ended with %+v", e)
	}
	s, r := pull("pull://wait")
	get(t, r.ready)
	s.Close("the route is gone", false)
	if e := get(t, r.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	// The writer never blocks: what does not fit is left out up to a random access
	// point, counted, and marked.
	_, r = pull("pull://flood")
	get(t, r.ended)
	n, last, gap := 0, uint32(0), 0
	for _, u := range r.units {
		if n > 0 && u.Seq != last+1 {
			gap++
			if !u.Discontinuity || !u.RandomAccess {
				t.Errorf("unit %d follows a gap and is %+v", u.Seq, u.Clone())
			}
		}
		n, last = n+1, u.Seq
	}
	dropped := int(r.stats[len(r.stats)-1].UnitsDropped)
	t.Logf("%d units arrived, %d dropped, %d gaps", n, dropped, gap)
	if n+dropped != 4000 {
		t.Errorf("%d units arrived and %d were dropped of 4000", n, dropped)
	}
}

func TestTransform(t *testing.T) {
	h := start(t, spec("serve"), nil)
	in := media.Track{ID: 2, Codec: media.Opus, DecoderConfig: []byte{1}, SampleRateHz: 48000, Channels: 2}
	r, q := record(), &queue{}
	s, err := h.OpenTransform(TransformSpec{StreamID: 1, Stream: "live", In: in, To: media.AAC, Out: 77}, r, q)
	if err != nil {
		t.Fatal(err)
	}
	get(t, r.ready)
	received := time.Now().Add(-time.Second)
	for i, text := range []string{"a", "bad", "b"} {
		q.put(Item{Unit: &media.AccessUnit{Track: 2, DTS: time.Duration(i), RandomAccess: true, Received: received, Payload: []byte(text)}})
	}
	mono := in
	mono.Channels = 1
	q.put(Item{Tracks: []media.Track{mono}})
	s.Wake()
	until(t, "the change of the track", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.tracks) == 2 })
	until(t, "credit", func() bool { return r.creditedBytes() == 5 })
	s.Close("done", true)
	if e := get(t, r.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	if len(r.units) != 2 || string(r.units[0].Payload) != "aa" || r.units[0].Track != 77 ||
		string(r.units[1].Payload) != "bb" || time.Since(r.units[1].Received) < time.Second {
		t.Errorf("units %+v", r.units)
	}
	if tr := r.tracks[0][0]; tr.ID != 77 || tr.Codec != media.AAC || tr.DerivedFrom != 2 || tr.Channels != 2 || r.tracks[1][0].Channels != 1 {
		t.Errorf("tracks %+v", r.tracks)
	}

	r = record()
	if _, err := h.OpenTransform(TransformSpec{In: in, To: media.AAC, Out: 77, Channels: 9}, r, &queue{}); err != nil {
		t.Fatal(err)
	}
	if e := get(t, r.ended); !e.Failed || !strings.Contains(e.Message, "nine channels") {
		t.Errorf("ended with %+v", e)
	}
	if _, err := h.OpenTransform(TransformSpec{In: in, To: media.MP3}, record(), &queue{}); err == nil {
		t.Error("a transform that nobody declares was opened")
	}
}

func TestOptionsThatThePluginRefuses(t *testing.T) {
	s := spec("serve")
	s.Options = []byte(`{"greting": "hello"}`)
	h := start(t, s, nil)
	r := record()
	if _, err := h.OpenEgress("test", egressSpec("ok"), r, &queue{}); err != nil {
		t.Fatal(err)
	}
	if e := get(t, r.ended); e.Cause != CauseConfig || !e.Permanent || !strings.Contains(e.Message, `unknown field "greting"`) {
		t.Errorf("ended with %+v", e)
	}
}

// A plugin is asked what is wrong with options and targets; one that cannot answer
// finds nothing, and one that ends says why.
func TestValidate(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	r := &wire.ValidateRequest{OptionsJson: []byte(`{"delay": "soon"}`), Targets: []*wire.Target{{Url: "test://ok"}, {Url: "other://"}}}
	answer, err := Validate(t.Context(), spec("serve"), r, log)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, d := range answer.GetDiagnostics() {
		paths = append(paths, d.GetPath())
	}
	if fmt.Sprint(paths) != "[options.delay targets.1.url]" {
		t.Errorf("found %v", answer)
	}
	if answer, err := Validate(t.Context(), spec("future"), r, log); err != nil || len(answer.GetDiagnostics()) > 0 {
		t.Errorf("a plugin without an answer: %v, %v", answer, err)
	}
	if _, err := Validate(t.Context(), spec("exit"), r, log); err == nil || !strings.Contains(err.Error(), "plugin test: it ended before it said hello") {
		t.Errorf("a plugin that ends: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", t.TempDir())
	s := spec("serve")
	log := slog.New(slog.DiscardHandler)
	info, err := Describe(t.Context(), s, log)
	if err != nil {
		t.Fatal(err)
	}
	if info.GetName() != "test" || info.GetVersion() != "1.2.3" || info.GetSdkVersion() != sdk.Version ||
		len(info.GetTransforms()) != 1 || info.GetMounts()[0] != "/test/" || info.GetIngest().GetSchemes()[0] != "pull" {
		t.Errorf("description %v", info)
	}
	if !strings.Contains(string(info.GetOptionsSchema()), `"delay":{"type":"string","format":"duration"}`) {
		t.Errorf("schema %s", info.GetOptionsSchema())
	}

	b, err := os.ReadFile(s.Command[0])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	s.SHA256 = hex.EncodeToString(sum[:])
	if _, err := Describe(t.Context(), s, log); err != nil {
		t.Errorf("with the right checksum: %v", err)
	}
	want := strings.Repeat("0", 64)
	got := s.SHA256
	s.SHA256 = want
	_, err = Describe(t.Context(), s, log)
	var sumErr *ChecksumError
	if !errors.As(err, &sumErr) {
		t.Fatalf("with a wrong checksum: %v", err)
	}
	for _, part := range []string{"plugin test", s.Command[0], want, got} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %q", part, err)
		}
	}
}
