package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"github.com/headgate/gateway/internal/cores"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// BenchmarkBoundary is what the way through the processes costs: an ingest process
// makes streams of 80 units and 2 Mb a second, the core hands each unit on, egress
// processes take it and do nothing with it. It prints the CPU time of all processes
// per unit made, how long units are on their way, and how many arrive.
//
// Beside the socket of package wire ("wire") runs the same over gRPC with the codec of
// package wire ("grpc"), with protobuf's own ("protobuf"), with that over a connection as
// gRPC makes it by itself, which is what a plugin in another language has ("stock"), and
// without any boundary
// ("floor"). What is asked at 500 streams, in µs of CPU per unit and as a share of
// what "stock" takes in the same run (x-stock): egress=1 at most 20 and 0.6, egress=3
// 35 and 0.65, sessions=3 24; and of egress=1 half of the units in at most 1 ms.
func BenchmarkBoundary(b *testing.B) {
	for _, shape := range []boundaryShape{
		{name: "egress=1", processes: 1, sessions: 1},
		{name: "egress=3", processes: 3, sessions: 1},
		{name: "sessions=3", processes: 1, sessions: 3},
	} {
		for _, streams := range []int{1, 50, 500} {
			b.Run(fmt.Sprintf("%s/streams=%d", shape.name, streams), func(b *testing.B) {
				b.Run("floor", func(b *testing.B) { benchmarkFloor(b, shape, streams) })
				var stock float64
				for _, c := range []connection{stockConnection, protobufConnection, grpcConnection, wireConnection} {
					b.Run(string(c), func(b *testing.B) {
						for range b.N {
							cost := measureBoundary(b, shape, streams, c)
							if c == stockConnection {
								stock = cost
							} else if stock > 0 {
								b.ReportMetric(cost/stock, "x-stock")
							}
						}
						b.ReportMetric(0, "ns/op")
					})
				}
			})
		}
	}
}

const (
	boundaryWarmup = 2500 * time.Millisecond
	boundaryTime   = 5 * time.Second
)

// asInTheGateway lets the process run as the gateway's do until stop is called. A
// core that keeps groups of pictures has some megabytes that live; this one has next
// to nothing, and with Go's own setting would do little but collect garbage.
func asInTheGateway() (stop func()) {
	percent := debug.SetGCPercent(400)
	adapting := cores.Start()
	return func() {
		adapting()
		debug.SetGCPercent(percent)
	}
}

// A boundaryShape says where the units of one stream go.
type boundaryShape struct {
	name      string
	processes int // that each stream goes to
	sessions  int // in each of them
}

// benchmarkFloor measures without processes, in between calls alone.
func benchmarkFloor(b *testing.B, shape boundaryShape, streams int) {
	for range b.N {
		var made atomic.Uint64
		sinks := make([]loadSink, shape.processes*shape.sessions)
		load := newLoad()
		for range streams {
			load.add(func(u *media.AccessUnit) {
				made.Add(1)
				for i := range sinks {
					_ = sinks[i].WriteAccessUnit(context.Background(), u)
				}
			})
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); load.run(ctx) }()
		time.Sleep(boundaryWarmup) // caches fill, windows settle
		cpu, before := cpuTime(b, nil), made.Load()
		time.Sleep(boundaryTime) // what is measured
		b.ReportMetric(float64((cpuTime(b, nil)-cpu).Microseconds())/float64(made.Load()-before), "µs-CPU/unit")
		stop()
		<-done
	}
	b.ReportMetric(0, "ns/op")
}

// A connection is how the processes speak to each other.
type connection string

const (
	wireConnection     connection = "wire"
	grpcConnection     connection = "grpc"
	protobufConnection connection = "protobuf"
	stockConnection    connection = "stock"
)

