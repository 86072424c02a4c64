package egressrtmp

import (
	"bytes"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
)

// A leg is one connection of a sink: what its server was told, and its timeline,
// which begins at 0 on every connection. Its fields are those of the goroutine that
// writes, apart from conn and what is set when it is made.
type leg struct {
	target rtmp.Target
	conn   *rtmp.Conn
	since  time.Time

	told    int // version of the metadata; 0 is none
	tracks  map[media.TrackID]*legTrack
	started bool
	waits   bool            // sound waits for the first picture
	waited  time.Duration   // decoding time from which on
	base    int64           // ms on the stream's timeline that are 0 here
	last    int64           // ms, of the last unit of any track
	sound   map[uint8]int64 // ms, of the last unit of sound by the track's number
}

// A legTrack is how far a track is on one connection.
type legTrack struct {
	header  []byte // the decoder config that the server has
	running bool   // units have been sent since the track came
	last    int64  // ms, of the last of them
}

// pictureWait is how much sound waits for the first picture of an announced video,
// beside what the gateway has waited for it before.
const pictureWait = time.Second

func newLeg(target rtmp.Target, conn *rtmp.Conn) *leg {
	return &leg{target: target, conn: conn, since: time.Now(), tracks: make(map[media.TrackID]*legTrack), sound: make(map[uint8]int64)}
}

// of returns how far a track is.
func (l *leg) of(id media.TrackID) *legTrack {
	t := l.tracks[id]
	if t == nil {
		t = &legTrack{}
		l.tracks[id] = t
	}
	return t
}

// keep forgets the tracks that are not among those.
func (l *leg) keep(tracks []sinkTrack) {
	for id := range l.tracks {
		found := false
		for i := range tracks {
			found = found || tracks[i].ID == id
		}
		if !found {
			delete(l.tracks, id)
		}
	}
}

// send writes a unit with what has to go before it; sent is false if it is left out.
func (l *leg) send(s *sink, t *sinkTrack, u *media.AccessUnit) (sent bool, err error) {
	dts := roundMS(u.DTS)
	at := l.of(t.ID)
	if !t.Complete() || !l.joins(s, t, at, u, dts) {
		return false, nil
	}
	if !l.started {
		l.started, l.base, l.last = true, dts, 0
	}
	stamp := l.stamp(s, t, at, dts)
	if err := l.headers(s, t, u, stamp); err != nil {
		return false, err
	}
	if err := l.conn.WriteTag(s.tag(u, t, int32(stamp-(dts-l.base))), uint32(stamp)); err != nil {
		return false, err
	}
	at.running, at.last = true, stamp
	if !t.video() {
		l.sound[t.number] = stamp
	}
	l.last = max(l.last, stamp)
	return true, nil
}

// joins reports whether a unit can be sent: the first one has to be a random
// access point, of the video if that comes in time, and nothing may be before it.
func (l *leg) joins(s *sink, t *sinkTrack, at *legTrack, u *media.AccessUnit, dts int64) bool {
	if !at.running && t.video() && !u.RandomAccess {
		return false
	}
	if !l.started {
		return t.video() || !s.hasVideo() || s.opts.EarlyAudio == AudioKeep || l.soundAlone(u)
	}
	return at.running || dts >= l.base
}

// soundAlone reports whether sound has waited long enough for the first picture:
// a camera that is switched off must not cost the listeners their sound.
func (l *leg) soundAlone(u *media.AccessUnit) bool {
	if !l.waits {
		l.waits, l.waited = true, u.DTS
	}
	return u.DTS-l.waited >= pictureWait
}

// stamp returns the timestamp of a unit of t whose decoding time is dts: it rises on
// each track whatever rounding makes of it, also where one takes another's place, and
// with strict interleaving never falls across them.
func (l *leg) stamp(s *sink, t *sinkTrack, of *legTrack, dts int64) int64 {
	at := max(dts-l.base, 0)
	if of.running {
		at = max(at, of.last+1)
	} else if last, ok := l.sound[t.number]; ok && !t.video() {
		at = max(at, last+1)
	}
	if s.merge != nil {
		at = max(at, l.last)
	}
	return at
}

// headers writes what the server does not know yet and needs for a unit of t.
func (l *leg) headers(s *sink, t *sinkTrack, u *media.AccessUnit, at int64) error {
	first := l.told == 0
	if l.told != s.version {
		if err := l.conn.WriteTag(s.metadata.Tag(), uint32(at)); err != nil {
			return err
		}
		l.told = s.version
	}
	if !first {
		return l.header(t, u, at)
	}
	// The start of the connection: all that there is, the video first.
	for i := range s.tracks {
		of := u
		if s.tracks[i].ID != u.Track {
			of = nil
		}
		if err := l.header(&s.tracks[i], of, at); err != nil {
			return err
		}
	}
	return nil
}

// header writes the sequence header of t if the server has not got it. u is the unit
// that needs it, if there is one yet.
func (l *leg) header(t *sinkTrack, u *media.AccessUnit, at int64) error {
	config := t.DecoderConfig
	if t.Codec == media.VP9 && len(config) == 0 && u != nil && u.RandomAccess {
		config, _ = rtmp.VP9Config(u.Payload) // the old one is good for what this version cannot read
	}
	to := l.of(t.ID)
	if len(config) == 0 || bytes.Equal(config, to.header) {
		return nil
	}
	tag := rtmp.AudioHeaderTag(t.Codec, t.number, config)
	if t.video() {
		tag = rtmp.VideoHeaderTag(t.Codec, t.number, config)
	}
	if err := l.conn.WriteTag(tag, uint32(at)); err != nil {
		return err
	}
	to.header = config
	return nil
}

func roundMS(d time.Duration) int64 { return int64(d.Round(time.Millisecond) / time.Millisecond) }
