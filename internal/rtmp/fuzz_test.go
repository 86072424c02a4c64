package rtmp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// FuzzPackets takes audio and video messages apart: what comes out lies within what
// went in.
func FuzzPackets(f *testing.F) {
	for _, tag := range []*Tag{
		H264Tag([]byte("picture"), true, -40), VideoTag(media.H265, 2, []byte("picture"), false, 3), VideoHeaderTag(media.AV1, 0, []byte{0x81, 0, 0, 0}),
		AACTag([]byte("sound")), AudioTag(media.Opus, 1, []byte("sound")), AudioHeaderTag(media.Opus, 0, []byte("OpusHead")),
	} {
		f.Add(tag.typ == TypeVideo, tag.AppendTo(nil))
	}
	f.Add(true, []byte{0x97, 2, 0, 0, 9, 1, 'h', 'v', 'c', '1', 0, 0, 0}) // ModEx
	f.Add(true, []byte{0x96, 0x11, 'h', 'v', 'c', '1', 0, 0, 0, 4, 0, 0, 0, 1, 1, 0, 0, 3, 0, 0, 0})
	f.Add(false, []byte{0x95, 0x21, 'O', 'p', 'u', 's', 0, 0, 0, 1, 'x', 'm', 'p', '4', 'a', 1, 0, 0, 1, 'y'})
	f.Fuzz(func(t *testing.T, video bool, body []byte) {
		m := Message{Type: TypeAudio, Body: body}
		if video {
			m.Type = TypeVideo
		}
		list, _ := Packets(nil, m)
		total := 0
		for _, p := range list {
			total += len(p.Payload)
			if p.Offset < 0 || p.Offset >= time.Millisecond {
				t.Errorf("offset %v", p.Offset)
			}
			if p.Codec != "" && (p.Codec.Kind() == media.Video) != video {
				t.Errorf("%s in a message of the other kind", p.Codec)
			}
		}
		if total > len(body) || len(list) > maxPackets {
			t.Errorf("%d packets of %d bytes out of %d", len(list), total, len(body))
		}
		newMeter(time.Now()).observe(m, time.Now())
		if video {
			_, _ = VP9Config(body)
		}
	})
}

// FuzzPublisher lets a server say anything after its handshake, once before and once
// after the publication was accepted: the client ends or goes on, in time, and tells
// no secret.
func FuzzPublisher(f *testing.F) {
	var b bytes.Buffer
	w := newChunkWriter(&b, nil)
	_ = w.command(3, 0, "_result", idConnect, nil, status("status", "NetConnection.Connect.Success", ""))
	_ = w.command(3, 0, "_result", idCreateStream, nil, 1.0)
	_ = w.command(3, 0, "onStatus", 0, nil, status("status", "NetStream.Publish.Start", ""))
	_ = w.userControl(eventPingRequest, 7)
	_ = w.command(3, 0, "onStatus", 0, nil, status("status", "NetConnection.Connect.ReconnectRequest", testKey))
	f.Add(b.Bytes())
	b.Reset()
	w = newChunkWriter(&b, nil)
	_ = w.setChunkSize(1)
	_ = w.command(3, 0, "_error", idConnect, nil, status("error", "NetConnection.Connect.Rejected", "[ authmod=adobe ] : ?reason=needauth&salt=a&challenge="+testKey))
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, said []byte) {
		target := parse(t, "rtmp://user:"+testPass+"@127.0.0.1/app?"+testQuery, testKey)
		c := &Conn{
			target: target, stream: discardConn{}, done: make(chan struct{}), failed: make(chan struct{}),
			reconnect: make(chan ReconnectRequest, 1),
		}
		c.writer = newChunkWriter(discardConn{}, nil)
		c.reader = newChunkReader(bufio.NewReader(bytes.NewReader(said)), maxClientMessage)
		c.reader.onAck = func(uint32) error { return nil }
		_, err := c.negotiate(testKey)
		var errs []error
		if err != nil {
			errs = append(errs, err)
			var refused *connectRefusedError
			if errors.As(err, &refused) {
				_, err := refused.next(target)
				errs = append(errs, err)
			}
		}
		for {
			m, err := c.reader.next()
			if err != nil {
				break
			}
			if cmd, ok := c.handle(m); ok {
				c.heard(cmd)
			}
		}
		if c.Err() != nil {
			errs = append(errs, c.Err())
		}
		for _, err := range errs {
			// A server that says nearly a secret, as a mutation of the seeds does, has not
			// learned it from us.
			for _, s := range []string{testPass, testQuery, testKey} {
				if err != nil && strings.Contains(err.Error(), s) {
					t.Errorf("the error tells the secret %s: %v", s, err)
				}
			}
			_ = Class(err)
		}
	})
}

// FuzzProxy lets a proxy answer anything.
func FuzzProxy(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"), false)
	f.Add([]byte("HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\nSorry"), false)
	f.Add([]byte{5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0}, true)
	f.Fuzz(func(t *testing.T, answer []byte, socks bool) {
		p, err := ParseProxy(secret.New("http://u:SECRET@h"))
		if err != nil {
			t.Fatal(err)
		}
		if socks {
			p.kind, p.user = "socks5", ""
		}
		if err := p.connect(context.Background(), &answering{r: bytes.NewReader(answer)}, "server.invalid:1935"); err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Errorf("the error tells a secret: %v", err)
		}
	})
}

// An answering is a connection that swallows what is written.
type answering struct {
	discardConn
	r *bytes.Reader
}

func (c *answering) Read(b []byte) (int, error) { return c.r.Read(b) }
