package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/gateway/core/config"
)

var rewrite = flag.Bool("rewrite", false, "write what is found into the golden files")

// mainVariable makes the test binary the gateway itself.
const mainVariable = "HEADGATE_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" || len(os.Args) == 3 && os.Args[1] == pluginCommand {
		main()
		return
	}
	os.Exit(m.Run())
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// gateway runs one command line to its end.
func gateway(t *testing.T, stdin string, args ...string) (code int, out, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var o, e buffer
	code = execute(ctx, streams{in: strings.NewReader(stdin), out: &o, err: &e}, args)
	return code, o.String(), e.String()
}

// A running gateway, in this process.
type running struct {
	out, err buffer
	done     chan int
	stop     context.CancelFunc
}

func start(t *testing.T, stdin string, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{done: make(chan int, 1), stop: cancel}
	go func() {
		r.done <- execute(ctx, streams{in: strings.NewReader(stdin), out: &r.out, err: &r.err}, args)
		close(r.done)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	return r
}

// await waits until the output matches, and returns the submatches.
func (r *running) await(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(time.Minute)
	for {
		if m := re.FindStringSubmatch(r.out.String()); m != nil {
			return m
		}
		select {
		case code := <-r.done:
			t.Fatalf("it ended with %d before %s:\n%s\n%s", code, pattern, r.out.String(), r.err.String())
		case <-deadline:
			t.Fatalf("no %s in:\n%s\n%s", pattern, r.out.String(), r.err.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	select {
	case code := <-r.done:
		if code != exitOK {
			t.Errorf("exit code %d:\n%s", code, r.err.String())
		}
	case <-time.After(time.Minute): // what takes longer than endTime ends with another code
		t.Error("it does not end")
	}
}

// onFreePorts keeps a gateway of this test out of the way of others.
func onFreePorts(t *testing.T) {
	t.Helper()
	t.Setenv("GATEWAY_LISTEN", "127.0.0.1:0")
	t.Setenv("GATEWAY_ADMIN", "127.0.0.1:0")
	t.Setenv("GATEWAY_PLUGINS__INGEST_WEBRTC__OPTIONS__UDP", "127.0.0.1:0")
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const good = "routes: {studio: {publish: {token: canary-token}, to: {a: {url: 'rtmp://127.0.0.1:9/live/canary-key'}}}}\n"

// TestHelp: every command says what it does, with an example.
func TestHelp(t *testing.T) {
	var walk func(cmd *cobra.Command, args []string)
	walk = func(cmd *cobra.Command, args []string) {
		code, out, stderr := gateway(t, "", append(args, "--help")...)
		if code != exitOK || !strings.Contains(out, "Usage:") || stderr != "" {
			t.Errorf("%v --help: %d %s", args, code, stderr)
		}
		if cmd.Runnable() && !strings.Contains(out, "Examples:") {
			t.Errorf("%v --help has no example", args)
		}
		for _, c := range cmd.Commands() {
			walk(c, append(args[:len(args):len(args)], c.Name()))
		}
	}
	walk(newRoot(streams{in: strings.NewReader(""), out: io.Discard, err: io.Discard}), nil)
	if code, out, _ := gateway(t, "", "completion", "bash"); code != exitOK || !strings.Contains(out, "__start_gateway") {
		t.Errorf("completion: %d", code)
	}
}

// TestOptionMistakes: what is wrong with the options of built-in plugins and of their
// targets is found before anything starts, at the line of each.
func TestOptionMistakes(t *testing.T) {
	onFreePorts(t)
	t.Setenv("GATEWAY_PLUGINS__INGEST_WEBRTC__OPTIONS__UDP", "")
	find := func(plugins, target, want string) {
		t.Helper()
		text := "plugins:\n" + plugins + "routes:\n  studio:\n    publish: {open: true}\n    to:\n      cdn:\n" + target
		code, out, stderr := gateway(t, "", "validate", write(t, text))
		if code != exitUsage || !strings.Contains(stderr, want) || strings.Contains(out+stderr, "canary") {
			t.Errorf("%d\n%s%s\nwant %s", code, out, stderr, want)
		}
	}
	const fine, none = "        url: rtmp://h.example/app/canary-key\n", "  ingest-clip: {}\n"
	// Names and types are those of the schema;
	find(none, fine+"        interleav: low\n", `gateway.yaml:9:9: routes.studio.to.cdn.interleav: unknown key "interleav", did you mean "interleave"?`)
	find(none, fine+"        interleave: sideways\n", `gateway.yaml:9:21: routes.studio.to.cdn.interleave: not one of the values it can have, write`)
	find("  ingest-srt:\n    options:\n      latency: 20\n", fine, `gateway.yaml:4:16: plugins.ingest-srt.options.latency: "20" is not a duration, write a number and its unit`)
	find("  ingest-rtmp:\n    options:\n      tls: {listen: ':1936', cert: none.pem, key: none.pem}\n", fine, `gateway.yaml:4:36: plugins.ingest-rtmp.options.tls.cert: `)
	// what they mean is the plugin's.
	find("  ingest-srt:\n    options:\n      latency: 20m\n", fine, `gateway.yaml:4:16: plugins.ingest-srt.options.latency: out of range, write at most 20s`)
	find("  ingest-srt:\n    options:\n      passphrase: canary\n", fine, `gateway.yaml:4:19: plugins.ingest-srt.options.passphrase: too short or too long, write 10 to 79 characters`)
	find("  ingest-rtmp:\n    options:\n      listen: 1935\n", fine, `gateway.yaml:4:15: plugins.ingest-rtmp.options.listen: "1935" is not an address, write host:port`)
	find("  ingest-rtsp:\n    options:\n      timeout: 1h\n", fine, `gateway.yaml:4:16: plugins.ingest-rtsp.options.timeout: out of range, write from 1s to 1m0s`)
	find("  ingest-webrtc:\n    options:\n      max_bitrate: 6\n", fine, `gateway.yaml:4:20: plugins.ingest-webrtc.options.max_bitrate: "6" is not a bitrate`)
	find(none, fine+"        fingerprint: 'AA:BB'\n", `gateway.yaml:9:22: routes.studio.to.cdn.fingerprint: the target's URL is rtmp, which is not secured, write rtmps`)
	find(none, fine+"        bind: eth0\n", `gateway.yaml:9:15: routes.studio.to.cdn.bind: not an address, write one of this machine`)
	find(none, "        url: rtmps://h.example/canary\n", `gateway.yaml:8:14: routes.studio.to.cdn.url: target URL: names no stream key, write /app/key`)
	find(none, "        url: srt://h.example:9000\n        passphrase: canary\n", "gateway.yaml:9:21: routes.studio.to.cdn.passphrase: ")
	find("  ingest-srt:\n    options:\n      listen: ':65536'\n", fine, `gateway.yaml:4:15: plugins.ingest-srt.options.listen: ":65536" has no valid port, write`)
	find("  ingest-srt:\n    options:\n      listen: ':1'\n      passphrases: {studio: canary}\n", fine, `gateway.yaml:5:29: plugins.ingest-srt.options.passphrases.studio: too short or too long, write`)
	find("  ingest-srt:\n    options:\n      passphrase: canary-canary\n", fine, `gateway.yaml:3:5: plugins.ingest-srt.options: a passphrase is for encoders that call, and nobody can, add listen`)
	find("  ingest-rtsp:\n    options:\n      listen: ':1'\n      listen_udp: ':8001'\n", fine, `gateway.yaml:5:19: plugins.ingest-rtsp.options.listen_udp: the port is odd or 0, write an even port`)
	find("  ingest-webrtc:\n    options:\n      tcp: 8189\n", fine, `gateway.yaml:4:12: plugins.ingest-webrtc.options.tcp: "8189" is not an address, write host:port`)
	find(none, "        url: srt://h.example:9000\n        streamid: canary1\n        key: canary2\n", "the stream id is in key and in streamid")
}

// TestSourceMistakes: what is wrong with the URL of a source is found before anything
// starts, at its line.
func TestSourceMistakes(t *testing.T) {
	onFreePorts(t)
	find := func(url, want string) {
		t.Helper()
		text := "routes:\n  camera:\n    from: {url: '" + url + "'}\n    to: {cdn: {url: 'rtmp://h.example/app/key'}}\n"
		code, out, stderr := gateway(t, "", "validate", write(t, text))
		if valid := want == ""; valid != (code == 0) || !valid && !strings.Contains(stderr, "gateway.yaml:3:17: routes.camera.from.url: "+want) ||
			strings.Contains(out+stderr, "canary") {
			t.Errorf("%s: %d\n%s%s\nwant %s", url, code, out, stderr, want)
		}
	}
	find("clip:", "")
	find("clip:canary", `a clip URL with more than the scheme, and there is one clip, write "clip:"`)
	find("rtsp://user:canary@camera.example/1#transport=tcp", "")
	find("rtsp:///canary", "the URL names no host, write ")
	find("rtsp://camera.example/canary#transport=canary", "transport: there is no such transport, write auto, udp or tcp")
	find("rtsp://camera.example/canary#fingerprnt=canary", "what follows # is not understood, write transport or fingerprint")
	find("rtsps://camera.example/canary#fingerprint=canary", "fingerprint: not a SHA-256, write the SHA-256 of the source")
	find("rtsp://user:ca%nary@camera.example/1", "this is no URL of a source, write ")
	find("rtsp://camera.example:70000/canary", "the URL has no valid port, write a port")
	find("srt://encoder.example:9000?passphrase=canary-canary&latency=200", "")
	find("srt://encoder.example?streamid=canary", "the URL has no port, write srt://host:port")
	find("srt://:9000?streamid=canary", "a source is called, and this is an address to listen on, write srt://host:port")
	find("srt://encoder.example:9000?passphrase=canary", "passphrase: too short or too long, write 10 to 79 characters")
	find("srt://encoder.example:9000?pasphrase=canary-canary", `unknown parameter "pasphrase" in the URL, write mode, `)
	find("rtmp://server.example/live/canary", "no plugin serves rtmp://, did you mean rtsp://? Served are clip, rtsp, rtsps, srt")
	find("whep://server.example/canary", "no plugin serves whep://, served are clip, rtsp, rtsps, srt")
}

// TestTargetsThatGetNothing: a target that would lose all pictures or all sound is told
// of with what it takes itself, where its user says that.
func TestTargetsThatGetNothing(t *testing.T) {
	onFreePorts(t)
	find := func(target string, wantCode int, want string) {
		t.Helper()
		text := "routes:\n  card:\n    from: {url: 'clip:'}\n    to: {cdn: {" + target + "}}\n"
		if code, _, stderr := gateway(t, "", "validate", write(t, text)); code != wantCode || !strings.Contains(stderr, "gateway.yaml:4:"+want) {
			t.Errorf("%s: %d\n%s\nwant %s", target, code, stderr, want)
		}
	}
	const rtmp = "url: 'rtmp://h.example/app/key', "
	find(rtmp+"codecs: [h265]", exitUsage, "10: routes.card.to.cdn: nothing can ever go to this target: its codecs are h265, ingest-clip brings h264; "+
		"its codecs hold no audio, ingest-clip brings opus; no plugin makes one of the other, correct codecs, or send the stream elsewhere, or take it from elsewhere\n")
	find(rtmp+"codecs: [h265, aac]", exitOK, "10: warning: routes.card.to.cdn: a stream with video will be refused by this target: its codecs are h265, "+
		"ingest-clip brings h264; no plugin makes one of the other, publish without video, or correct codecs, or send the stream elsewhere\n")
	find(rtmp+"codecs: [h264, aac], audio: {codec: opus}", exitUsage,
		"85: routes.card.to.cdn.audio.codec: the sound of this target can never be opus: its codecs are aac, ingest-clip brings opus, and nothing makes one of the other, remove codec\n")
}

// TestExitCodes: 0 done, 1 failed while running, 2 used wrongly; and the reason
// in plain words.
func TestExitCodes(t *testing.T) {
	onFreePorts(t)
	expect := func(code int, says string, args ...string) {
		t.Helper()
		got, out, stderr := gateway(t, "", args...)
		if got != code || !strings.Contains(out+stderr, says) {
			t.Errorf("gateway %v: %d, want %d and %q in\n%s%s", args, got, code, says, out, stderr)
		}
		if strings.Contains(out+stderr, "canary") {
			t.Errorf("gateway %v shows a secret:\n%s%s", args, out, stderr)
		}
	}
	expect(0, "Usage:")
	expect(0, "gateway ", "version")
	expect(2, `unknown command "rum"`, "rum")
	expect(2, "--help", "rum")
	expect(2, "unknown flag", "run", "--tu", "x")
	expect(2, "say what to run", "run")
	expect(2, "exclude each other", "run", "x.yaml", "--to", "rtmp://h/a/k")
	expect(2, "there is no file", "run", "nothing.yaml")
	expect(2, "did you mean validate?", "valdate")
	expect(2, "did you mean validate?", "check")
	expect(2, "did you mean gateway run gateway.yaml?", "gateway.yaml")
	expect(0, "sink rtmp", "sink")
	expect(2, `unknown command "rtmps", did you mean rtmp?`, "sink", "rtmps")
	expect(2, `unknown command "show"`, "plugins", "show")
	expect(2, `unknown command "tcsh"`, "completion", "tcsh")
	expect(0, "zsh", "completion")
	expect(2, "name the configuration: gateway validate gateway.yaml", "validate")
	expect(2, "gateway: validate takes one configuration, and got 2", "validate", "a", "b")
	expect(2, "gateway: run takes one configuration, and got 2", "run", "a", "b")
	expect(2, `gateway: demo takes no arguments, and got "now"`, "demo", "now")
	expect(2, "want text or json", "validate", "x", "-o", "xml")
	expect(2, "want debug, info, warn or error", "version", "--log-level", "loud")
	expect(2, "want text or json", "version", "--log-format", "xml")
	expect(2, "no plugin serves http://", "run", "--to", "http://h/canary")
	expect(2, "names no stream key, write /app/key", "run", "--to", "rtmps://h.example/canary")
	expect(2, "is none of RTMP, write rtmp://host/app/key", "run", "--to", "rtmp:/canary/live/key")
	expect(2, "NOT_SET is not set", "run", "--to", "${env:NOT_SET}")
	expect(2, "standard input has no URL", "run", "--to", "-")
	expect(2, "can be given once", "run", "--to", "rtmp://h/a/k", "--to", "-", "--to", "-")
	expect(2, `"8080" is not an address`, "run", "--to", "rtmp://h/a/canary", "--listen", "8080")
	expect(2, "want a positive duration", "demo", "--duration", "-1s")

	busy, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	addr := busy.Addr().String()
	expect(1, "listen: "+addr+" is used by another program", "run", "--to", "rtmp://h/a/canary", "--listen", addr)
	expect(1, "admin: "+addr+" is used by another program", "run", write(t, good), "--admin", addr)
	expect(1, "--listen: "+addr+" is used by another program", "sink", "rtmp", "--listen", addr)
	udp, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = udp.Close() }()
	if err := os.Unsetenv("GATEWAY_PLUGINS__INGEST_WEBRTC__OPTIONS__UDP"); err != nil { // onFreePorts puts it back
		t.Fatal(err)
	}
	expect(1, "plugins.ingest-webrtc.options.udp: "+udp.LocalAddr().String()+" is used by another program", "run",
		write(t, "plugins: {ingest-webrtc: {options: {udp: '"+udp.LocalAddr().String()+"'}}}\n"+good))
	listens := func(plugins string) string { return write(t, "plugins: {"+plugins+"}\n"+good) }
	for key, options := range map[string]string{
		"ingest-rtmp.options.listen": "listen: '" + addr + "'",
		"ingest-rtsp.options.listen": "listen: '" + addr + "'",
		"ingest-srt.options.listen":  "listen: '" + udp.LocalAddr().String() + "'",
		"ingest-webrtc.options.turn": "udp: '127.0.0.1:0', turn: '" + udp.LocalAddr().String() + "'",
	} {
		plugin, _, _ := strings.Cut(key, ".")
		expect(1, " is used by another program: end it, or choose another with the key plugins."+key+" of the configuration or with GATEWAY_PLUGINS__",
			"run", listens(plugin+": {options: {"+options+"}}"))
	}
	expect(1, "plugins.ingest-rtsp.options.listen: "+addr+" is the address of plugins.ingest-rtmp.options.listen already: give one of the two another port",
		"run", listens("ingest-rtmp: {options: {listen: '"+addr+"'}}, ingest-rtsp: {options: {listen: '"+addr+"'}}"))
	expect(1, "this machine does not have the address", "run", write(t, good), "--listen", "192.0.2.1:80")
}

func TestValidate(t *testing.T) {
	file := write(t, good)
	if code, out, stderr := gateway(t, "", "validate", file); code != 0 || out != file+" is valid: 1 route, 1 target\n" || stderr != "" {
		t.Errorf("%d %s %s", code, out, stderr)
	}
	bad := write(t, "lisen: x\n"+good)
	code, out, stderr := gateway(t, "", "validate", bad)
	if code != 2 || out != "" || stderr != bad+":1:1: lisen: unknown key \"lisen\", did you mean \"listen\"?\n" {
		t.Errorf("%d %s %s", code, out, stderr)
	}
	var v struct {
		Valid       bool
		Diagnostics []struct {
			Line    int
			Finding string
			Remedy  string
		}
	}
	code, out, _ = gateway(t, "", "validate", "-o", "json", bad)
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 2 || v.Valid || len(v.Diagnostics) != 1 || v.Diagnostics[0].Line != 1 {
		t.Errorf("%d %s", code, out)
	}
	code, out, _ = gateway(t, "", "validate", "-o", "json", file)
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 || !v.Valid || len(v.Diagnostics) != 0 {
		t.Errorf("%d %s", code, out)
	}
}

func TestPluginsList(t *testing.T) {
	code, out, _ := gateway(t, "", "plugins", "list")
	for _, b := range builtIns() {
		if code != 0 || !strings.Contains(out, b.name) {
			t.Errorf("%d %s", code, out)
		}
		if got := b.plugin().Name; got != b.name {
			t.Errorf("%s stands in the table as %s", got, b.name)
		}
	}
	var v struct{ Plugins []pluginInfo }
	code, out, _ = gateway(t, "", "plugins", "list", "-o", "json")
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 || len(v.Plugins) != len(builtIns()) {
		t.Errorf("%d %s", code, out)
	}
}

var reference = regexp.MustCompile(`\$\{env:([A-Za-z_][A-Za-z0-9_]*)`)

// TestExamples: every configuration that we show is valid, and the editor's
// schema of the repository accepts its keys.
func TestExamples(t *testing.T) {
	plugin := filepath.Join(t.TempDir(), "egress-file")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", plugin, "../../examples/egress-file").CombinedOutput(); err != nil {
		t.Fatalf("building the example plugin: %v\n%s", err, out)
	}
	b, err := os.ReadFile(plugin)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("examples: %v %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			for _, m := range reference.FindAllStringSubmatch(string(text), -1) {
				t.Setenv(m[1], "canary-"+m[1])
			}
			t.Setenv("EGRESS_FILE", plugin)
			t.Setenv("EGRESS_FILE_SHA256", hex.EncodeToString(sum[:]))
			code, out, stderr := gateway(t, "", "validate", file)
			if code != 0 || strings.Contains(out+stderr, "canary") {
				t.Errorf("%d\n%s%s", code, out, stderr)
			}
			if !strings.HasPrefix(string(text), "# yaml-language-server: $schema=../schema/gateway.schema.json\n") {
				t.Error("the first line does not name the schema")
			}
		})
	}
}

