package egresssrt

import (
	"context"
	"sync"
	"time"

	"github.com/headgate/gateway/internal/srt"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

// A carried is the part of a session's state that says what to do with a unit.
type carried struct{ tracks []media.Track }

func (c carried) kind(id media.TrackID) media.Kind {
	for _, t := range c.tracks {
		if t.ID == id {
			return t.Codec.Kind()
		}
	}
	return media.UnknownKind
}

// hasVideo reports whether there is a picture to wait for.
func (c carried) hasVideo() bool {
	for _, t := range c.tracks {
		if t.Codec.Kind() == media.Video {
			return true
		}
	}
	return false
}

// A caller is the session of a target that is called.
type caller struct {
	takes  sdk.Accepts
	conn   *srt.Conn
	player *player
	carried
	begun bool // there was a random access point, or there is no picture

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func openCaller(ctx context.Context, target sdk.Target, at srt.Address, opts Options, tracks []media.Track) (sdk.Sink, error) {
	conn, err := srt.Dial(ctx, at, target.Control)
	if err != nil {
		return nil, explain(err)
	}
	p, err := newPlayer(conn, tracks, opts.MuxRate, logger(target))
	if err != nil {
		conn.Close()
		return nil, configError(err)
	}
	c := &caller{takes: accepts(tracks), conn: conn, player: p, carried: carried{tracks}}
	run, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.wg.Go(conn.Discard)
	c.wg.Go(func() { p.run(run) })
	return c, nil
}

// WriteAccessUnit implements [sdk.Sink].
func (c *caller) WriteAccessUnit(ctx context.Context, u *media.AccessUnit) error {
	kind := c.kind(u.Track)
	if kind == media.UnknownKind {
		return nil
	}
	if kind == media.Video && !c.begun {
		if !u.RandomAccess {
			return nil
		}
		c.begun = true
	}
	if err := c.player.write(ctx, u, kind == media.Video, !c.hasVideo()); err != nil {
		return explain(err)
	}
	return nil
}

// SetTracks implements [sdk.TrackSetter].
func (c *caller) SetTracks(_ context.Context, tracks []media.Track) error {
	if err := checkTracks(tracks); err != nil {
		return err
	}
	if err := c.player.setTracks(tracks); err != nil {
		return configError(err)
	}
	c.tracks = tracks
	return nil
}

// Close implements [sdk.Sink].
func (c *caller) Close(ctx context.Context) error {
	c.player.drain(ctx)
	c.cancel()
	c.conn.Close()
	c.wg.Wait()
	return nil
}

// Accepts implements [sdk.Accepter].
func (c *caller) Accepts() sdk.Accepts { return c.takes }

// Failed implements [sdk.Failer].
func (c *caller) Failed() <-chan struct{} { return c.conn.Done() }

// Err says why Failed is closed.
func (c *caller) Err() error { return explain(srt.ErrClosed) }

// Stats implements [sdk.StatsReporter].
func (c *caller) Stats() sdk.SinkStats { return c.player.sinkStats() }

// sinkStats are the figures of one connection.
func (p *player) sinkStats() sdk.SinkStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.line.Stats()
	since := time.Since(p.start)
	return sdk.SinkStats{
		Bytes: p.bytes, AckedBytes: p.bytes - min(st.BufferedBytes, p.bytes), UnackedAge: p.unacked.age(since),
		UnsentBytes: uint64(len(p.queue) - p.sent), RTT: st.RTT, Retransmits: st.Retransmitted, UnitsDropped: p.units,
		Values: map[string]float64{
			"srt_packets_sent":       float64(st.Sent),
			"srt_packets_lost":       float64(st.Lost),
			"srt_packets_too_late":   float64(st.Dropped),
			"srt_send_buffer_bytes":  float64(st.BufferedBytes),
			"srt_send_queue_full":    float64(p.full),
			"srt_latency_seconds":    st.Latency.Seconds(),
			"srt_packets_retransmit": float64(st.Retransmitted),
		},
	}
}
