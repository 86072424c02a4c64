package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// The test binary is the gateway, a plugin ("plugin MODE") and a gateway that
// gets killed ("host").
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "plugin":
		servePlugin(os.Args[2])
		os.Exit(0)
	case len(os.Args) > 1 && os.Args[1] == "host":
		runHost()
	}
	goleak.VerifyTestMain(m)
}

// servePlugin is the main function of the plugin process.
func servePlugin(mode string) {
	if strings.HasPrefix(mode, "bad-") {
		serveHostile(mode)
		return
	}
	switch mode {
	case "exit":
		os.Exit(7)
	case "panic":
		panic("this plugin cannot start")
	case "mute": // never shakes hands
		select {}
	case "future":
		serveFuture()
		return
	case "telltale":
		serveTelltale()
		return
	case "rogue":
		serveRogue()
		return
	case wireConnection.mode(), protobufConnection.mode(), stockConnection.mode():
		serveLoad(connection(strings.TrimPrefix(mode, "load-")))
		return
	case "several":
		p := testPlugin()
		p.Shardable, p.Ingest.Mounts = true, nil
		sdk.Serve(p)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "old-kernel":
		forbidLandlock()
	case "quick": // dies soon after it is ready
		time.AfterFunc(20*time.Millisecond, func() { os.Exit(3) })
	}
	sdk.Serve(testPlugin())
	// An exit under the race detector takes a second, which the tests need not wait.
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

type testOptions struct {
	Greeting string        `json:"greeting,omitempty"`
	Delay    time.Duration `json:"delay,omitempty"`
	Password secret.String `json:"password,omitempty"` // one that begins with "wrong" is refused
	Paper    sdk.File      `json:"paper,omitzero"`     // one that begins with "blank" is refused
}

func (o testOptions) Check() error {
	if strings.HasPrefix(string(o.Paper.Content), "blank") {
		return errors.New("paper: there is nothing on it")
	}
	return nil
}

type testTargetOptions struct {
	Passphrase secret.String `json:"passphrase,omitempty"`
}

func testPlugin() sdk.Plugin {
	return sdk.Plugin{
		Name: "test", Version: "1.2.3", Options: &testOptions{},
		Egress: &sdk.EgressPlugin{
			Egress:        testEgress{},
			Schemes:       []string{"test"},
			TargetOptions: &testTargetOptions{},
			Accepts:       sdk.Accepts{Codecs: []media.Codec{media.H264, media.AAC}, VideoTracks: 1, AudioTracks: 1},
		},
		Ingest: &sdk.IngestPlugin{
			Ingest: testIngest{}, Codecs: []media.Codec{media.H264}, Schemes: []string{"pull"}, Mounts: []string{"/test/"},
		},
		Transforms: []sdk.Transform{{From: media.Opus, To: media.AAC, Open: openTestTransform}},
	}
}

// What the plugin's process has read of the paper that its options name, and how often.
var (
	readPaper atomic.Pointer[string]
	papers    atomic.Int32
)

// testEgress opens targets that report what they get in their figures; the
// target's URL says how it behaves.
type testEgress struct{}

func (testEgress) Open(_ context.Context, t sdk.Target, _ []media.Track) (sdk.Sink, error) {
	verb := strings.TrimPrefix(t.URL.Reveal(), "test://")
	switch verb {
	case "refuse":
		return nil, sdk.Permanent(&sdk.Error{Cause: sdk.CauseRemote, Class: "key", Err: fmt.Errorf("the key %s of %s is refused", t.Key.Reveal(), t.URL.Reveal())})
	case "panic":
		panic("in Open")
	case "paper":
		text := readPaper.Load()
		if text == nil {
			return nil, errors.New("there is no paper so far")
		}
		return nil, fmt.Errorf("the paper says %s", *text)
	case "eat":
		hoard := make([]byte, 400<<20)
		for i := range hoard {
			hoard[i] = byte(i)
		}
		return nil, fmt.Errorf("ate %d", hoard[len(hoard)-1])
	case "print":
		// Far more than a pipe holds, in one line, past os.Stdout and through it.
		line := bytes.Repeat([]byte{'x'}, 70<<10)
		for range 3 {
			_, _ = syscall.Write(1, line)
			fmt.Println(string(line))
		}
		_, _ = syscall.Write(1, []byte("\n"))
	}
	return &testSink{verb: verb}, nil
}

type testSink struct {
	verb    string
	bytes   atomic.Uint64
	units   atomic.Uint64
	tracks  atomic.Uint64
	derived atomic.Uint64
	gaps    atomic.Uint64
}

type sharedKey struct{}

func (s *testSink) WriteAccessUnit(ctx context.Context, u *media.AccessUnit) error {
	s.bytes.Add(uint64(len(u.Payload)))
	s.units.Add(1)
	if u.Discontinuity {
		s.gaps.Add(1)
	}
	u.Derived(sharedKey{}, func() any { s.derived.Add(1); return true })
	switch s.verb {
	case "slow":
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	case "stall":
		<-ctx.Done()
		return ctx.Err()
	case "panic-write":
		panic("in WriteAccessUnit")
	}
	return nil
}

func (s *testSink) SetTracks(context.Context, []media.Track) error { s.tracks.Add(1); return nil }
func (s *testSink) Close(context.Context) error                    { return nil }

func (s *testSink) Stats() sdk.SinkStats {
	return sdk.SinkStats{Bytes: s.bytes.Load(), Values: map[string]float64{
		"units": float64(s.units.Load()), "tracks": float64(s.tracks.Load()),
		"derived": float64(s.derived.Load()), "gaps": float64(s.gaps.Load()),
	}}
}

// testIngest publishes what HTTP requests to its mount ask for.
type testIngest struct{}

func (testIngest) Serve(ctx context.Context, host *sdk.IngestHost) error {
	var o testOptions
	if err := host.Options(&o); err != nil {
		return err
	}
	if o.Greeting != "what I have is good enough" {
		err := host.OnRenewal(func() error {
			var o testOptions
			if err := host.Options(&o); err != nil {
				return err
			}
			text := string(o.Paper.Content)
			switch text {
			case "torn":
				return errors.New("the paper is torn")
			case "burning":
				panic("the paper burns")
			case "poison":
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			case "for who has had two":
				if papers.Load() < 2 {
					return errors.New("this would be the second one")
				}
			case "long":
				select {} // one that takes for ever to read
			}
			readPaper.Store(&text)
			papers.Add(1)
			return nil
		})
		if err != nil {
			return err
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /test/paper", func(w http.ResponseWriter, _ *http.Request) {
		if text := readPaper.Load(); text != nil {
			_, _ = io.WriteString(w, *text)
		}
	})
	mux.HandleFunc("GET /test/env", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Join(os.Environ(), "\n"))
	})
	mux.HandleFunc("GET /test/files", func(w http.ResponseWriter, r *http.Request) {
		verdict := func(what string, err error) { _, _ = fmt.Fprintf(w, "%s %v\n", what, err == nil) }
		_, err := os.ReadFile("/etc/hosts")
		verdict("resolver", err)
		_, err = os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
		verdict("certificates", err)
		_, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid()))
		verdict("gateway", err)
		_, err = os.ReadFile("/etc/passwd")
		verdict("passwd", err)
		verdict("outside", os.WriteFile(filepath.Join(r.FormValue("outside"), "x"), []byte("x"), 0o600))
		verdict("inside", os.WriteFile(filepath.Join(r.FormValue("inside"), "x"), []byte("x"), 0o600))
		verdict("program", exec.CommandContext(r.Context(), "/bin/true").Run())
		_, err = net.LookupHost("localhost")
		verdict("localhost", err)
	})
	mux.HandleFunc("GET /test/hello", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %v %s %s", o.Greeting, o.Delay, r.RemoteAddr, r.Host)
	})
	mux.HandleFunc("GET /test/stdin", func(w http.ResponseWriter, _ *http.Request) {
		n, err := os.Stdin.Read(make([]byte, 1))
		_, _ = fmt.Fprintf(w, "%d %v", n, err)
	})
	mux.HandleFunc("GET /test/enquire/{name}", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, host.Enquire(r.Context(), r.PathValue("name")))
	})
	mux.HandleFunc("POST /test/offer/{name}", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		events := make(chan string, 16)
		pub, err := host.Offer(r.Context(), sdk.Offer{
			Name: name, Credentials: secret.New(r.Header.Get("Authorization")), Remote: r.RemoteAddr,
			Codecs:            []media.Codec{media.H264},
			OnKeyframeRequest: func(t media.TrackID) { events <- fmt.Sprintf("keyframe %d", t) },
			OnTargetBitrate:   func(bps uint64) { events <- fmt.Sprintf("bitrate %d", bps) },
		})
		var rejected *sdk.RejectedError
		switch {
		case errors.As(err, &rejected):
			http.Error(w, fmt.Sprintf("%s %s %v", rejected.Reason, rejected.Message, rejected.RetryAfter), http.StatusForbidden)
			return
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		pub.SetTracks([]media.Track{{ID: 1, Codec: media.H264, DecoderConfig: []byte{1}, Width: 640, Height: 360}})
		pub.WriteAccessUnit(&media.AccessUnit{
			Track: 1, PTS: time.Second, DTS: time.Second, RandomAccess: true, Payload: []byte("one"),
			Received: time.Now().Add(-100 * time.Millisecond), Captured: time.Unix(1700000000, 5),
		})
		pub.WriteAccessUnit(&media.AccessUnit{Track: 1, DTS: 2 * time.Second, Disposable: true, Payload: []byte("two")})
		pub.WriteAccessUnit(&media.AccessUnit{Track: 1, DTS: time.Second, Payload: []byte("back in time")})
		pub.WriteAccessUnit(&media.AccessUnit{Track: 1, DTS: 3 * time.Second, Payload: []byte("three")})
		pub.WriteAccessUnit(&media.AccessUnit{Track: 1, DTS: 4 * time.Second, RandomAccess: true, Payload: make([]byte, 6<<20)})
		pub.ReportStats(sdk.IngestStats{Bytes: 42, UnitsLost: 1})
		_, _ = fmt.Fprintln(w, <-events)
		_, _ = fmt.Fprintln(w, <-events)
		switch r.URL.Query().Get("end") {
		case "clean":
			pub.Close(nil)
		case "lost":
			pub.Close(errors.New("the publisher vanished"))
		default:
			<-pub.Done()
			targets, known := pub.Targets()
			_, _ = fmt.Fprintln(w, pub.Err(), targets, known)
		}
	})
	host.HandleHTTP(mux)
	<-ctx.Done()
	return nil
}

