package rtmp

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bluenviron/gortmplib/pkg/amf0"
	"github.com/bluenviron/gortmplib/pkg/handshake"

	"github.com/headgate/gateway/sdk/secret"
)

// Limits of a server.
const (
	defaultMaxConns     = 1000
	defaultIdleTimeout  = 30 * time.Second
	defaultPingInterval = 10 * time.Second
	openingTimeout      = 10 * time.Second // from accept to publish
	serverWriteTimeout  = 5 * time.Second
	leaveTime           = time.Second // to read why
	maxStreamsPerConn   = 8
	maxEnded            = 64
	recordBuffer        = 64 << 10
)

// Bits of [Capabilities.Flags] that a server announces: it takes several tracks of a
// kind, modified messages, and timestamps of nanoseconds in them.
const (
	CapsMultitrack    = capsMultitrack
	CapsModEx         = 4
	CapsTimestampNano = 8
)

// A Server receives what RTMP clients publish: the ingest, and the far end of the
// demo, of `gateway sink rtmp` and of tests. It looks at everything that arrives and keeps
// figures of it ([Server.Stats]); it plays nothing back. It is safe to expose to
// hostile clients: time, connections and memory per connection are bounded.
//
// Fields are set before Run and not changed afterwards. The functions are called
// from the connections' goroutines, concurrently for different publications.
type Server struct {
	// Addr is what Run listens on, host:port; 1935 is the usual port.
	Addr string
	// Listener is served instead, if set. Run closes it.
	Listener net.Listener
	// TLS makes it rtmps.
	TLS *tls.Config

	// Check decides whether p may publish; nil accepts everyone. A *[StatusError]
	// is sent as it is, any other error as NetStream.Publish.Unauthorized. It may take
	// its time, and may set p.App to what logs shall call the publication, and
	// p.Session. Before it said yes a client gets room for commands alone.
	Check func(p *Publish) error
	// Unique refuses who publishes under an app and key that are in use, with
	// NetStream.Publish.BadName, as many servers do.
	Unique bool
	// OnPublish is called when p was accepted, OnMessage with every audio, video
	// and data message and when its last byte was read, OnEnd when the publication
	// is over: with nil when the client said so. All may be nil. Those of one
	// publication are called by one goroutine. The body of the
	// message is the callee's to keep, not to change.
	OnPublish func(p *Publish)
	OnMessage func(p *Publish, m Message, arrived time.Time)
	OnEnd     func(p *Publish, err error)

	// RecordDir is where each publication is recorded to, as an FLV file; empty
	// records nothing.
	RecordDir string
	// Announce is what the answer to connect says of Enhanced RTMP; nil is a server
	// of before it.
	Announce *Capabilities

	// MaxConns bounds the connections, MaxMessageBytes one message; 0 means 1000
	// and 8 MiB. MaxOpening bounds the connections of one address that do not publish
	// yet; 0 sets no limit of its own.
	MaxConns        int
	MaxOpening      int
	MaxMessageBytes int
	// IdleTimeout ends a connection from which no byte came for so long, PingInterval
	// is how often a client is asked for one; 0 means 30 s and 10 s.
	IdleTimeout  time.Duration
	PingInterval time.Duration
	// Log may be nil.
	Log *slog.Logger

	mu      sync.Mutex // guards the fields below
	lastID  uint64
	active  map[uint64]*publication
	ended   []StreamStats  // the newest last
	opening map[string]int // connections that do not publish yet, by address
}

// A Publish is one publication: who sends what under which name.
type Publish struct {
	ID uint64
	// App is as the client sent it, without its query; both may hold a secret, as
	// the key does.
	App      string
	AppQuery secret.String
	Key      secret.String
	Remote   string
	// Agent is the client's flashVer.
	Agent string
	TLS   bool
	Since time.Time
	// Recording is the path of the file, if there is one.
	Recording string
	// Session is for the functions of the server's owner, who alone looks at it.
	Session any
}

// A publication is a Publish under way.
type publication struct {
	Publish
	conn     *serverConn
	meter    *meter
	file     *os.File
	buffered *bufio.Writer
	flv      *FLVWriter
}

