package rtmp

import (
	"bufio"
	"strings"

	"github.com/bluenviron/gortmplib/pkg/amf0"
	"github.com/bluenviron/gortmplib/pkg/handshake"
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

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