// dialOptions are those of the gateway's end, beside those of package wire.
func (c connection) dialOptions() []grpc.DialOption {
	noSocket := grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, s grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
		cs, err := s(ctx, d, cc, method, o...)
		return knowsNoSocket{cs}, err
	})
	plain := grpc.WithDefaultCallOptions(grpc.ForceCodecV2(protobufCodec{encoding.GetCodecV2(proto.Name)}))
	switch c {
	case stockConnection:
		const bufferBytes = 32 << 10 // gRPC's own
		return []grpc.DialOption{
			plain, noSocket, grpc.WithReadBufferSize(bufferBytes), grpc.WithWriteBufferSize(bufferBytes),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
		}
	case protobufConnection:
		return []grpc.DialOption{plain, noSocket}
	case grpcConnection:
		return []grpc.DialOption{noSocket}
	default:
		return nil
	}
}

// knowsNoSocket is the Attach stream of a gateway that knows no other.
type knowsNoSocket struct{ grpc.ClientStream }

func (k knowsNoSocket) SendMsg(m any) error {
	if h, ok := m.(*wire.HostMsg); ok && h.GetHello() != nil {
		h.GetHello().Capabilities = nil
	}
	return k.ClientStream.SendMsg(m)
}

// serverOptions are those of the plugin's end.
func (c connection) serverOptions() []grpc.ServerOption {
	plain := []grpc.ServerOption{
		grpc.ForceServerCodecV2(protobufCodec{encoding.GetCodecV2(proto.Name)}),
		grpc.StreamInterceptor(func(s any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return h(s, hearsOfNoSocket{ss})
		}),
	}
	if c == stockConnection {
		return append(plain, grpc.MaxRecvMsgSize(2*wire.MaxMessageBytes))
	}
	return append(wire.ServerOptions(), plain...)
}

// hearsOfNoSocket is the Attach stream of a plugin that knows no other.
type hearsOfNoSocket struct{ grpc.ServerStream }

func (k hearsOfNoSocket) RecvMsg(m any) error {
	err := k.ServerStream.RecvMsg(m)
	if h, ok := m.(*wire.HostMsg); ok && h.GetHello() != nil {
		h.GetHello().Capabilities = nil
	}
	return err
}

// measureBoundary returns the CPU time per unit in µs.
func measureBoundary(b *testing.B, shape boundaryShape, streams int, c connection) float64 {
	defer asInTheGateway()()
	base, err := os.MkdirTemp("", "gw")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(base) }()
	s := spec(c.mode())
	s.Info = sdk.Describe(loadPlugin())
	var specs []Spec
	for i := range 1 + shape.processes {
		s.Name = fmt.Sprint("load", i) // the first one is the ingest
		specs = append(specs, s)
	}
	h := New(specs, nil, slog.New(slog.DiscardHandler), WithRunDir(base))
	h.dial = c.dialOptions()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	defer func() { stop(); <-done }()

	var made, credited atomic.Int64 // bytes
	var units atomic.Int64
	report := &loadReport{}
	for i := range streams {
		in := &relay{units: &units, bytes: &made}
		for p := range shape.processes {
			for range shape.sessions {
				out := &relayed{ready: make(chan struct{}), bytes: &credited}
				url := "load://quiet"
				if i == 0 {
					url, out.report = "load://report", report
				}
				sess, err := h.OpenEgress(specs[1+p].Name, EgressSpec{
					StreamID: uint64(i + 1), Stream: fmt.Sprint(i), Target: "t", Attempt: 1, URL: secret.New(url),
				}, out, out)
				if err != nil {
					b.Fatal(err)
				}
				select {
				case <-out.ready:
				case <-time.After(patience):
					b.Fatal("an egress session does not get ready")
				}
				out.session = sess
				in.to = append(in.to, out)
			}
		}
		if _, err := h.OpenPull(specs[0].Name, uint64(i+1), fmt.Sprint(i), secret.New("load://"), in); err != nil {
			b.Fatal(err)
		}
	}
	time.Sleep(boundaryWarmup) // caches fill, windows settle
	var pids []int
	for _, st := range h.Status() {
		pids = append(pids, st.PID)
	}
	report.next(b)
	late := report.next(b)
	cpu, n, in, out, began := cpuTime(b, pids), units.Load(), made.Load(), credited.Load(), time.Now()
	time.Sleep(boundaryTime) // what is measured
	used, took := cpuTime(b, pids)-cpu, time.Since(began)
	n, in, out = units.Load()-n, made.Load()-in, credited.Load()-out
	lateAfter := report.next(b)
	for i := range lateAfter {
		lateAfter[i] -= late[i]
	}
	cost := float64(used.Nanoseconds()) / 1000 / float64(n)
	b.ReportMetric(cost, "µs-CPU/unit")
	b.ReportMetric(lateAfter.quantile(0.5)/1000, "ms-p50")
	b.ReportMetric(lateAfter.quantile(0.99)/1000, "ms-p99")
	b.ReportMetric(100*float64(n)/(loadUnitsPerSecond*float64(streams)*took.Seconds()), "%made")
	b.ReportMetric(100*float64(out)/float64(in)/float64(shape.processes*shape.sessions), "%arrived")
	return cost
}