func (testIngest) Pull(ctx context.Context, u secret.String, pub *sdk.Publication) error {
	switch u.Reveal() {
	case "pull://end":
		pub.SetTracks([]media.Track{{ID: 1, Codec: media.Opus, DecoderConfig: []byte{1}}})
		for i := range 10 {
			pub.WriteAccessUnit(&media.AccessUnit{Track: 1, DTS: time.Duration(i), RandomAccess: true, Payload: []byte("unit")})
		}
		return nil
	case "pull://flood": // far more than a gateway that does not read can take
		pub.SetTracks([]media.Track{{ID: 1, Codec: media.H264, DecoderConfig: []byte{1}}})
		for i := range 4000 {
			pub.WriteAccessUnit(&media.AccessUnit{
				Track: 1, DTS: time.Duration(i) * time.Millisecond, RandomAccess: i%50 == 0, Payload: make([]byte, 8000),
			})
		}
		pub.ReportStats(sdk.IngestStats{})
		return nil
	case "pull://wait":
		<-ctx.Done()
		return ctx.Err()
	default:
		return fmt.Errorf("dial %s: refused", u.Reveal())
	}
}

// testTransform doubles the payload.
type testTransform struct{ in media.Track }

func openTestTransform(_ context.Context, in media.Track, s sdk.TransformSettings) (sdk.Transformer, error) {
	if s.Channels == 9 {
		return nil, errors.New("nine channels")
	}
	return &testTransform{in: in}, nil
}

func (t *testTransform) Track() media.Track {
	return media.Track{Codec: media.AAC, DecoderConfig: []byte{0x11, 0x90}, SampleRateHz: 48000, Channels: t.in.Channels}
}
func (t *testTransform) SetTrack(in media.Track) error { t.in = in; return nil }
func (t *testTransform) Close()                        {}

func (t *testTransform) Transform(u *media.AccessUnit, emit func(*media.AccessUnit)) error {
	if string(u.Payload) == "bad" {
		return errors.New("a bad unit")
	}
	emit(&media.AccessUnit{PTS: u.PTS, DTS: u.DTS, RandomAccess: true, Payload: append(u.Payload[:len(u.Payload):len(u.Payload)], u.Payload...)})
	return nil
}

// runHost is a gateway that runs the plugin until it is killed.
func runHost() {
	h := New([]Spec{spec("serve")}, nil, slog.New(slog.DiscardHandler), WithRunDir(os.Args[2]))
	h.Need("test", "")
	go func() {
		<-h.Ready("test")
		fmt.Println(h.Status()[0].PID)
	}()
	_ = h.Run(context.Background())
}
