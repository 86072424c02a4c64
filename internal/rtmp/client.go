package rtmp

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bluenviron/gortmplib/pkg/amf0"
	"github.com/bluenviron/gortmplib/pkg/handshake"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// Times and sizes of a publishing connection.
const (
	defaultDialTimeout  = 10 * time.Second
	defaultStallTimeout = 3 * time.Second
	goodbyeTimeout      = time.Second
	windowAckBytes      = 2_500_000
	maxClientMessage    = 1 << 20 // servers send publishers nothing big
)

// Bits of capsEx: capsReconnect says that we understand
// [ReconnectRequest], capsMultitrack that we send several tracks of a kind.
const (
	capsReconnect  = 1
	capsMultitrack = 2
)

// flashVersion is what encoders say: some servers treat others as players.
const flashVersion = "FMLE/3.0 (compatible; Headgate)"

// Transaction ids of the commands, fixed because each is sent once.
const (
	idConnect       = 1
	idReleaseStream = 2
	idFCPublish     = 3
	idCreateStream  = 4
	idPublish       = 5
	idFCUnpublish   = 6
	idDeleteStream  = 7
)

// A ClientConfig says where and how to publish.
type ClientConfig struct {
	Target Target
	// RootCAs verify an rtmps server; nil means those of the system.
	RootCAs *x509.CertPool
	// Fingerprint, if set, is that of the one certificate that an rtmps server may
	// show; nothing else of it is verified then.
	Fingerprint Fingerprint
	// Certificate is shown to an rtmps server that asks for one; nil for none.
	Certificate *tls.Certificate
	// Bind is the local address to connect from; the zero value leaves the choice to
	// the system.
	Bind netip.Addr
	// Proxy is what the connection is made through; nil for none.
	Proxy *Proxy
	// DialTimeout bounds [Dial] beside its context; 0 means 10 s.
	DialTimeout time.Duration
	// StallTimeout is how long the peer may acknowledge none of the bytes that wait
	// for it; 0 means 3 s. A peer that is slow but takes bytes is not cut off.
	StallTimeout time.Duration
	// lookup resolves names; nil for the system's resolver.
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// Control is called with each address right before it is connected to, and may
	// refuse it; as in [net.Dialer]. Nil refuses none.
	Control func(network, address string, c syscall.RawConn) error
}

// Capabilities are what a server says of itself in its answer to connect. A
// server of before Enhanced RTMP says nothing.
type Capabilities struct {
	// Enhanced says that it announced any of the below.
	Enhanced bool
	// VideoFourCCs and AudioFourCCs are the codecs it takes, as in hvc1 and Opus;
	// "*" stands for every codec.
	VideoFourCCs, AudioFourCCs []string
	// Flags are the bits of capsEx.
	Flags uint32
}

// Takes reports whether the server announced c.
func (c Capabilities) Takes(codec media.Codec) bool {
	list := c.VideoFourCCs
	if codec.Kind() == media.Audio {
		list = c.AudioFourCCs
	}
	name := FourCC(codec)
	return name != "" && (slices.Contains(list, name) || slices.Contains(list, "*"))
}

// Multitrack reports whether the server announced that it takes several tracks of a
// kind.
func (c Capabilities) Multitrack() bool { return c.Flags&capsMultitrack != 0 }

// A Conn is a connection that publishes one stream.
//
// WriteTag, Close and the goroutine that reads share one mutex for everything
// that is written. Closed, Err, Stats and Capabilities may be called at any time.
type Conn struct {
	target   Target
	sock     *socket
	stream   net.Conn // sock, or TLS over it
	reader   *chunkReader
	caps     Capabilities
	streamID uint32

	mu     sync.Mutex // guards every write
	writer *chunkWriter
	broken bool // a message was cut off: nothing sensible can follow

	peerAcked atomic.Uint32
	reconnect chan ReconnectRequest // the newest
	done      chan struct{}         // closed when the reading goroutine is through
	failed    chan struct{}         // closed after failure is set
	failOnce  sync.Once
	failure   error
}