// Either end may speak protobuf without the codec of package wire: plugins in other
// languages do.
func TestEitherEndMaySpeakPlainProtobuf(t *testing.T) {
	f := func(name string, plugin connection, dial ...grpc.DialOption) {
		t.Run(name, func(t *testing.T) {
			s := spec(plugin.mode())
			s.Info = sdk.Describe(loadPlugin())
			h := start(t, s, nil, func(h *Host) { h.dial = dial })
			var in, out atomic.Int64
			to := &relayed{ready: make(chan struct{}), bytes: &out}
			sess, err := h.OpenEgress("test", EgressSpec{StreamID: 1, Stream: "live", URL: secret.New("load://quiet"), Attempt: 1}, to, to)
			if err != nil {
				t.Fatal(err)
			}
			get(t, to.ready)
			to.session = sess
			from := &relay{to: []*relayed{to}, units: &atomic.Int64{}, bytes: &in}
			pull, err := h.OpenPull("test", 1, "live", secret.New("load://"), from)
			if err != nil {
				t.Fatal(err)
			}
			until(t, "a hundred units there and back", func() bool { return from.units.Load() >= 100 && out.Load() > 200_000 })
			pull.Close("enough", false)
			until(t, "all of them", func() bool { return from.units.Load() >= 100 && out.Load() == in.Load() })
			sess.Close("enough", true)
		})
	}
	f("plugin", protobufConnection)
	f("plugin of another language", stockConnection)
	f("gateway", wireConnection, stockConnection.dialOptions()...)
	f("neither, over gRPC", wireConnection, grpcConnection.dialOptions()...)
	f("both", stockConnection, stockConnection.dialOptions()...)
}

// A unit for several sessions of a process crosses once, though they are woken one
// after the other, and their sinks share what they derive from it.
func TestUnitCrossesOnceForAllSessions(t *testing.T) {
	h := start(t, spec("serve"), nil)
	const targets, count = 5, 400
	var sessions []Session
	var recorders []*recorder
	var queues []*queue
	for range targets {
		r, q := record(), &queue{}
		s, err := h.OpenEgress("test", egressSpec("ok"), r, q)
		if err != nil {
			t.Fatal(err)
		}
		get(t, r.ready)
		sessions, recorders, queues = append(sessions, s), append(recorders, r), append(queues, q)
	}
	for i, it := range units(count, 3000) {
		for _, q := range queues {
			q.put(it)
		}
		for _, s := range sessions {
			s.Wake()
			if i%3 == 0 {
				time.Sleep(20 * time.Microsecond) // the sender runs in between
			}
		}
		if i%20 == 19 {
			until(t, "the credit", func() bool {
				for _, r := range recorders {
					if r.creditedBytes() != (i+1)*3000 {
						return false
					}
				}
				return true
			})
		}
	}
	var derived float64
	for _, r := range recorders {
		until(t, "the figures of all units", func() bool { return r.value("units") == count })
		derived += r.value("derived")
	}
	// Each time that a payload crosses makes one unit over there, and each of those
	// derives once. Without its group each of those that are woken apart crosses five
	// times; one that the sender takes while it is put into the queues crosses twice.
	if derived > count*1.5 {
		t.Errorf("%d units crossed %v times for %d sessions", count, derived, targets)
	}
}