// Run serves until ctx ends. It returns nil then, when all connections are
// closed and their goroutines are through.
func (s *Server) Run(ctx context.Context) error {
	listener := s.Listener
	if listener == nil {
		var err error
		if listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.Addr); err != nil {
			return fmt.Errorf("listening for rtmp: %w", err)
		}
	}
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()

	slots := make(chan struct{}, orDefault(s.MaxConns, defaultMaxConns))
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if isTemporary(err) {
				s.log().Warn("accepting an rtmp connection", "error", err)
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
			_ = listener.Close()
			return fmt.Errorf("accepting rtmp connections: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			s.log().Warn("refusing an rtmp connection: too many", "remote", conn.RemoteAddr())
			_ = conn.Close()
			continue
		}
		opened, ok := s.open(conn.RemoteAddr())
		if !ok {
			<-slots
			s.log().Warn("refusing an rtmp connection: too many of this address that do not publish", "remote", conn.RemoteAddr())
			_ = conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			defer opened()
			s.serve(ctx, conn, opened)
		})
	}
}

// open counts a connection among those of its address that do not publish yet, until
// opened is called. It reports false if there are too many.
func (s *Server) open(remote net.Addr) (opened func(), ok bool) {
	host := remote.String()
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.MaxOpening > 0 && s.opening[host] >= s.MaxOpening {
		return nil, false
	}
	if s.opening == nil {
		s.opening = make(map[string]int)
	}
	s.opening[host]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.opening[host]--; s.opening[host] == 0 {
			delete(s.opening, host)
		}
	}), true
}

// isTemporary: out of file descriptors, or the client was gone before we came.
func isTemporary(err error) bool {
	var ne interface{ Temporary() bool }
	return errors.As(err, &ne) && ne.Temporary()
}