// Dial connects to the target and returns when the server has accepted the
// publication. Errors are *[StatusError] when the server said no, and
// *[StageError] otherwise. ctx bounds Dial alone.
func Dial(ctx context.Context, cfg ClientConfig) (*Conn, error) {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = defaultDialTimeout
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = defaultStallTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()

	// Each round of authentication is a connection of its own.
	query := ""
	for range 3 {
		c, err := dialOnce(ctx, cfg, query)
		if err == nil {
			return c, nil
		}
		var refused *connectRefusedError
		if !errors.As(err, &refused) {
			return nil, err
		}
		if query, err = refused.next(cfg.Target); err != nil {
			return nil, err
		}
	}
	return nil, &StatusError{Stage: StageConnect, Description: "authmod: the server asks for user and password again and again"}
}

// connectRefusedError is a refused connect, unredacted: it may hold a challenge.
type connectRefusedError struct{ code, description string }

func (e *connectRefusedError) Error() string { return "connect refused" }

// next returns the query that answers the challenge, or the error if there is
// none or no answer to it.
func (e *connectRefusedError) next(t Target) (string, error) {
	status := &StatusError{Stage: StageConnect, Code: t.redact(e.code), Description: t.redact(e.description)}
	challenge, ok := parseAuthChallenge(e.description)
	if !ok {
		return "", status
	}
	switch {
	case t.User == "":
		status.Description = "authmod: the server asks for user and password; write them into the URL: rtmp://user:password@host"
		return "", status
	case challenge.failed:
		status.Description = "authfailed: the server refuses the user or the password"
		return "", status
	}
	app, _, _ := strings.Cut(t.App.Reveal(), "?")
	query, ok := challenge.answer(t.User, t.Password.Reveal(), app)
	if !ok {
		status.Description = "authmod: the server asks for an authentication that is neither adobe nor llnw"
		return "", status
	}
	return query, nil
}

func dialOnce(ctx context.Context, cfg ClientConfig, authQuery string) (*Conn, error) {
	t := cfg.Target
	fail := func(stage Stage, err error) error {
		if errors.Is(err, errServerClosed) {
			err = errGuess{err, stage}
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				err = errNoAnswer{err}
			}
		}
		if cfg.Proxy != nil && (stage == StageDNS || stage == StageTCP || stage == StageProxy) {
			err = fmt.Errorf("proxy %s: %w", cfg.Proxy, err)
		}
		return &StageError{Stage: stage, Host: t.Address(), Err: err}
	}

	to := t.Address()
	if cfg.Proxy != nil {
		to = cfg.Proxy.address
	}
	raw, stage, err := cfg.connect(ctx, to)
	if err != nil {
		return nil, fail(stage, err)
	}
	c := &Conn{
		target:    t,
		sock:      newSocket(raw, cfg.StallTimeout),
		done:      make(chan struct{}),
		failed:    make(chan struct{}),
		reconnect: make(chan ReconnectRequest, 1),
	}
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	c.stream = c.sock
	if cfg.Proxy != nil {
		if err := cfg.Proxy.connect(ctx, c.sock, t.Address()); err != nil {
			stop()
			_ = c.sock.Close()
			return nil, fail(StageProxy, err)
		}
	}
	if t.TLS {
		secured := tls.Client(c.sock, cfg.tlsConfig())
		if err := secured.HandshakeContext(ctx); err != nil {
			stop()
			_ = c.sock.Close()
			return nil, fail(StageTLS, err)
		}
		c.stream = secured
	}
	stage, err = c.open(authQuery)
	if stage == StageHandshake && t.TLS && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
		// What the server thinks of how it is secured may wait behind a reset.
		if _, alert := c.stream.Read(make([]byte, 1)); isTLSAlert(alert) {
			err = alert
		}
	}
	if !stop() {
		// ctx ended, and with it the connection.
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.sock.Close()
		var refused *connectRefusedError
		var status *StatusError
		if ctx.Err() == nil && (errors.As(err, &refused) || errors.As(err, &status)) {
			return nil, err
		}
		return nil, fail(stage, err)
	}
	go c.readLoop()
	return c, nil
}