// cpuTime returns what this process and those of pids have used so far.
func cpuTime(b *testing.B, pids []int) time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	sum := time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		for _, f := range strings.Fields(rest)[11:13] { // user and system, in hundredths of a second
			n, err := strconv.Atoi(f)
			if err != nil {
				b.Fatal(err)
			}
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}

// relay is the core between an ingest session and the egress sessions of its stream.
type relay struct {
	to           []*relayed
	units, bytes *atomic.Int64
}

func (r *relay) Unit(u *media.AccessUnit) {
	r.units.Add(1)
	r.bytes.Add(int64(len(u.Payload)))
	for _, s := range r.to {
		s.put(Item{Unit: u})
	}
	for _, s := range r.to {
		s.session.Wake()
	}
}

func (r *relay) Ready(Accepts)          {}
func (r *relay) Tracks([]media.Track)   {}
func (r *relay) Credited(int)           {}
func (r *relay) Keyframe(media.TrackID) {}
func (r *relay) Stats(Stats)            {}
func (r *relay) Ended(End)              {}

// relayed is the core's end of one egress session.
type relayed struct {
	queue
	session Session
	ready   chan struct{}
	bytes   *atomic.Int64
	report  *loadReport // nil: not this one
}

func (r *relayed) Ready(Accepts)          { close(r.ready) }
func (r *relayed) Credited(n int)         { r.bytes.Add(int64(n)) }
func (r *relayed) Tracks([]media.Track)   {}
func (r *relayed) Unit(*media.AccessUnit) {}
func (r *relayed) Keyframe(media.TrackID) {}
func (r *relayed) Ended(End)              {}
func (r *relayed) Stats(s Stats) {
	if r.report == nil {
		return
	}
	var l lateness
	for name, v := range s.Values {
		if i, err := strconv.Atoi(name); err == nil {
			l[i] = v
		}
	}
	r.report.mu.Lock()
	defer r.report.mu.Unlock()
	r.report.latest, r.report.count = l, r.report.count+1
}

// A lateness counts units by how long they were on their way: bucket i ends at
// 2^(i/4) µs.
type lateness [100]float64

func (l *lateness) quantile(q float64) float64 {
	var all, sum float64
	for _, n := range l {
		all += n
	}
	for i, n := range l {
		if sum += n; sum >= q*all {
			return math.Exp2(float64(i) / 4)
		}
	}
	return 0
}

// loadReport is the newest lateness that a process has told of.
type loadReport struct {
	mu     sync.Mutex // guards the fields below
	latest lateness
	count  int
}

// next waits for a new one.
func (r *loadReport) next(b *testing.B) lateness {
	r.mu.Lock()
	seen := r.count
	r.mu.Unlock()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		r.mu.Lock()
		l, n := r.latest, r.count
		r.mu.Unlock()
		if n > seen {
			return l
		}
		if time.Now().After(deadline) {
			b.Fatal("no report")
		}
	}
}

// The plugin that makes the load, and takes it.

// mode is that of the plugin process, which leaves it to the gateway whether there is a
// socket.
func (c connection) mode() string {
	if c == grpcConnection {
		c = wireConnection
	}
	return "load-" + string(c)
}

func serveLoad(c connection) {
	defer cores.Start()()
	if c == wireConnection {
		sdk.Serve(loadPlugin())
		return
	}
	debug.SetGCPercent(400) // as the SDK does
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  wire.Handshake(),
		VersionedPlugins: map[int]goplugin.PluginSet{1: {wire.PluginName: loadService{}}},
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, c.serverOptions()...)...)
		},
	})
}

type loadService struct {
	goplugin.NetRPCUnsupportedPlugin
	goplugin.GRPCPlugin
}

func (loadService) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	sdk.Register(s, loadPlugin())
	return nil
}

func loadPlugin() sdk.Plugin {
	p := loadEnds{load: newLoad(), late: &lateCounter{}}
	return sdk.Plugin{
		Name: "load", Version: "1",
		Egress: &sdk.EgressPlugin{Egress: p, Schemes: []string{"load"}, Accepts: sdk.Accepts{Codecs: []media.Codec{media.H264}, VideoTracks: 1}},
		Ingest: &sdk.IngestPlugin{Ingest: p, Codecs: []media.Codec{media.H264}, Schemes: []string{"load"}},
	}
}