// TestSchemaIsFresh: the schema in the repository is that of the code.
func TestSchemaIsFresh(t *testing.T) {
	const file = "../../schema/gateway.schema.json"
	code, out, _ := gateway(t, "", "schema")
	if code != 0 || !json.Valid([]byte(out)) {
		t.Fatalf("%d %s", code, out)
	}
	if *rewrite {
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != out {
		t.Errorf("schema/gateway.schema.json is not what gateway schema prints (%v); write it anew: go test ./cmd/gateway -run TestSchemaIsFresh -rewrite", err)
	}
}

// TestRunTo: no file; the URL comes on standard input; what is printed is enough
// to publish, and the key is not in it.
func TestRunTo(t *testing.T) {
	onFreePorts(t)
	r := start(t, "rtmp://127.0.0.1:9/live/canary-key\n\nrtmp://127.0.0.1:9/live/canary-two\n", "run", "--to", "-")
	m := r.await(t, `browser +(http://localhost:\d+)(/publish/live#token=(\w+))\n +WHIP +http://localhost:\d+/whip/live\n +token +(\w+)\n`)
	if m[3] != m[4] || len(m[3]) < 20 {
		t.Errorf("tokens %q %q", m[3], m[4])
	}
	get := func(path string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m[1]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for path, want := range map[string]int{"/readyz": 200, "/publish/live": 200, "/": 200, "/nothing": 404, "/whip/live": 405} {
		if got := get(path); got != want && path != "/whip/live" || got >= 500 {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	r.end(t)
	if all := r.out.String() + r.err.String(); strings.Contains(all, "canary") || !strings.Contains(all, "target1  rtmp://127.0.0.1:9/...") {
		t.Errorf("the output:\n%s", all)
	}
	if strings.Contains(r.err.String(), m[3]) {
		t.Error("the token is in the log")
	}
}

// TestDemo: both servers report what the test card is.
func TestDemo(t *testing.T) {
	onFreePorts(t)
	r := start(t, "", "demo", "--test-source")
	for _, name := range demoTargets {
		r.await(t, `\d\d:\d\d:\d\d `+name+` live: video h264 640x360 [23]\d\.\d fps \d+ kb/s, audio aac 48 kHz stereo [1-9]\d* kb/s, sound (\d+ ms (later|earlier)|0 ms), lag \d+ ms\n`)
	}
	r.end(t)
}

// TestSink: a gateway with a file sends to a sink of another command, which
// records it.
func TestSink(t *testing.T) {
	onFreePorts(t)
	dir := filepath.Join(t.TempDir(), "rec")
	sink := start(t, "", "sink", "rtmp", "--listen", "127.0.0.1:0", "--record", dir)
	addr := sink.await(t, `Receiving at rtmp://([0-9.:]+),`)[1]
	g := start(t, "", "run", write(t, "routes: {card: {from: {url: 'clip:'}, to: {sink: {url: 'rtmp://"+addr+"/live/canary-key'}}}}\n"))
	g.await(t, `from +clip:\n`)
	sink.await(t, `#1 published by 127\.0\.0\.1:\d+ .*recorded to `)
	sink.await(t, `#1 live: video h264 640x360 [23]\d`)
	g.end(t)
	sink.await(t, `#1 ended after .*: the publisher said goodbye`)
	sink.end(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.flv"))
	if err != nil || len(files) != 1 {
		t.Fatalf("recordings %v %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil || len(b) < 10_000 || string(b[:3]) != "FLV" {
		t.Errorf("%d bytes recorded, %v", len(b), err)
	}
	if all := g.out.String() + g.err.String(); strings.Contains(all, "canary") {
		t.Errorf("the key is shown:\n%s", all)
	}
}

// process starts the gateway as a process of its own.
func process(t *testing.T, out io.Writer, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), mainVariable+"=1")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestSignals: SIGTERM and Ctrl-C end it in order, with exit code 0, in less than
// five seconds.
func TestSignals(t *testing.T) {
	onFreePorts(t)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		r := &running{done: make(chan int)}
		cmd := process(t, &r.out, "run", write(t, good))
		r.await(t, "Headgate is running")
		began := time.Now()
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v\n%s", s, err, r.out.String())
		}
		// What takes the gateway longer than endTime is a failure by its own clock; the rest
		// is the machine's.
		if d := time.Since(began); d > 2*endTime {
			t.Errorf("%v: it took %v", s, d)
		}
	}
}

// TestSecondSignal: it ends at once.
func TestSecondSignal(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run", "TestHangs", "-test.count", "1")
	cmd.Env = append(os.Environ(), "HEADGATE_TEST_HANGS=1")
	r := &running{done: make(chan int)}
	cmd.Stdout, cmd.Stderr = &r.out, &r.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.await(t, "hanging")
	began := time.Now() // before the process can have had the first one
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	r.await(t, "first")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for again := true; again; {
		select {
		case err = <-ended:
			again = false
		case <-time.After(50 * time.Millisecond):
			// One that comes at once is taken for the first.
			_ = cmd.Process.Signal(os.Interrupt) // it may have ended just now
		}
	}
	if time.Since(began) < sameSignal {
		t.Error("a signal that came twice ended it at once")
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitFailure || !strings.Contains(r.out.String(), "ending at once") {
		t.Errorf("%v\n%s", err, r.out.String())
	}
}

// TestHangs is the process of TestSecondSignal: it does not end when asked to.
func TestHangs(t *testing.T) {
	if os.Getenv("HEADGATE_TEST_HANGS") == "" {
		t.Skip("it is a part of TestSecondSignal")
	}
	ctx, stop := untilSignal(t.Context(), os.Stderr)
	defer stop()
	fmt.Println("hanging")
	<-ctx.Done()
	fmt.Println("first")
	<-t.Context().Done()
}

func TestPluginCommand(t *testing.T) {
	var out buffer
	cmd := process(t, &out, "plugin", "nothing")
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitUsage || !strings.Contains(out.String(), "no built-in plugin") {
		t.Errorf("%v %s", err, out.String())
	}
}

// TestBannerSaysWhereToPublish: every way that the configuration opens.
func TestBannerSaysWhereToPublish(t *testing.T) {
	f := func(listen, publish, want string) {
		t.Helper()
		text := "plugins: {ingest-srt: {options: {listen: \"" + listen + "\"}}, ingest-rtmp: {options: {listen: \":1935\"}}}\nroutes: {studio: {publish: " + publish + ", to: {a: {url: \"rtmp://host/app/key\"}}}}\n"
		cfg, ds := config.Parse(t.Context(), "gateway.yaml", []byte(text), config.Options{Catalog: catalog(), Environ: []string{}})
		if cfg == nil {
			t.Fatal(ds)
		}
		var out strings.Builder
		banner{file: "gateway.yaml"}.print(&out, cfg, places{public: "http://localhost:8080", admin: "http://localhost:8081"})
		if !strings.Contains(out.String(), want) || strings.Contains(out.String(), "canary") {
			t.Errorf("want %q in\n%s", want, out.String())
		}
	}
	f("127.0.0.1:8890", `{token: "canary0123456789"}`, "    RTMP      rtmp://localhost:1935/studio/TOKEN\n")
	f("127.0.0.1:8890", `{open: true}`, "    RTMP      rtmp://localhost:1935/studio\n")
	f("127.0.0.1:8890", `{token: "canary0123456789"}`, "    SRT       srt://127.0.0.1:8890?streamid=studio?token=TOKEN\n")
	f("0.0.0.0:8890", `{open: true}`, "    SRT       srt://localhost:8890?streamid=studio\n")
	f(":8890", `{open: true}`, "    SRT       srt://localhost:8890?streamid=studio\n")
}
