package rtmp

import (
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/bluenviron/gortmplib/pkg/amf0"

	"github.com/headgate/gateway/sdk/secret"
)

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
			Remote:   c.remote(),
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

// refuse says no and ends the connection.
func (c *serverConn) refuse(streamID uint32, code, description string) error {
	if err := c.status(streamID, "error", code, description); err != nil {
		return err
	}
	c.closeWrite()
	c.linger()
	return errEnough
}

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
