package main

import (
	"context"
	"strings"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/internal/whipclient"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/secret"
)

// lateAfter is when a unit that is sent counts as late.
const lateAfter = 5 * time.Millisecond

// overRTMP reports whether the URL is one of RTMP.
func overRTMP(url string) bool {
	return strings.HasPrefix(url, "rtmp://") || strings.HasPrefix(url, "rtmps://")
}

// publishRTMP is publish over RTMP. The token is the stream key.
func publishRTMP(ctx context.Context, cfg whipclient.Config, stream int, log *events) error {
	target, err := rtmp.ParseTarget(secret.New(cfg.URL), cfg.Token)
	if err != nil {
		return err
	}
	posted := time.Now()
	conn, err := rtmp.Dial(ctx, rtmp.ClientConfig{Target: target})
	if err != nil {
		log.say(Event{Event: "refused", Stream: stream, Error: err.Error()})
		return err
	}
	log.say(Event{Event: "published", Stream: stream, At: posted})
	p := &rtmpPlayer{conn: conn, posted: posted, timing: cfg.Timing}
	err = p.play(ctx, cfg, func(e Event) { e.Stream = stream; log.say(e) })
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if cerr := conn.Close(bye); err == nil {
		err = cerr
	}
	if err != nil {
		log.say(Event{Event: "lost", Stream: stream, Error: err.Error()})
		return err
	}
	log.say(Event{Event: "ended", Stream: stream})
	return nil
}

// An rtmpPlayer sends media over a connection.
type rtmpPlayer struct {
	conn   *rtmp.Conn
	posted time.Time
	timing bool

	pictures, packets, late uint64
}

// play sends the media in real time, over and over, until ctx ends.
func (p *rtmpPlayer) play(ctx context.Context, cfg whipclient.Config, say func(Event)) error {
	list := []*whipclient.Media{cfg.Video}
	if cfg.Audio != nil {
		list = append(list, cfg.Audio)
	}
	for _, m := range list {
		tag := rtmp.AudioHeaderTag(m.Track.Codec, 0, m.Track.DecoderConfig)
		if m.Track.Codec.Kind() == media.Video {
			tag = rtmp.VideoHeaderTag(m.Track.Codec, 0, m.Track.DecoderConfig)
		}
		if len(m.Track.DecoderConfig) == 0 {
			continue
		}
		if err := p.conn.WriteTag(tag, 0); err != nil {
			return err
		}
	}
	start, said := time.Now(), time.Now()
	next := make([]int, len(list))
	for {
		i := 0
		at := func(i int) time.Duration { return due(list[i], next[i], cfg.Length) }
		if len(list) > 1 && at(1) < at(0) {
			i = 1
		}
		when := at(i)
		if !pause(ctx, time.Until(start.Add(when))) {
			return nil
		}
		if err := p.conn.Err(); err != nil {
			return err
		}
		if time.Since(start.Add(when)) > lateAfter {
			p.late++
		}
		if err := p.send(list[i], next[i], when); err != nil {
			return err
		}
		next[i]++
		if time.Since(said) >= time.Second {
			said = time.Now()
			say(Event{Event: "stats", Pictures: p.pictures, Packets: p.packets, Late: p.late})
		}
	}
}

// due is when unit n of a medium is to be sent that begins anew after length.
func due(m *whipclient.Media, n int, length time.Duration) time.Duration {
	round := time.Duration(n/len(m.Units)) * length
	return round + m.Units[n%len(m.Units)].DTS
}

func (p *rtmpPlayer) send(m *whipclient.Media, n int, at time.Duration) error {
	u := m.Units[n%len(m.Units)]
	ms := uint32(at.Milliseconds())
	if m.Track.Codec.Kind() == media.Audio {
		p.packets++
		return p.conn.WriteTag(rtmp.AudioTag(m.Track.Codec, 0, u.Payload), ms)
	}
	p.pictures++
	payload := u.Payload
	if p.timing && m.Track.Codec == media.H264 {
		t := whipclient.Timing{Sent: time.Now(), Posted: p.posted, Frame: p.pictures}
		payload = append(h264.AppendLengthPrefixed(nil, t.NALU()), payload...)
	}
	return p.conn.WriteTag(rtmp.VideoTag(m.Track.Codec, 0, payload, u.RandomAccess, int32((u.PTS-u.DTS).Milliseconds())), ms)
}
