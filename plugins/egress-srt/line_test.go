package egresssrt

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/mpegts"
	"github.com/headgate/gateway/internal/srt"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/test/faultlab"
	"github.com/headgate/gateway/test/peers"
	"github.com/headgate/gateway/test/testcard"
)

// testMedia is tracks and their units by decoding time.
type testMedia struct {
	tracks []media.Track
	units  []*media.AccessUnit
}

func load(t testing.TB) testMedia {
	t.Helper()
	tracks, units := testcard.AAC(t)
	return testMedia{tracks, units}
}

// first returns the units before d.
func (m testMedia) first(d time.Duration) []*media.AccessUnit {
	n := slices.IndexFunc(m.units, func(u *media.AccessUnit) bool { return u.DTS >= d })
	return m.units[:n]
}

func target(url string) sdk.Target {
	return sdk.Target{Name: "target", Stream: "stream", URL: secret.New(url), Attempt: 1}
}

func open(t testing.TB, url string, opts Options, tracks []media.Track) sdk.Sink {
	t.Helper()
	s, err := try(t.Context(), url, opts, tracks)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	return s
}

func try(ctx context.Context, url string, opts Options, tracks []media.Track) (sdk.Sink, error) {
	at, err := opts.address(secret.New(url), secret.String{})
	if err != nil {
		return nil, configError(err)
	}
	if at.Mode == srt.Listener {
		return openListener(target(url), at, opts, tracks)
	}
	return openCaller(ctx, target(url), at, opts, tracks)
}

// patience is the latency of peers that a busy machine may hold up for a while: at the
// default of 120 ms they give up what comes later. patient asks for it.
const (
	patience = 2500 * time.Millisecond
	patient  = "latency=2500"
)

// play writes the units in real time and closes the sink.
func play(t testing.TB, s sdk.Sink, units []*media.AccessUnit) {
	t.Helper()
	start := time.Now()
	for _, u := range units {
		time.Sleep(time.Until(start.Add(u.DTS - units[0].DTS))) // real time: the line has its own clock
		if err := s.WriteAccessUnit(t.Context(), u); err != nil {
			t.Fatalf("writing at %v: %v", u.DTS, err)
		}
	}
	closeSink(t, s)
}

func closeSink(t testing.TB, s sdk.Sink) {
	t.Helper()
	if err := s.Close(context.Background()); err != nil {
		t.Errorf("closing: %v", err)
	}
}

// A capture is what an SRT listener of this process received.
type capture struct {
	addr string
	done chan struct{}

	mu      sync.Mutex // guards the field below
	packets []byte
}

