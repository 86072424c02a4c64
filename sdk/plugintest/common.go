package plugintest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// Bounds of the contract.
const (
	closeTime = 2 * time.Second // of a session that is closed without draining
	drainTime = 5 * time.Second // of a process
	lostTime  = 4 * time.Second // of a process whose gateway is gone
	pongTime  = time.Second     // of an answer to Ping
)

// creditQuiet is how long a session without credit is watched.
const creditQuiet = 300 * time.Millisecond

// A kit is what the suites of all kinds share.
type kit struct {
	plugin   Plugin
	options  []byte // of the plugin, JSON
	patience time.Duration
	// begin opens a session and returns once it is ready.
	begin func(t T, g *Gateway, session uint32)
	// work passes some media through a session that is ready, and ends it.
	work func(t T, g *Gateway, session uint32)
	// kind is of the sessions.
	kind wire.SessionKind
}

// attach starts the plugin and attaches to it.
func (k kit) attach(t T) (*running, *Gateway) {
	t.Helper()
	r := k.plugin.start(t)
	return r, k.attachTo(t, r)
}

func (k kit) attachTo(t T, r *running) *Gateway {
	t.Helper()
	return attach(t, r.client, r.dir, k.patience, &wire.Hello{
		CoreVersion: "plugintest", MaxMessageBytes: wire.MaxMessageBytes, OptionsJson: k.options,
		Capabilities: []string{wire.CapabilitySocket},
	})
}

// common are the checks of every kind of plugin.
func (k kit) common() []Check {
	checks := []Check{
		{"unknown fields", "Fields, messages and capabilities that the plugin does not know are ignored.", k.unknownFields},
		{"ping", "A Ping is answered by a Pong of the same number within a second, whatever the sessions do.", k.ping},
		{"renewed files", "Configure, which a plugin need not answer, changes nothing for its sessions.", k.renewedFiles},
		{"closed while idle", "A session that is closed without draining while nothing is sent is CLOSED within 2 s.", k.closedWhileIdle},
		{"drain", "After Drain the plugin ends all its sessions by itself; all are CLOSED within 5 s.", k.drain},
		{"lost Attach", "When the Attach stream is lost nobody is there any more: the sessions end at once, and a process ends within 4 s.", k.lostAttach},
		{"attach again", "A plugin that died, or lost its gateway, can be attached to anew: it begins without sessions and opens them again.", k.attachAgain},
		{"standard output", "Standard output carries the handshake and nothing else; what a plugin has to say goes to standard error.", k.standardOutput},
	}
	if len(k.plugin.program) > 0 {
		return append(checks,
			Check{"started by hand", "Started without the handshake's cookie, by hand, a plugin says that it is one and ends with a status other than 0.", k.startedByHand})
	}
	return append(checks,
		Check{"goroutines", "When its sessions are over and the gateway is gone a plugin leaves no goroutine behind.", k.noGoroutines})
}

// addUnknown adds to m, and to what it holds, a field that no version of the wire
// has.
func addUnknown(m protoreflect.Message) {
	b := protowire.AppendTag(nil, 12345, protowire.BytesType)
	m.SetUnknown(protowire.AppendString(b, "from a later version"))
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				addUnknown(v.List().Get(i).Message())
			}
		default:
			addUnknown(v.Message())
		}
		return true
	})
}

// Fields, messages and capabilities that the plugin does not know are ignored.
func (k kit) unknownFields(t T) {
	r := k.plugin.start(t)
	request := &wire.DescribeRequest{CoreVersion: "99.0.0"}
	addUnknown(request.ProtoReflect())
	if _, err := r.client.Describe(t.Context(), request); err != nil {
		t.Errorf("Describe: %v", err)
	}
	// A gateway that knows nothing of sockets: all goes over the stream.
	hello := &wire.Hello{
		CoreVersion: "99.0.0", MaxMessageBytes: wire.MaxMessageBytes, OptionsJson: k.options,
		Capabilities: []string{"media.telepathy/7"},
	}
	addUnknown(hello.ProtoReflect())
	g := attach(t, r.client, r.dir, k.patience, hello)
	g.later = true
	g.Send(&wire.HostMsg{}) // a message of a kind to come
	k.begin(t, g, 1)
	k.work(t, g, 1)
}