type loadEnds struct {
	load *load
	late *lateCounter
}

func (p loadEnds) Serve(ctx context.Context, _ *sdk.IngestHost) error {
	p.load.run(ctx)
	return ctx.Err()
}

func (p loadEnds) Pull(ctx context.Context, _ secret.String, pub *sdk.Publication) error {
	pub.SetTracks([]media.Track{{ID: 1, Codec: media.H264}, {ID: 2, Codec: media.Opus}})
	p.load.add(pub.WriteAccessUnit)
	<-ctx.Done()
	return ctx.Err()
}

func (p loadEnds) Open(_ context.Context, t sdk.Target, _ []media.Track) (sdk.Sink, error) {
	s := &loadSink{late: p.late}
	if t.URL.Reveal() == "load://report" {
		return reportingSink{s}, nil
	}
	return s, nil
}

// lateCounter is a lateness of a whole process.
type lateCounter [len(lateness{})]atomic.Uint64

func (c *lateCounter) count(d time.Duration) {
	us := max(1, d.Microseconds())
	c[min(len(c)-1, int(math.Ceil(4*math.Log2(float64(us)))))].Add(1)
}

// loadSink looks at every unit and forgets it.
type loadSink struct {
	late *lateCounter // nil: not counted
	sum  uint64
}

func (s *loadSink) WriteAccessUnit(_ context.Context, u *media.AccessUnit) error {
	s.sum += uint64(u.Payload[0]) + uint64(u.Payload[len(u.Payload)-1])
	if s.late != nil {
		s.late.count(time.Since(u.Captured))
	}
	return nil
}

func (s *loadSink) Close(context.Context) error { return nil }

type reportingSink struct{ *loadSink }

func (s reportingSink) Stats() sdk.SinkStats {
	st := sdk.SinkStats{Values: map[string]float64{}}
	for i := range s.late {
		if n := s.late[i].Load(); n > 0 {
			st.Values[strconv.Itoa(i)] = float64(n)
		}
	}
	return st
}

// A load makes units for any number of streams, on one goroutine, when they are due:
// per stream and second 30 pictures, of which one in two seconds is a keyframe, and
// 50 frames of sound.
type load struct {
	made []byte // what payloads are cut from: they lie there as from an encoder
	used int    // of it

	mu      sync.Mutex // guards the fields below
	streams []*loadStream
}

type loadStream struct {
	write  func(*media.AccessUnit)
	begins time.Duration
	tracks [2]struct{ next uint64 }
}

const (
	loadVideoHz        = 30
	loadAudioHz        = 50
	loadUnitsPerSecond = loadVideoHz + loadAudioHz
	loadTick           = 250 * time.Microsecond
	loadBytes          = 16 << 20 // more than a processor caches
)

func newLoad() *load { return &load{} }

func (l *load) add(write func(*media.AccessUnit)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Streams are spread evenly over two seconds, by the golden ratio.
	_, phase := math.Modf(float64(len(l.streams)) * math.Phi)
	l.streams = append(l.streams, &loadStream{write: write, begins: time.Duration(phase * float64(2*time.Second))})
}

// due is a unit to be made.
type due struct {
	at     time.Duration
	stream *loadStream
	video  bool
}

func (l *load) run(ctx context.Context) {
	for {
		l.mu.Lock()
		streams := slices.Clone(l.streams)
		l.mu.Unlock()
		if !l.cycle(ctx, streams) {
			return
		}
	}
}