// errServerClosed is an end of the connection that the server brought about
// without a word.
var errServerClosed = errors.New("the server closed the connection")

// errGuess adds what a close at a stage mostly means.
type errGuess struct {
	error
	stage Stage
}

func (e errGuess) Error() string {
	switch e.stage {
	case StageConnect:
		return e.error.Error() + "; it may not know the app"
	case StageCreateStream, StagePublish:
		return e.error.Error() + "; it may refuse the stream key"
	default:
		return e.error.Error()
	}
}

func (e errGuess) Unwrap() error { return e.error }

// errNoAnswer words a deadline for people.
type errNoAnswer struct{ error }

func (e errNoAnswer) Error() string { return "no answer in time" }
func (e errNoAnswer) Unwrap() error { return e.error }

// open does what comes before media. It returns the stage at which it failed.
func (c *Conn) open(authQuery string) (Stage, error) {
	br := bufio.NewReader(c.stream)
	bw := bufio.NewWriter(c.stream)
	if _, _, err := handshake.DoClient(&handshakeConn{br, bw}, false, false); err != nil {
		return StageHandshake, unexpected(err)
	}
	// What is left in bw is C2; it travels with connect.
	c.writer = newChunkWriter(bw, nil)
	c.reader = newChunkReader(br, maxClientMessage)
	c.reader.onAck = func(total uint32) error {
		return c.locked(func(w *chunkWriter) error { return w.control(TypeAcknowledgement, total) })
	}

	app := c.target.App.Reveal()
	if authQuery != "" {
		separator := "?"
		if strings.Contains(app, "?") {
			separator = "&"
		}
		app += separator + authQuery
	}
	key := c.target.Key.Reveal()

	err := firstError(
		c.writer.control(TypeWindowAckSize, windowAckBytes),
		c.writer.setChunkSize(ChunkSize),
		c.writer.command(chunkStreamCommand, 0, "connect", idConnect, connectObject(app, c.target.tcURL(app))),
		bw.Flush(),
	)
	if err != nil {
		return StageConnect, err
	}
	// From here on nothing is buffered.
	c.writer.w = c.stream
	if !c.target.TLS {
		c.writer.vector = c.sock
	}
	return c.negotiate(key)
}

// negotiate goes from the connect command, which is sent, to the publication. It
// returns the stage at which it failed.
func (c *Conn) negotiate(key string) (Stage, error) {
	reply, err := c.await(func(m command) bool { return m.id == idConnect && isReply(m) })
	if err != nil {
		return StageConnect, err
	}
	if reply.name != "_result" {
		_, code, description := reply.status()
		return StageConnect, &connectRefusedError{code, description}
	}
	c.caps = parseCapabilities(reply)

	// The first two are courtesies; a server may refuse them without meaning it.
	err = c.locked(func(w *chunkWriter) error {
		return firstError(
			w.command(chunkStreamCommand, 0, "releaseStream", idReleaseStream, nil, key),
			w.command(chunkStreamCommand, 0, "FCPublish", idFCPublish, nil, key),
			w.command(chunkStreamCommand, 0, "createStream", idCreateStream, nil),
		)
	})
	if err != nil {
		return StageCreateStream, err
	}
	reply, err = c.await(func(m command) bool { return m.id == idCreateStream && isReply(m) || isRefusal(m) })
	if err != nil {
		return StageCreateStream, err
	}
	streamID, ok := reply.number(1)
	if reply.name != "_result" || !ok {
		return StageCreateStream, c.refusal(StageCreateStream, reply)
	}
	c.streamID = streamID

	err = c.locked(func(w *chunkWriter) error {
		return w.command(chunkStreamData, streamID, "publish", idPublish, nil, key, "live")
	})
	if err != nil {
		return StagePublish, err
	}
	reply, err = c.await(func(m command) bool {
		_, code, _ := m.status()
		return m.name == "onStatus" && code == "NetStream.Publish.Start" || m.id == idPublish && m.name == "_error" || isRefusal(m)
	})
	if err != nil {
		return StagePublish, err
	}
	if _, code, _ := reply.status(); code != "NetStream.Publish.Start" {
		return StagePublish, c.refusal(StagePublish, reply)
	}
	return StageLive, nil
}