// A Ping is answered by a Pong of the same number within a second, whatever the
// sessions do.
func (k kit) ping(t T) {
	_, g := k.attach(t)
	k.begin(t, g, 1)
	quickest := g.patience
	for id := uint64(1); id <= 3; id++ {
		began := time.Now()
		answered(t, g, id, nil)
		quickest = min(quickest, time.Since(began)) // a busy machine holds up one of them
	}
	if quickest > pongTime {
		t.Errorf("the quickest of three Pongs took %v, more than %v", quickest.Round(time.Millisecond), pongTime)
	}
}

// Configure, which a plugin need not answer, changes nothing for its sessions.
func (k kit) renewedFiles(t T) {
	_, g := k.attach(t)
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Configure{Configure: &wire.Configure{OptionsJson: k.options}}})
	answered(t, g, 1, nil)
	k.begin(t, g, 1)
	k.work(t, g, 1)
}

// answered pings and waits for the answer: by then the plugin has taken all that was
// sent before. What comes meanwhile is for take, if that is not nil.
func answered(t T, g *Gateway, id uint64, take func(*wire.PluginMsg)) {
	t.Helper()
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Ping{Ping: &wire.Ping{Id: id}}})
	for deadline := time.Now().Add(g.patience); ; {
		m, err := g.next(time.Until(deadline))
		if err != nil {
			t.Fatalf("no answer to Ping %d: %v", id, err)
		}
		if p := m.GetPong(); p != nil {
			if p.GetId() != id {
				t.Errorf("Ping %d is answered by Pong %d", id, p.GetId())
			}
			return
		}
		if take != nil {
			take(m)
		}
	}
}

// settled takes what comes for a while in which nothing should, and until the plugin has
// shown that it was not held up all that time.
func settled(t T, g *Gateway, d time.Duration, take func(*wire.PluginMsg)) {
	t.Helper()
	for deadline := time.Now().Add(d); ; {
		m, err := g.next(time.Until(deadline))
		if err != nil {
			break // the ping tells whether the stream has ended
		}
		take(m)
	}
	answered(t, g, 1, take)
}

// A session that is closed without draining while nothing is sent is CLOSED
// within 2 s.
func (k kit) closedWhileIdle(t T) {
	_, g := k.attach(t)
	k.closeFast(t, g, func(session uint32) { k.begin(t, g, session) })
}

// closeFast opens a session and closes it without draining. One that takes too long does
// so twice: a busy machine holds up one of them.
func (k kit) closeFast(t T, g *Gateway, open func(session uint32)) {
	t.Helper()
	var took time.Duration
	for session := uint32(1); session <= 2; session++ {
		open(session)
		began := time.Now()
		g.Send(closeMsg(session, false))
		if s, _ := g.State(session); s.GetState() != wire.SessionState_CLOSED {
			t.Errorf("the session ended with %v, not CLOSED", s)
		}
		if took = time.Since(began); took <= closeTime {
			return
		}
	}
	t.Errorf("closing took %v, more than %v", took.Round(time.Millisecond), closeTime)
}

// After Drain the plugin ends all its sessions by itself; all are CLOSED within
// 5 s.
func (k kit) drain(t T) {
	_, g := k.attach(t)
	k.begin(t, g, 1)
	k.begin(t, g, 2)
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Drain{Drain: &wire.Drain{DeadlineNs: uint64(drainTime)}}})
	over := make(map[uint32]bool)
	for deadline := time.Now().Add(drainTime); len(over) < 2; {
		m, err := g.next(time.Until(deadline))
		if err != nil {
			t.Fatalf("%d of 2 sessions have ended: %v", len(over), err)
		}
		if s := m.GetState(); s != nil {
			if s.GetState() != wire.SessionState_CLOSED {
				t.Errorf("session %d ended with %v, not CLOSED", s.GetSession(), s)
			}
			over[s.GetSession()] = true
		}
	}
}