// receive runs a listener that keeps what the first caller sends.
func receive(t testing.TB, passphrase string) *capture {
	t.Helper()
	s, err := srt.Listen(srt.Address{Mode: srt.Listener, HostPort: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	c := &capture{addr: s.Addr(), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	var once sync.Once
	go func() {
		ended <- s.Run(ctx, func(call srt.Call) {
			if call.Verify(secret.New(passphrase)) != nil {
				return
			}
			conn, err := call.Accept()
			if err != nil {
				return
			}
			c.read(conn)
			once.Do(func() { close(c.done) })
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *capture) read(conn *srt.Conn) {
	b := make([]byte, 1500)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		c.mu.Lock()
		c.packets = append(c.packets, b[:n]...)
		c.mu.Unlock()
	}
}

// all returns what came, once the connection is over.
func (c *capture) all(t testing.TB) []byte {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(40 * time.Second):
		t.Fatal("the connection does not end")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.packets
}

// clocks returns the samples of the program clock, and in which packet they are.
func clocks(ts []byte) (at []time.Duration, packet []int) {
	for n := 0; len(ts) > 0; n, ts = n+1, ts[mpegts.PacketBytes:] {
		if ts[3]&0x20 == 0 || ts[4] < 7 || ts[5]&0x10 == 0 {
			continue
		}
		base := int64(ts[6])<<25 | int64(ts[7])<<17 | int64(ts[8])<<9 | int64(ts[9])<<1 | int64(ts[10])>>7
		ext := int64(ts[10]&1)<<8 | int64(ts[11])
		at = append(at, time.Duration((base*300+ext)*1000/27))
		packet = append(packet, n)
	}
	return at, packet
}

// A recorder is a line that keeps what it is sent, and when.
type recorder struct {
	packets  []byte
	arrivals []time.Duration // of each packet
	sizes    []int           // of datagrams
	begin    time.Time
	fullFor  time.Duration // how long it has no room, from the beginning
}

// Write implements line.
func (r *recorder) Write(b []byte) error {
	if time.Since(r.begin) < r.fullFor {
		return srt.ErrFull
	}
	r.packets = append(r.packets, b...)
	r.sizes = append(r.sizes, len(b))
	for range len(b) / mpegts.PacketBytes {
		r.arrivals = append(r.arrivals, time.Since(r.begin))
	}
	return nil
}

// Stats implements line: everything is acknowledged at once.
func (*recorder) Stats() srt.Stats { return srt.Stats{} }

// Done implements line.
func (*recorder) Done() <-chan struct{} { return nil }

// sent are units sent when they are due, and what follows in a second more, on a
// synthetic clock.
func sent(t *testing.T, tracks []media.Track, units []*media.AccessUnit, rate int) *recorder {
	t.Helper()
	r := &recorder{}
	synctest.Test(t, func(t *testing.T) {
		r.begin = time.Now()
		p, err := newPlayer(r, tracks, rate, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { p.run(ctx) })
		for _, u := range units {
			time.Sleep(time.Until(r.begin.Add(u.DTS - units[0].DTS)))
			if err := p.write(ctx, u, u.Track == tracks[0].ID, false); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Second)
		cancel()
		running.Wait()
	})
	return r
}

// TestFullQueue: while the library has no room nothing is lost, and nobody waits for the
// player: its figures can be asked for.
func TestFullQueue(t *testing.T) {
	m := load(t)
	r := &recorder{fullFor: 3 * time.Second}
	synctest.Test(t, func(t *testing.T) {
		r.begin = time.Now()
		p, err := newPlayer(r, m.tracks, 0, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { p.run(ctx) })
		units := m.first(500 * time.Millisecond)
		for _, u := range units {
			if err := p.write(ctx, u, u.Track == m.tracks[0].ID, false); err != nil {
				t.Error(err)
			}
			before := time.Now()
			p.sinkStats()
			if d := time.Since(before); d > 0 {
				t.Errorf("its figures come after %v", d)
			}
		}
		time.Sleep(10 * time.Second)
		cancel()
		running.Wait()
		if p.full == 0 || p.bytes != uint64(len(r.packets)) {
			t.Errorf("full %d times; %d bytes of %d", p.full, len(r.packets), p.bytes)
		}
		lost := 0
		n := 0
		d := mpegts.Demuxer{OnPES: func(p mpegts.PES) {
			n++
			if p.Lost {
				lost++
			}
		}}
		d.Write(r.packets)
		d.Flush()
		if n != len(units) || lost > 0 {
			t.Errorf("%d of %d units came, something is missing before %d", n, len(units), lost)
		}
	})
}

// TestClockSamples: no more than 100 ms between two of them, whatever the frame
// rate, as far apart as they say, and before every unit by no more than its lead.
func TestClockSamples(t *testing.T) {
	for _, every := range []time.Duration{20 * time.Millisecond, 40 * time.Millisecond, 200 * time.Millisecond, time.Second} {
		m := load(t)
		var units []*media.AccessUnit
		for i := range int(3*time.Second/every) + 1 {
			u := m.units[0].Clone()
			u.DTS = time.Duration(i) * every
			u.PTS = u.DTS
			units = append(units, u)
		}
		r := sent(t, m.tracks[:1], units, 0)
		at, packet := clocks(r.packets)
		if len(at) < 30 {
			t.Fatalf("%d samples in 4 s", len(at))
		}
		for i := 1; i < len(at); i++ {
			step, passed := at[i]-at[i-1], r.arrivals[packet[i]]-r.arrivals[packet[i-1]]
			if step <= 0 || step > 100*time.Millisecond || (step-passed).Abs() > time.Millisecond {
				t.Errorf("a picture each %v: sample %d is %v after the one before, and came %v after it", every, i, step, passed)
			}
		}
		// Each unit is due by no more than the lead after the clock that came before it.
		n := 0
		d := mpegts.Demuxer{OnPES: func(p mpegts.PES) {
			due := time.Duration(p.DTS) * time.Second / mpegts.TimestampHz
			now := at[0] + time.Duration(n)*every
			if ahead := due - now; ahead < 0 || ahead > lead+every+10*time.Millisecond {
				t.Errorf("a picture each %v: picture %d is due %v after its clock", every, n, ahead)
			}
			n++
		}}
		d.Write(r.packets)
		d.Flush()
		if n != len(units) {
			t.Errorf("a picture each %v: %d of %d came", every, n, len(units))
		}
	}
}

// TestConstantRate: the rate is kept to the packet, and each sample of the clock is
// where it says.
func TestConstantRate(t *testing.T) {
	m := load(t)
	const rate = 3_000_000
	r := sent(t, m.tracks, m.first(3*time.Second), rate)
	at, packet := clocks(r.packets)
	if len(at) < 50 {
		t.Fatalf("%d samples", len(at))
	}
	nulls := 0
	for b := r.packets; len(b) > 0; b = b[mpegts.PacketBytes:] {
		if mpegts.PID(b) == 0x1fff {
			nulls++
		}
	}
	took := r.arrivals[len(r.arrivals)-1]
	if got := float64(len(r.packets)*8) / took.Seconds(); got < rate*0.99 || got > rate*1.01 || nulls == 0 {
		t.Errorf("%.0f b/s, want %d; %d null packets", got, rate, nulls)
	}
	for i := 1; i < len(at); i++ {
		step := at[i] - at[i-1]
		want := time.Duration(float64((packet[i]-packet[i-1])*mpegts.PacketBytes*8) / rate * 1e9)
		// ISO/IEC 13818-1 allows 500 ns.
		if (step-want).Abs() > 500*time.Nanosecond || step > 100*time.Millisecond {
			t.Errorf("sample %d: %v after the one before, by its place %v", i, step, want)
		}
	}
	for _, n := range r.sizes {
		if n != srt.PayloadBytes {
			t.Errorf("a datagram of %d bytes", n)
		}
	}
}

// TestRateTooLow: what the stream has more than muxrate is told, once; a rate that is
// enough says nothing.
func TestRateTooLow(t *testing.T) {
	m := load(t)
	f := func(rate, want int) {
		t.Helper()
		var told bytes.Buffer
		synctest.Test(t, func(t *testing.T) {
			r := &recorder{begin: time.Now()}
			p, err := newPlayer(r, m.tracks, rate, slog.New(slog.NewTextHandler(&told, nil)))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { p.run(ctx) })
			for _, u := range m.first(9 * time.Second) {
				time.Sleep(time.Until(r.begin.Add(u.DTS)))
				if err := p.write(ctx, u, u.Track == m.tracks[0].ID, false); err != nil {
					t.Error(err)
				}
			}
			cancel()
			running.Wait()
		})
		if n := strings.Count(told.String(), "more than muxrate"); n != want {
			t.Errorf("at %d b/s it is told %d times, want %d: %s", rate, n, want, told.String())
		}
	}
	f(100_000, 1)
	f(300_000, 1)
	f(920_000, 0)
}

// TestLargeKeyframe: a picture of 300 KB at once passes whole, without an overflow
// of the library's queue.
func TestLargeKeyframe(t *testing.T) {
	m := load(t)
	c := receive(t, "")
	s := open(t, "srt://"+c.addr+"?"+patient, Options{}, m.tracks[:1])
	large := m.units[0].Clone()
	large.Payload = slices.Concat([]byte{0, 4, 0x93, 0xe0}, slices.Repeat([]byte{0x65, 0x88, 0x84, 0x21}, 75_000))
	var units []*media.AccessUnit
	for i := range 10 {
		u := large.Clone()
		u.DTS = time.Duration(i) * 200 * time.Millisecond
		u.PTS = u.DTS
		units = append(units, u)
	}
	start := time.Now()
	for _, u := range units {
		time.Sleep(time.Until(start.Add(u.DTS))) // real time: the line has its own clock
		if err := s.WriteAccessUnit(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	st := s.(*caller).Stats()
	closeSink(t, s)
	if n := len(c.all(t)); n < 10*300_000 {
		t.Errorf("%d bytes came, want all of 3 MB", n)
	}
	if st.Values["srt_send_queue_full"] != 0 {
		t.Errorf("the queue was full: %v", st.Values)
	}
}

// TestRefusals: what is told, whose fault it is and in which lane it is tried again.
func TestRefusals(t *testing.T) {
	check := func(err error, class string, cause sdk.Cause, permanent bool, want string) {
		t.Helper()
		var e *sdk.Error
		if !errors.As(err, &e) || e.Class != class || e.Cause != cause || sdk.IsPermanent(err) != permanent || !strings.Contains(err.Error(), want) {
			t.Errorf("%#v permanent %v: %v; want class %q, cause %s, %q", e, sdk.IsPermanent(err), err, class, cause, want)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	m := load(t)
	enc := receive(t, "SECRETSECRET")
	_, err := try(t.Context(), "srt://"+enc.addr+"?passphrase=SECRETOTHER1", Options{}, m.tracks)
	check(err, "auth", sdk.CauseConfig, true, "passphrase")
	_, err = try(t.Context(), "srt://"+enc.addr, Options{}, m.tracks)
	check(err, "auth", sdk.CauseConfig, true, "passphrase")

	// Nobody there; somebody who says nothing.
	_, err = bounded(t, "srt://"+peers.FreeAddr(t), 20*time.Second)
	check(err, "refused", sdk.CauseRemote, false, "nobody listens")
	mute, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mute.Close() }()
	_, err = bounded(t, "srt://"+mute.LocalAddr().String(), 700*time.Millisecond)
	check(err, "timeout", sdk.CauseRemote, false, "no answer in time")
	_, err = try(t.Context(), "srt://"+mute.LocalAddr().String()+"?mode=listener", Options{}, m.tracks)
	check(err, "in_use", sdk.CauseConfig, false, "in use")
	_, err = try(t.Context(), "srt://192.0.2.7:9000?mode=listener", Options{}, m.tracks) // a documentation address
	check(err, "address", sdk.CauseConfig, false, "no such address")
	check(explain(&net.DNSError{Err: "no such host", Name: "cdn.example"}), "dns", sdk.CauseRemote, false, "no such host")

	for url, want := range map[string]string{
		"srt://host":                                           "no port",
		"srt://host:1000?passphrase=SECRET":                    "10 to 79",
		"srt://host:1000?pbkeylen=20":                          "pbkeylen",
		"srt://host:1000?latency=SECRET":                       "milliseconds",
		"srt://host:1000/SECRET":                               "streamid",
		"srt://user:SECRET@host:1000":                          "user",
		"srt://host:1000?SECRETsomething=1":                    "unknown parameter",
		"srt://host:1000?transtype=file":                       "live",
		"srt://host:1000?mode=rendezvous":                      "caller or listener",
		"srt://:1000?mode=caller":                              "no host",
		"srt://host:1000?latency=90000":                        "at most",
		"srt://host:1000?streamid=a&streamid=b":                "more than once",
		"srt://%zzSECRET":                                      "not a URL",
		"srt://host:1000?streamid=" + strings.Repeat("x", 600): "512",
	} {
		_, err := try(t.Context(), url, Options{}, m.tracks)
		check(err, "", sdk.CauseConfig, true, want)
	}
	if _, err := (Options{StreamID: secret.New("a")}).address(secret.New("srt://host:1?streamid=b"), secret.String{}); err == nil {
		t.Error("two stream ids are no error")
	}
	vp8 := []media.Track{{ID: 1, Codec: media.VP8}}
	if _, err := (egress{}).Open(t.Context(), target("srt://"+enc.addr), vp8); !sdk.IsPermanent(err) || !strings.Contains(err.Error(), "vp8") {
		t.Errorf("%v", err)
	}
}

func bounded(t *testing.T, url string, limit time.Duration) (sdk.Sink, error) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	s, err := try(ctx, url, Options{}, nil)
	return s, err
}

// TestHalfOpenPeer: a peer that is not heard any more ends the session by itself.
func TestHalfOpenPeer(t *testing.T) {
	c := receive(t, "")
	p, err := faultlab.NewUDP(c.addr, faultlab.Impairment{}, faultlab.Impairment{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	m := load(t)
	s := open(t, "srt://"+p.Addr().String(), Options{}, m.tracks).(*caller)
	p.Set(faultlab.Impairment{Loss: 1}, faultlab.Impairment{Loss: 1})
	select {
	case <-s.Failed():
	case <-time.After(20 * time.Second):
		t.Fatal("it is still open")
	}
	if err := s.Err(); err == nil || sdk.IsPermanent(err) {
		t.Errorf("%v", err)
	}
	if err := s.WriteAccessUnit(t.Context(), m.units[0]); err == nil {
		_ = s.WriteAccessUnit(t.Context(), m.units[1])
	}
	closeSink(t, s)
}

// TestPlayers: who comes begins with the last group of pictures; one that reads
// nothing hurts no other; who leaves is not missed.
func TestPlayers(t *testing.T) {
	m := load(t)
	s := open(t, "srt://127.0.0.1:0?mode=listener&streamid=live&"+patient, Options{}, m.tracks).(*listener)
	addr := s.server.Addr()
	if st := s.Stats(); st.Values["srt_players"] != 0 {
		t.Errorf("%v", st.Values)
	}
	stop := make(chan struct{})
	var feeding sync.WaitGroup
	feeding.Go(func() {
		start := time.Now()
		for n := 0; ; n++ {
			u := m.units[n%len(m.units)].Clone()
			shift := time.Duration(n/len(m.units)) * clip.Duration
			u.DTS, u.PTS = u.DTS+shift, u.PTS+shift
			select {
			case <-stop:
				return
			case <-time.After(time.Until(start.Add(u.DTS))):
			}
			if err := s.WriteAccessUnit(t.Context(), u); err != nil {
				t.Error(err)
				return
			}
		}
	})
	call := func(addr, id string) (*srt.Conn, error) {
		return srt.Dial(t.Context(), srt.Address{Mode: srt.Caller, HostPort: addr, StreamID: secret.New(id)}, nil)
	}
	if _, err := call(addr, "other"); err == nil || !strings.Contains(err.Error(), "no such stream") {
		t.Errorf("another stream id: %v", err)
	}
	deaf, err := faultlab.NewUDP(addr, faultlab.Impairment{Drop: isACK}, faultlab.Impairment{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = deaf.Close() }()
	slow, err := call(deaf.Addr().String(), "live")
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(slow.Discard)
	for range 2 {
		conn, err := call(addr, "live")
		if err != nil {
			t.Fatal(err)
		}
		c := &capture{done: make(chan struct{})}
		reading.Go(func() { c.read(conn); close(c.done) })
		began := time.Now()
		peers.Wait(t, 40*time.Second, "pictures", func() error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if len(c.packets) < 300_000 {
				return errors.New("too few")
			}
			return nil
		})
		t.Logf("300 KB after %v", time.Since(began))
		conn.Close()
		ts := c.all(t)
		// The first picture is a random access point.
		for b := ts; len(b) > 0; b = b[mpegts.PacketBytes:] {
			if mpegts.PID(b) == 0x100 && b[1]&0x40 != 0 {
				if b[3]&0x20 == 0 || b[5]&0x40 == 0 {
					t.Error("it begins with another picture")
				}
				break
			}
		}
		peers.Wait(t, 30*time.Second, "the player is gone", func() error {
			if n := s.Stats().Values["srt_players"]; n > 1 {
				return errors.New("it is still there")
			}
			return nil
		})
	}
	close(stop)
	feeding.Wait()
	if st := s.Stats(); st.Values["srt_players_refused"] == 0 || st.Bytes < 600_000 {
		t.Errorf("%+v", st)
	}
	closeSink(t, s)
	slow.Close()
	reading.Wait()
}