// cycle makes two seconds of all streams that there are. Streams that come
// meanwhile wait for the next cycle.
func (l *load) cycle(ctx context.Context, streams []*loadStream) bool {
	const length = 2 * time.Second
	plan := make([]due, 0, len(streams)*2*loadUnitsPerSecond)
	for _, s := range streams {
		for i := range 2 * loadVideoHz {
			plan = append(plan, due{(s.begins + time.Duration(i)*time.Second/loadVideoHz) % length, s, true})
		}
		for i := range 2 * loadAudioHz {
			plan = append(plan, due{(s.begins + time.Duration(i)*time.Second/loadAudioHz) % length, s, false})
		}
	}
	slices.SortStableFunc(plan, func(a, b due) int { return int(a.at - b.at) })
	began := time.Now()
	for _, d := range plan {
		for wait := d.at - time.Since(began); wait > 0; wait = d.at - time.Since(began) {
			if ctx.Err() != nil {
				return false
			}
			time.Sleep(max(wait, loadTick))
		}
		l.make(d)
	}
	for rest := length - time.Since(began); rest > 0 && ctx.Err() == nil; rest = length - time.Since(began) {
		time.Sleep(min(rest, 50*time.Millisecond))
	}
	return ctx.Err() == nil
}

func (l *load) make(d due) {
	now := time.Now()
	u := &media.AccessUnit{Received: now, Captured: now}
	var size int
	if d.video {
		n := d.stream.tracks[0].next
		d.stream.tracks[0].next++
		u.Track, u.DTS = 1, time.Duration(n)*time.Second/loadVideoHz
		u.RandomAccess = n%(2*loadVideoHz) == 0
		size = 5500 + int(n*977%2700)
		if u.RandomAccess {
			size = 60_000 + int(n*977%40_000)
		}
	} else {
		n := d.stream.tracks[1].next
		d.stream.tracks[1].next++
		u.Track, u.DTS, u.RandomAccess = 2, time.Duration(n)*time.Second/loadAudioHz, true
		size = 160 + int(n*37%180)
	}
	u.PTS = u.DTS
	if l.made == nil {
		l.made = make([]byte, loadBytes)
		for i := range l.made {
			l.made[i] = byte(i * 31)
		}
	}
	if l.used+size > len(l.made) {
		l.used = 0
	}
	u.Payload = l.made[l.used : l.used+size : l.used+size]
	l.used += size
	d.stream.write(u)
}

// protobufCodec does with protobuf's own codec what that of package wire does without.
type protobufCodec struct{ encoding.CodecV2 }

func protobufUnits(u wire.Units) *wire.AccessUnits {
	m := &wire.AccessUnits{}
	for _, s := range u.Steps {
		m.Units = append(m.Units, wire.FromUnit(s.Unit, s.Sessions, s.Discontinuity, u.Now))
	}
	return m
}

func (c protobufCodec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *wire.HostUnits:
		v = &wire.HostMsg{M: &wire.HostMsg_Media{Media: protobufUnits(m.Units)}}
	case *wire.PluginUnits:
		v = &wire.PluginMsg{M: &wire.PluginMsg_Media{Media: protobufUnits(m.Units)}}
	case *wire.HostInbound, *wire.PluginInbound:
		return nil, errors.New("an inbound message is not sent")
	}
	return c.CodecV2.Marshal(v)
}

func (c protobufCodec) Unmarshal(data mem.BufferSlice, v any) error {
	take := func(units []wire.InUnit, m *wire.AccessUnits, maxAge time.Duration) []wire.InUnit {
		now := time.Now()
		for _, u := range m.GetUnits() {
			units = append(units, wire.InUnit{Sessions: u.GetSessions(), Unit: wire.ToUnit(u, now, maxAge)})
		}
		return units
	}
	switch in := v.(type) {
	case *wire.HostInbound:
		in.Msg = &wire.HostMsg{}
		err := c.CodecV2.Unmarshal(data, in.Msg)
		in.Units = take(in.Units[:0], in.Msg.GetMedia(), in.MaxAge)
		if in.Msg.GetMedia() != nil {
			in.Msg = nil
		}
		return err
	case *wire.PluginInbound:
		in.Msg = &wire.PluginMsg{}
		err := c.CodecV2.Unmarshal(data, in.Msg)
		in.Units = take(in.Units[:0], in.Msg.GetMedia(), in.MaxAge)
		if in.Msg.GetMedia() != nil {
			in.Msg = nil
		}
		return err
	default:
		return c.CodecV2.Unmarshal(data, v)
	}
}