// When the Attach stream is lost nobody is there any more: the sessions end at
// once, and a process ends within 4 s.
func (k kit) lostAttach(t T) {
	r, g := k.attach(t)
	k.begin(t, g, 1)
	g.detach()
	select {
	case <-r.over:
	case <-time.After(lostTime + time.Second): // for a busy machine
		select {
		case <-r.over:
		default:
			t.Errorf("it goes on %v after its Attach stream was lost", lostTime)
		}
	}
}

// A plugin that died, or lost its gateway, can be attached to anew: it begins
// without sessions and opens them again.
func (k kit) attachAgain(t T) {
	r, g := k.attach(t)
	k.begin(t, g, 1)
	if len(k.plugin.program) > 0 {
		r.kill() // kill -9: nothing was said goodbye to
		r = k.plugin.start(t)
	} else {
		g.detach()
		select {
		case <-r.over:
		case <-time.After(2 * lostTime):
			t.Fatalf("the Attach before does not end")
		}
	}
	g = k.attachTo(t, r)
	k.begin(t, g, 1)
	k.work(t, g, 1)
}

// Standard output carries the handshake and nothing else; what a plugin has to
// say goes to standard error.
func (k kit) standardOutput(t T) {
	session := func() *running {
		r, g := k.attach(t)
		k.begin(t, g, 1)
		k.work(t, g, 1)
		g.detach()
		return r
	}
	var printed string
	if len(k.plugin.program) > 0 {
		r := session()
		r.stop()
		printed = r.printed()
	} else {
		printed = capture(t, func() { session().stop() })
	}
	if printed != "" {
		t.Errorf("it prints to standard output; use sdk.Logger in Go, standard error elsewhere%s", quoted(":", printed))
	}
}

// capture calls f and returns what it prints to os.Stdout meanwhile.
func capture(t T, f func()) string {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatalf("making a pipe: %v", err)
	}
	before := os.Stdout
	os.Stdout = w
	var out kept
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&out, r) // ends with the pipe
	}()
	defer func() { _ = r.Close() }()
	func() {
		defer func() {
			os.Stdout = before
			_ = w.Close()
			<-read
		}()
		f()
	}()
	return out.String()
}

// Started without the handshake's cookie, by hand, a plugin says that it is one
// and ends with a status other than 0.
func (k kit) startedByHand(t T) {
	output, err := k.plugin.byHand(t.Context(), t.TempDir())
	if err != nil {
		t.Errorf("started by hand: %v", err)
	}
	if output == "" {
		t.Errorf("started by hand it says nothing; a sentence on standard error would help")
	}
}

// When its sessions are over and the gateway is gone a plugin leaves no goroutine
// behind.
func (k kit) noGoroutines(t T) {
	before := goroutines()
	r, g := k.attach(t)
	k.begin(t, g, 1)
	k.work(t, g, 1)
	g.detach()
	r.stop()
	if err := newGoroutines(before, lostTime); err != nil {
		t.Errorf("%v", err)
	}
}

// described returns what the plugin says it is before it has options, and checks
// what every kind of plugin says.
func (k kit) described(t T) *wire.DescribeResponse {
	t.Helper()
	info, err := k.plugin.start(t).client.Describe(t.Context(), &wire.DescribeRequest{})
	if err != nil {
		t.Fatalf("Describe: %v", err)
	}
	if info.GetName() == "" || info.GetVersion() == "" {
		t.Errorf("name %q, version %q: both are needed", info.GetName(), info.GetVersion())
	}
	return info
}

// Option schemas are JSON Schemas of objects, and Validate reports an option that
// does not exist by its path.
func (k kit) validate(t T) { k.checkOptions(t, k.plugin.start(t).client) }