func orDefault[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// Stats returns the figures of the publications under way and of the last ones
// that ended, by ID.
func (s *Server) Stats() []StreamStats {
	s.mu.Lock()
	list := slices.Clone(s.ended)
	active := make([]*publication, 0, len(s.active))
	for _, p := range s.active {
		active = append(active, p)
	}
	s.mu.Unlock()
	now := time.Now()
	for _, p := range active {
		st := p.meter.snapshot(now)
		st.Publish = p.Publish
		list = append(list, st)
	}
	slices.SortFunc(list, func(a, b StreamStats) int {
		switch {
		case a.ID < b.ID:
			return -1
		case a.ID > b.ID:
			return 1
		}
		return 0
	})
	// One that ended between the two looks is in both.
	return slices.CompactFunc(list, func(a, b StreamStats) bool { return a.ID == b.ID })
}

// Stat returns the figures of one publication that is under way.
func (s *Server) Stat(id uint64) (StreamStats, bool) {
	s.mu.Lock()
	p := s.active[id]
	s.mu.Unlock()
	if p == nil {
		return StreamStats{}, false
	}
	st := p.meter.snapshot(time.Now())
	st.Publish = p.Publish
	st.RTT = roundTrip(p.conn.raw)
	return st, true
}

// End sends the client of a publication away and tells it why. OnEnd gets why. What
// the client still sends is thrown away.
func (s *Server) End(id uint64, why *StatusError) {
	s.mu.Lock()
	p := s.active[id]
	s.mu.Unlock()
	if p != nil {
		p.conn.dismiss(why)
	}
}

// RequestReconnect asks the publisher of a publication to connect to tcURL and to
// leave this server when it has, as Enhanced RTMP has it; an empty tcURL means to
// come back here. Publishers that do not know it stay.
func (s *Server) RequestReconnect(id uint64, tcURL secret.String, description string) error {
	s.mu.Lock()
	p := s.active[id]
	s.mu.Unlock()
	if p == nil {
		return errors.New("the publication is over")
	}
	o := statusObject("status", "NetConnection.Connect.ReconnectRequest", description)
	if !tcURL.Empty() {
		o = append(o, amf0.ObjectEntry{Key: "tcUrl", Value: tcURL.Reveal()})
	}
	return p.conn.locked(func(w *chunkWriter) error { return w.command(chunkStreamCommand, 0, "onStatus", 0, nil, o) })
}

// serve runs one connection. It calls opened when a publication began.
func (s *Server) serve(ctx context.Context, raw net.Conn, opened func()) {
	c := &serverConn{server: s, raw: raw, conn: raw, opened: opened, openBy: time.Now().Add(openingTimeout)}
	defer func() { _ = raw.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	if s.TLS != nil {
		secured := tls.Server(raw, s.TLS)
		c.conn, c.secured = secured, true
		_ = raw.SetDeadline(c.openBy)
		if err := secured.HandshakeContext(ctx); err != nil {
			// What TLS calls a remote error is an alert: nearly always about our certificate.
			if alert := new(net.OpError); errors.As(err, &alert) && alert.Op == "remote error" {
				s.log().Warn("a client does not take the certificate", "remote", raw.RemoteAddr(), "why", alert.Err)
			} else {
				s.log().Debug("rtmps connection", "remote", raw.RemoteAddr(), "error", err)
			}
			return
		}
		_ = raw.SetDeadline(time.Time{})
	}
	err := c.run()
	if p := c.publication; p != nil {
		if ctx.Err() != nil {
			err = errors.New("the server stopped")
		}
		s.end(p, err)
	} else if err != nil && ctx.Err() == nil {
		s.log().Debug("rtmp connection ended before it published", "remote", raw.RemoteAddr(), "error", err)
	}
}

// begin admits a publication.
func (s *Server) begin(p *publication) error {
	if s.Check != nil {
		if err := s.Check(&p.Publish); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Unique {
		for _, other := range s.active {
			if other.App == p.App && other.Key.Equal(p.Key) {
				return &StatusError{Stage: StagePublish, Code: "NetStream.Publish.BadName", Description: "Already publishing"}
			}
		}
	}
	s.lastID++
	p.ID = s.lastID
	if s.RecordDir != "" {
		// The name must not come from the client alone: keys are secrets, and paths.
		name := fmt.Sprintf("%s-%04d-%s.flv", fileName(p.App), p.ID, p.Since.UTC().Format("20060102T150405.000"))
		p.Recording = filepath.Join(s.RecordDir, name)
	}
	if s.active == nil {
		s.active = make(map[uint64]*publication)
	}
	s.active[p.ID] = p
	return nil
}

// end takes a publication down.
func (s *Server) end(p *publication, err error) {
	if p.flv != nil {
		if ferr := errors.Join(p.buffered.Flush(), p.file.Close()); ferr != nil {
			s.log().Error("recording", "file", p.Recording, "error", ferr)
		}
	}
	now := time.Now()
	st := p.meter.snapshot(now)
	st.Publish = p.Publish
	st.Ended = now
	if err != nil {
		st.EndedBy = err.Error()
	}
	s.mu.Lock()
	delete(s.active, p.ID)
	s.ended = append(s.ended, st)
	if len(s.ended) > maxEnded {
		s.ended = slices.Delete(s.ended, 0, len(s.ended)-maxEnded)
	}
	s.mu.Unlock()
	ended := s.log().With("id", p.ID, "app", p.App, "remote", p.Remote)
	if err != nil {
		ended = ended.With("error", err)
	}
	ended.Info("rtmp publication ended")
	if s.OnEnd != nil {
		s.OnEnd(&p.Publish, err)
	}
}

// record opens the file of p, if it is to have one.
func (p *publication) record() error {
	if p.Recording == "" {
		return nil
	}
	file, err := os.OpenFile(p.Recording, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("recording: %w", err)
	}
	buffered := bufio.NewWriterSize(file, recordBuffer)
	flv, err := NewFLVWriter(buffered, true, true)
	if err != nil {
		_ = file.Close()
		return err
	}
	p.file, p.buffered, p.flv = file, buffered, flv
	return nil
}

// fileName makes app fit for a file's name.
func fileName(app string) string {
	app = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, app)
	return app[:min(len(app), 64)]
}

// message takes in an audio, video or data message.
func (s *Server) message(p *publication, m Message) {
	now := time.Now()
	p.meter.observe(m, now)
	if p.flv != nil {
		if err := p.flv.WriteMessage(m); err != nil {
			s.log().Error("recording stopped", "file", p.Recording, "error", err)
			_ = p.file.Close()
			p.flv = nil
		}
	}
	if s.OnMessage != nil {
		s.OnMessage(&p.Publish, m, now)
	}
}

// A serverConn is one connection. run's goroutine owns all of it but what mu
// guards.
type serverConn struct {
	server  *Server
	raw     net.Conn
	conn    net.Conn // raw or TLS over it
	secured bool
	openBy  time.Time // when it must publish
	opened  func()    // called when it does

	reader    *chunkReader
	dismissed atomic.Pointer[dismissal] // nil unless it is sent away

	mu     sync.Mutex // guards every write
	writer *chunkWriter
	broken bool // a write failed

	app, agent  string
	connected   bool
	streams     uint32 // created so far
	streamID    uint32 // of the publication
	publication *publication
	goodbye     bool // the client ended the publication
}

// errEnough ends a connection that has nothing left to do.
var errEnough = errors.New("connection is done")

// Read gives every read its deadline. Until it publishes a client has one for
// all of them, so that it cannot live on a byte now and then.
func (c *serverConn) Read(b []byte) (int, error) {
	deadline := c.openBy
	if c.publication != nil {
		deadline = time.Now().Add(orDefault(c.server.IdleTimeout, defaultIdleTimeout))
	}
	_ = c.raw.SetReadDeadline(deadline) // a closed connection fails in Read
	if d := c.dismissed.Load(); d != nil {
		_ = c.raw.SetReadDeadline(d.until)
	}
	return c.conn.Read(b)
}

func (c *serverConn) Write(b []byte) (int, error) {
	_ = c.raw.SetWriteDeadline(time.Now().Add(serverWriteTimeout)) // as above
	return c.conn.Write(b)
}

// run serves the connection until it ends; nil if the client said goodbye.
func (c *serverConn) run() error {
	br := bufio.NewReaderSize(c, 16<<10)
	version, err := br.Peek(1)
	if err != nil {
		return unexpected(err)
	}
	if version[0] != 3 {
		return protocolErrorf("handshake asks for version %d", version[0])
	}
	bw := bufio.NewWriter(c)
	if _, _, err := handshake.DoServer(&handshakeConn{br, bw}, false); err != nil {
		return fmt.Errorf("rtmp handshake: %w", unexpected(err))
	}
	if err := bw.Flush(); err != nil {
		return err
	}
	c.writer = newChunkWriter(c, nil)
	// Media of who may not publish would be nothing but memory.
	c.reader = newChunkReader(br, maxAMFBytes)
	c.reader.onAck = func(total uint32) error {
		// A client that has left already does not take it, and what it sent before counts.
		_ = c.locked(func(w *chunkWriter) error { return w.control(TypeAcknowledgement, total) })
		return nil
	}

	done := make(chan struct{})
	var pinger sync.WaitGroup
	pinger.Go(func() { c.ping(done) })
	defer pinger.Wait()
	defer close(done)

	for {
		m, err := c.reader.next()
		d := c.dismissed.Load()
		if err == nil && d == nil {
			err = c.handle(m)
		}
		switch {
		case err == nil:
		case d != nil:
			return d.why
		case c.goodbye, c.publication == nil && (errors.Is(err, errEnough) || errors.Is(err, io.EOF)):
			return nil
		default:
			return err
		}
	}
}

// ping asks the client for a sign of life every now and then.
func (c *serverConn) ping(done <-chan struct{}) {
	ticker := time.NewTicker(orDefault(c.server.PingInterval, defaultPingInterval))
	defer ticker.Stop()
	for n := uint32(1); ; n++ {
		select {
		case <-done:
			return
		case <-ticker.C:
			// If it does not get through, the reading side finds out.
			_ = c.locked(func(w *chunkWriter) error { return w.userControl(eventPingRequest, n) })
		}
	}
}

// locked writes with the mutex held. After an error nothing is written any more: a
// message may have been cut off. What the client sends is read on.
func (c *serverConn) locked(write func(*chunkWriter) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return net.ErrClosed
	}
	err := write(c.writer)
	c.broken = err != nil
	return err
}

func (c *serverConn) handle(m Message) error {
	switch m.Type {
	case TypeUserControl:
		if len(m.Body) < 6 {
			return nil
		}
		value := binary.BigEndian.Uint32(m.Body[2:])
		switch binary.BigEndian.Uint16(m.Body) {
		case eventPingRequest:
			_ = c.locked(func(w *chunkWriter) error { return w.userControl(eventPingResponse, value) }) // as with acknowledgements
		case eventPingResponse:
			if c.publication != nil {
				c.publication.meter.pong()
			}
		}
	case TypeCommand, TypeCommandAMF3:
		cmd, err := parseCommand(m.Type, m.Body)
		if err != nil {
			return nil //nolint:nilerr // the chunk stream is in step; unknown dialects are passed over
		}
		return c.command(cmd, m)
	case TypeAudio, TypeVideo, TypeData, TypeDataAMF3:
		if c.publication != nil && m.StreamID == c.streamID {
			c.publication.meter.faults(c.reader.extendedFaults)
			c.server.message(c.publication, m)
		}
	}
	return nil
}

func (c *serverConn) command(cmd command, m Message) error {
	if !c.connected && cmd.name != "connect" {
		return protocolErrorf("first command is not connect")
	}
	reply := func(name string, args ...any) error {
		return c.locked(func(w *chunkWriter) error { return w.command(chunkStreamCommand, m.StreamID, name, cmd.id, args...) })
	}
	switch cmd.name {
	case "connect":
		return c.connect(cmd)
	case "releaseStream", "FCPublish", "getStreamLength":
		return reply("_result", nil, amf0.Undefined{})
	case "createStream":
		if c.streams >= maxStreamsPerConn {
			return protocolErrorf("more than %d streams on a connection", maxStreamsPerConn)
		}
		c.streams++
		return reply("_result", nil, float64(c.streams))
	case "publish":
		return c.publish(cmd, m.StreamID)
	case "play", "play2":
		return c.refuse(m.StreamID, "NetStream.Play.StreamNotFound", "This server receives only")
	case "FCUnpublish", "closeStream", "deleteStream":
		if c.publication == nil {
			return nil
		}
		c.goodbye = true
		if cmd.name == "FCUnpublish" {
			return c.status(c.streamID, "status", "NetStream.Unpublish.Success", "Stream is now unpublished")
		}
		return errEnough
	}
	return nil
}

func (c *serverConn) connect(cmd command) error {
	var o amf0.Object
	if len(cmd.args) > 0 {
		o, _ = object(cmd.args[0])
	}
	app, ok := o.GetString("app")
	if !ok || c.connected {
		return protocolErrorf("connect is malformed or repeated")
	}
	c.app = app
	c.agent, _ = o.GetString("flashVer")
	c.connected = true

	properties := amf0.Object{{Key: "fmsVer", Value: "FMS/3,5,7,7009"}, {Key: "capabilities", Value: 31.0}}
	if a := c.server.Announce; a != nil {
		properties = append(properties, a.properties()...)
	}
	return c.locked(func(w *chunkWriter) error {
		return firstError(
			w.control(TypeWindowAckSize, windowAckBytes),
			w.write(chunkStreamControl, TypeSetPeerBandwidth, 0, 0, nil, append(binary.BigEndian.AppendUint32(nil, windowAckBytes), 2)),
			w.setChunkSize(ChunkSize),
			w.command(chunkStreamCommand, 0, "_result", cmd.id, properties, amf0.Object{
				{Key: "level", Value: "status"},
				{Key: "code", Value: "NetConnection.Connect.Success"},
				{Key: "description", Value: "Connection succeeded."},
				{Key: "objectEncoding", Value: 0.0},
			}),
		)
	})
}

// properties are those of the answer to connect that announce c.
func (c Capabilities) properties() amf0.Object {
	info := func(list []string) (o amf0.Object) {
		for _, s := range list {
			o = append(o, amf0.ObjectEntry{Key: s, Value: 1.0})
		}
		return o
	}
	var list amf0.StrictArray
	for _, s := range append(slices.Clone(c.VideoFourCCs), c.AudioFourCCs...) {
		list = append(list, s)
	}
	return amf0.Object{
		{Key: "fourCcList", Value: list},
		{Key: "videoFourCcInfoMap", Value: info(c.VideoFourCCs)},
		{Key: "audioFourCcInfoMap", Value: info(c.AudioFourCCs)},
		{Key: "capsEx", Value: float64(c.Flags)},
	}
}

func (c *serverConn) publish(cmd command, streamID uint32) error {
	if c.publication != nil || streamID == 0 || streamID > c.streams {
		return protocolErrorf("publish is repeated or names no stream")
	}
	app, query, _ := strings.Cut(c.app, "?")
	p := &publication{
		conn: c,
		Publish: Publish{
			App:      printable(app),
			AppQuery: secret.New(query),
			Key:      secret.New(cmd.text(1)),
			Remote:   c.raw.RemoteAddr().String(),
			Agent:    printable(c.agent),
			TLS:      c.secured,
			Since:    time.Now(),
		},
	}
	p.meter = newMeter(p.Since)
	if err := c.server.begin(p); err != nil {
		var status *StatusError
		if !errors.As(err, &status) {
			status = &StatusError{Code: "NetStream.Publish.Unauthorized", Description: err.Error()}
		}
		return c.refuse(streamID, status.Code, status.Description)
	}
	c.publication, c.streamID = p, streamID
	c.reader.maxMessage = orDefault(c.server.MaxMessageBytes, defaultMaxMessage)
	c.opened()
	if err := p.record(); err != nil {
		return err
	}
	begun := c.server.log().With("id", p.ID, "app", p.App, "remote", p.Remote, "agent", p.Agent)
	if p.Recording != "" {
		begun = begun.With("file", p.Recording)
	}
	begun.Info("rtmp publication begun")
	if c.server.OnPublish != nil {
		c.server.OnPublish(&p.Publish)
	}
	if err := c.locked(func(w *chunkWriter) error { return w.userControl(eventStreamBegin, streamID) }); err != nil {
		return err
	}
	return c.status(streamID, "status", "NetStream.Publish.Start", "Stream is now published")
}

// printable bounds and cleans what a client says of itself, for logs and terminals.
func printable(s string) string { return Target{}.redact(s) }

func (c *serverConn) status(streamID uint32, level, code, description string) error {
	return c.locked(func(w *chunkWriter) error {
		return w.command(chunkStreamCommand, streamID, "onStatus", 0, nil, statusObject(level, code, description))
	})
}

func statusObject(level, code, description string) amf0.Object {
	return amf0.Object{
		{Key: "level", Value: level},
		{Key: "code", Value: code},
		{Key: "description", Value: description},
	}
}

// refuse says no and ends the connection.
func (c *serverConn) refuse(streamID uint32, code, description string) error {
	if err := c.status(streamID, "error", code, description); err != nil {
		return err
	}
	// Leave the client the time to read it: a close with unread bytes resets.
	c.closeWrite()
	_ = c.raw.SetReadDeadline(time.Now().Add(leaveTime))
	_, _ = io.Copy(io.Discard, c.conn)
	return errEnough
}

func (c *serverConn) closeWrite() {
	if tcp, ok := c.raw.(*net.TCPConn); ok && !c.secured {
		_ = tcp.CloseWrite()
	}
}

// A dismissal is that a client is sent away.
type dismissal struct {
	why   *StatusError
	until time.Time // for the client to read it
}

// dismiss says why the publication ends; the reading goroutine ends it, soon after.
func (c *serverConn) dismiss(why *StatusError) {
	d := &dismissal{why, time.Now().Add(leaveTime)}
	if !c.dismissed.CompareAndSwap(nil, d) {
		return
	}
	_ = c.raw.SetReadDeadline(d.until) // Read, if it sets another at this moment, looks again
	if c.status(c.streamID, "error", why.Code, why.Description) == nil {
		c.closeWrite()
	}
}