func isReply(m command) bool { return m.name == "_result" || m.name == "_error" }

// isRefusal: some servers refuse a key with onStatus, before or instead of a
// reply. An _error for another transaction is not one.
func isRefusal(m command) bool {
	level, _, _ := m.status()
	return m.name == "onStatus" && level == "error"
}

func (c *Conn) refusal(stage Stage, m command) error {
	_, code, description := m.status()
	return &StatusError{Stage: stage, Code: c.target.redact(code), Description: c.target.redact(description)}
}

// handshakeConn lets the handshake's many small writes leave together: what is
// written is flushed when an answer is wanted.
type handshakeConn struct {
	r *bufio.Reader
	w *bufio.Writer
}

func (h *handshakeConn) Write(b []byte) (int, error) { return h.w.Write(b) }

func (h *handshakeConn) Read(b []byte) (int, error) {
	if err := h.w.Flush(); err != nil {
		return 0, err
	}
	return h.r.Read(b)
}

// connectObject is the argument of connect. It names what the normal form of the
// gateway can carry through Enhanced RTMP; what is then sent is decided by what
// the server answers.
func connectObject(app, tcURL string) amf0.Object {
	const canForward = 4.0
	fourCCs := func(names ...string) (o amf0.Object) {
		for _, n := range names {
			o = append(o, amf0.ObjectEntry{Key: n, Value: canForward})
		}
		return o
	}
	video, audio := fourCCs("avc1", "hvc1", "av01", "vp09"), fourCCs("mp4a", "Opus", ".mp3")
	var list amf0.StrictArray
	for _, e := range append(video[:len(video):len(video)], audio...) {
		list = append(list, e.Key)
	}
	return amf0.Object{
		{Key: "app", Value: app},
		{Key: "type", Value: "nonprivate"},
		{Key: "flashVer", Value: flashVersion},
		{Key: "swfUrl", Value: tcURL},
		{Key: "tcUrl", Value: tcURL},
		{Key: "fourCcList", Value: list},
		{Key: "videoFourCcInfoMap", Value: video},
		{Key: "audioFourCcInfoMap", Value: audio},
		{Key: "capsEx", Value: float64(capsReconnect | capsMultitrack)},
	}
}

// parseCapabilities reads what the answer to connect announces, in whichever of
// its objects.
func parseCapabilities(reply command) Capabilities {
	var caps Capabilities
	for _, a := range reply.args {
		o, ok := object(a)
		if !ok {
			continue
		}
		if v, ok := o.Get("fourCcList"); ok {
			if list, ok := v.(amf0.StrictArray); ok {
				caps.Enhanced = true
				for _, e := range list {
					if s, ok := e.(string); ok {
						caps.add(s)
					}
				}
			}
		}
		for _, key := range []string{"videoFourCcInfoMap", "audioFourCcInfoMap"} {
			v, _ := o.Get(key)
			entries, ok := object(v)
			if !ok {
				continue
			}
			caps.Enhanced = true
			for _, e := range entries {
				if key == "videoFourCcInfoMap" {
					caps.VideoFourCCs = appendNew(caps.VideoFourCCs, e.Key)
				} else {
					caps.AudioFourCCs = appendNew(caps.AudioFourCCs, e.Key)
				}
			}
		}
		if f, ok := o.GetFloat64("capsEx"); ok && f >= 0 && f < 1<<32 {
			caps.Enhanced = true
			caps.Flags = uint32(f)
		}
	}
	return caps
}