// checkOptions checks the schema of the options, and returns what the plugin says it
// is.
func (k kit) checkOptions(t T, c wire.PluginClient) *wire.DescribeResponse {
	t.Helper()
	info, err := c.Describe(t.Context(), &wire.DescribeRequest{})
	if err != nil {
		t.Fatalf("Describe: %v", err)
	}
	k.checkSchema(t, c, "options_schema", info.GetOptionsSchema(), func(o []byte) *wire.ValidateRequest {
		return &wire.ValidateRequest{OptionsJson: o}
	}, "options")
	return info
}

// checkSchema checks that a schema is one, and that Validate refuses an unknown
// key at path. request makes the request of options.
func (k kit) checkSchema(t T, c wire.PluginClient, name string, schema []byte, request func(options []byte) *wire.ValidateRequest, path string) {
	t.Helper()
	if len(schema) > 0 {
		var s struct {
			Type       string         `json:"type"`
			Properties map[string]any `json:"properties"`
		}
		if err := json.Unmarshal(schema, &s); err != nil {
			t.Errorf("%s is no JSON: %v", name, err)
		} else if s.Type != "object" {
			t.Errorf("%s describes a %q, want an object", name, s.Type)
		}
	}
	r, err := c.Validate(t.Context(), request([]byte(`{"no_plugin_has_this_option":1}`)))
	if err != nil {
		t.Fatalf("Validate: %v", err)
	}
	for _, d := range r.GetDiagnostics() {
		if strings.HasPrefix(d.GetPath(), path) && d.GetFinding() != "" && !d.GetWarning() {
			return
		}
	}
	t.Errorf("Validate takes an option that does not exist; want a diagnostic at %s, got %v", path, r.GetDiagnostics())
}

// noSecrets checks that text holds none of the secrets.
func noSecrets(t T, text string, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		if len(s) >= 4 && strings.Contains(text, s) {
			t.Errorf("a secret is in the message: %q", strings.ReplaceAll(text, s, "<SECRET>"))
		}
	}
}

func closeMsg(session uint32, drain bool) *wire.HostMsg {
	return &wire.HostMsg{M: &wire.HostMsg_Close{Close: &wire.Close{Session: session, Reason: "the test is over", Drain: drain}}}
}

func tracksMsg(tracks []media.Track, sessions ...uint32) *wire.HostMsg {
	return &wire.HostMsg{M: &wire.HostMsg_Tracks{Tracks: &wire.TrackSet{Sessions: sessions, Tracks: wire.FromTracks(tracks)}}}
}

func mediaMsg(u *wire.AccessUnit, sessions ...uint32) *wire.HostMsg {
	u.Sessions = sessions
	return &wire.HostMsg{M: &wire.HostMsg_Media{Media: &wire.AccessUnits{Units: []*wire.AccessUnit{u}}}}
}

// unit returns unit n of a track: of pictures one key frame in 30, of sound 20 ms.
func unit(t media.Track, n, size int) *wire.AccessUnit {
	u := &wire.AccessUnit{Track: uint32(t.ID), Seq: uint32(n)}
	interval := 20 * time.Millisecond
	if t.Codec.Kind() == media.Video {
		interval = time.Second / 30
	}
	if t.Codec.Kind() != media.Video || n%30 == 0 {
		u.Flags = uint32(wire.Flag_FLAG_RANDOM_ACCESS)
	}
	u.DtsNs = int64(n) * int64(interval)
	u.PtsNs = u.DtsNs
	u.DurationNs = uint64(interval)
	u.Payload = bytes.Repeat([]byte{0x5a}, size)
	if t.Codec == media.H264 {
		binary.BigEndian.PutUint32(u.Payload, uint32(size-4))
		u.Payload[4] = 0x41
		if n%30 == 0 {
			u.Payload[4] = 0x65
		}
	}
	return u
}

// checksum is of a payload.
func checksum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