// add sorts an entry of a fourCcList, which mixes both kinds.
func (c *Capabilities) add(fourCC string) {
	switch fourCC {
	case "*":
		c.VideoFourCCs = appendNew(c.VideoFourCCs, fourCC)
		c.AudioFourCCs = appendNew(c.AudioFourCCs, fourCC)
	case "ac-3", "ec-3", "Opus", ".mp3", "fLaC", "mp4a":
		c.AudioFourCCs = appendNew(c.AudioFourCCs, fourCC)
	default:
		c.VideoFourCCs = appendNew(c.VideoFourCCs, fourCC)
	}
}

func appendNew(list []string, s string) []string {
	if len(s) > 8 || len(list) >= 32 {
		return list
	}
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// locked writes with the mutex held. An error leaves the connection broken: a
// message may have been cut off.
func (c *Conn) locked(write func(*chunkWriter) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return net.ErrClosed
	}
	err := write(c.writer)
	if err != nil {
		c.broken = true
	}
	return err
}

// await reads until a command that matches.
func (c *Conn) await(match func(command) bool) (command, error) {
	for {
		m, err := c.reader.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errServerClosed
			}
			return command{}, err
		}
		if cmd, ok := c.handle(m); ok && match(cmd) {
			return cmd, nil
		}
	}
}

// handle answers what needs an answer and returns commands. A message that
// cannot be understood is passed over: the chunk stream is in step all the same.
func (c *Conn) handle(m Message) (command, bool) {
	switch m.Type {
	case TypeUserControl:
		if len(m.Body) >= 6 && binary.BigEndian.Uint16(m.Body) == eventPingRequest {
			value := binary.BigEndian.Uint32(m.Body[2:])
			_ = c.locked(func(w *chunkWriter) error { return w.userControl(eventPingResponse, value) }) // the next write fails too
		}
	case TypeAcknowledgement:
		if len(m.Body) == 4 {
			c.peerAcked.Store(binary.BigEndian.Uint32(m.Body))
		}
	case TypeSetPeerBandwidth:
		_ = c.locked(func(w *chunkWriter) error { return w.control(TypeWindowAckSize, windowAckBytes) }) // as above
	case TypeCommand, TypeCommandAMF3:
		if cmd, err := parseCommand(m.Type, m.Body); err == nil {
			return cmd, true
		}
	}
	return command{}, false
}

// readLoop reads until the connection ends. It is the one goroutine that a Conn
// owns; Close waits for it.
func (c *Conn) readLoop() {
	defer close(c.done)
	for {
		m, err := c.reader.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errServerClosed
			}
			c.fail(&StageError{Stage: StageLive, Host: c.target.Address(), Err: err})
			c.sock.abort() // a write that waits for this peer waits in vain
			return
		}
		if cmd, ok := c.handle(m); ok {
			c.heard(cmd)
		}
	}
}

// heard takes in a command of a server that publishes us.
func (c *Conn) heard(cmd command) {
	_, code, description := cmd.status()
	switch {
	case code == "NetConnection.Connect.ReconnectRequest":
		c.ask(ReconnectRequest{Description: c.target.redact(description), TCURL: reconnectURL(cmd)})
	case isRefusal(cmd), cmd.name == "close", code == "NetConnection.Connect.Closed":
		c.fail(c.refusal(StageLive, cmd))
	}
}

// A ReconnectRequest is the server's wish that the client connects anew and leaves
// this connection when it has, as Enhanced RTMP has it.
type ReconnectRequest struct {
	Description string
	// TCURL is where to; empty means the same place.
	TCURL secret.String
}

// ask passes a request on. One that nobody has looked at yet is replaced.
func (c *Conn) ask(r ReconnectRequest) {
	select {
	case <-c.reconnect:
	default:
	}
	c.reconnect <- r // the reading goroutine is the only one that sends
}

// ReconnectRequests has a value when the server asked for it.
func (c *Conn) ReconnectRequests() <-chan ReconnectRequest { return c.reconnect }

func reconnectURL(cmd command) secret.String {
	for _, a := range cmd.args {
		if o, ok := object(a); ok {
			if s, ok := o.GetString("tcUrl"); ok {
				return secret.New(s)
			}
		}
	}
	return secret.String{}
}

func (c *Conn) fail(err error) {
	c.failOnce.Do(func() {
		c.failure = err
		close(c.failed)
	})
}

// Failed is closed when the connection has failed by itself; Err says why.
func (c *Conn) Failed() <-chan struct{} { return c.failed }

// Err says why Failed is closed; nil before.
func (c *Conn) Err() error {
	select {
	case <-c.failed:
		return c.failure
	default:
		return nil
	}
}

// Capabilities returns what the server announced.
func (c *Conn) Capabilities() Capabilities { return c.caps }

// WriteTag sends t, stamped with timestampMS. It blocks while the socket is full
// and fails when the peer takes nothing for the write timeout.
func (c *Conn) WriteTag(t *Tag, timestampMS uint32) error {
	chunkStream := byte(chunkStreamData)
	switch t.typ {
	case TypeAudio:
		chunkStream = chunkStreamAudio
	case TypeVideo:
		chunkStream = chunkStreamVideo
	}
	if err := c.Err(); err != nil {
		return err
	}
	err := c.locked(func(w *chunkWriter) error {
		return w.write(chunkStream, t.typ, c.streamID, timestampMS, t.head[:t.headLen], t.payload)
	})
	if err != nil {
		// What the server said last says more than a broken pipe does.
		if failure := c.Err(); failure != nil {
			return failure
		}
		if isTimeout(err) {
			err = errStalled
		}
		return &StageError{Stage: StageLive, Host: c.target.Address(), Err: err}
	}
	return nil
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// Abort makes writes fail at once, the one under way included. [Conn.Close] must
// follow.
func (c *Conn) Abort() { c.sock.abort() }

// ConnStats are the figures of a connection.
type ConnStats struct {
	SocketStats
	// PeerAcknowledged is what the server's last RTMP acknowledgement said:
	// received bytes modulo 2^32. 0 if it sent none.
	PeerAcknowledged uint32
}

// Stats asks the kernel how the connection does.
func (c *Conn) Stats() ConnStats {
	return ConnStats{SocketStats: c.sock.stats(), PeerAcknowledged: c.peerAcked.Load()}
}

// Close tells the server that the stream ends, waits until it has taken all
// bytes, but a second at most, and closes the connection. The error says that
// this farewell did not get through.
func (c *Conn) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, goodbyeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		// The kernel must not go on with half a message.
		c.sock.abort()
		c.sock.interrupt()
	})
	defer stop()

	err := c.Err()
	if err == nil {
		err = c.locked(func(w *chunkWriter) error {
			key := c.target.Key.Reveal()
			return firstError(
				w.command(chunkStreamCommand, 0, "FCUnpublish", idFCUnpublish, nil, key),
				w.command(chunkStreamCommand, 0, "deleteStream", idDeleteStream, nil, float64(c.streamID)),
			)
		})
	}
	if err == nil {
		// Closing with unread bytes would reset the connection and could cost the
		// server the end of the stream: say goodbye and read on until it closes.
		if secured, ok := c.stream.(*tls.Conn); ok {
			_ = secured.CloseWrite()
		}
		_ = c.sock.CloseWrite()
		<-c.done
	} else {
		_ = c.sock.SetLinger(0)
	}
	_ = c.sock.Close()
	<-c.done
	if err != nil {
		return &StageError{Stage: StageLive, Host: c.target.Address(), Err: err}
	}
	return nil
}
