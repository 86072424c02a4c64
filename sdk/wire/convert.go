package wire

import (
	"math"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// FromTrack returns the message form of t.
func FromTrack(t media.Track) *Track {
	return &Track{
		Id:            uint32(t.ID),
		Codec:         string(t.Codec),
		DecoderConfig: t.DecoderConfig,
		Width:         clamp32(t.Width),
		Height:        clamp32(t.Height),
		FrameRate:     t.FrameRate,
		SampleRateHz:  clamp32(t.SampleRateHz),
		Channels:      clamp32(t.Channels),
		BitrateBps:    clamp32(t.BitrateBitsPerSecond),
		Language:      t.Language,
		Group:         t.Group,
		Rank:          clamp32(t.Rank),
		DerivedFrom:   uint32(t.DerivedFrom),
	}
}

// ToTrack returns the track that the message describes.
func ToTrack(t *Track) media.Track {
	return media.Track{
		ID:                   media.TrackID(t.GetId()),
		Codec:                media.Codec(t.GetCodec()),
		DecoderConfig:        t.GetDecoderConfig(),
		Width:                clampInt(t.GetWidth()),
		Height:               clampInt(t.GetHeight()),
		FrameRate:            t.GetFrameRate(),
		SampleRateHz:         clampInt(t.GetSampleRateHz()),
		Channels:             clampInt(t.GetChannels()),
		BitrateBitsPerSecond: clampInt(t.GetBitrateBps()),
		Language:             t.GetLanguage(),
		Group:                t.GetGroup(),
		Rank:                 clampInt(t.GetRank()),
		DerivedFrom:          media.TrackID(t.GetDerivedFrom()),
	}
}

// FromTracks returns the message form of tracks.
func FromTracks(tracks []media.Track) []*Track {
	out := make([]*Track, len(tracks))
	for i, t := range tracks {
		out[i] = FromTrack(t)
	}
	return out
}

// ToTracks returns the tracks that the messages describe.
func ToTracks(tracks []*Track) []media.Track {
	out := make([]media.Track, len(tracks))
	for i, t := range tracks {
		out[i] = ToTrack(t)
	}
	return out
}

// FromUnit returns the message form of u for sessions. Its age is what has
// passed at now since the unit was received; a unit without that time is new.
// The message refers to the payload.
func FromUnit(u *media.AccessUnit, sessions []uint32, discontinuity bool, now time.Time) *AccessUnit {
	m := &AccessUnit{
		Sessions:   sessions,
		Track:      uint32(u.Track),
		Flags:      uint32(flags(u, discontinuity)),
		Seq:        u.Seq,
		DtsNs:      int64(u.DTS),
		PtsNs:      int64(u.PTS),
		DurationNs: uint64(max(u.Duration, 0)),
		Payload:    u.Payload,
	}
	m.AgeNs = age(u, now)
	m.CapturedUnixNs = captured(u)
	return m
}

// age returns how long ago u was received; a unit without that time is new.
func age(u *media.AccessUnit, now time.Time) uint64 {
	if u.Received.IsZero() {
		return 0
	}
	return uint64(max(now.Sub(u.Received), 0))
}

// captured returns when u was captured in nanoseconds of Unix time; 0 if unknown.
func captured(u *media.AccessUnit) int64 {
	if u.Captured.IsZero() {
		return 0
	}
	return u.Captured.UnixNano()
}

// ToUnit returns the unit that arrived in m at now. It was received as long
// before as m says, but no longer than maxAge. The unit refers to the payload.
func ToUnit(m *AccessUnit, now time.Time, maxAge time.Duration) *media.AccessUnit {
	u := &media.AccessUnit{
		Track:    media.TrackID(m.GetTrack()),
		Seq:      m.GetSeq(),
		PTS:      time.Duration(m.GetPtsNs()),
		DTS:      time.Duration(m.GetDtsNs()),
		Duration: Duration(m.GetDurationNs()),
		Received: now.Add(-min(Duration(m.GetAgeNs()), maxAge)),
		Payload:  m.GetPayload(),
	}
	if u.Payload == nil {
		u.Payload = []byte{}
	}
	setFlags(u, Flag(m.GetFlags()))
	if ns := m.GetCapturedUnixNs(); ns != 0 {
		u.Captured = time.Unix(0, ns)
	}
	return u
}

// Duration returns ns nanoseconds, or the longest duration if that is shorter.
func Duration(ns uint64) time.Duration {
	return time.Duration(min(ns, math.MaxInt64))
}

func flags(u *media.AccessUnit, discontinuity bool) Flag {
	var f Flag
	if u.RandomAccess {
		f |= Flag_FLAG_RANDOM_ACCESS
	}
	if u.Leading {
		f |= Flag_FLAG_LEADING
	}
	if u.Disposable {
		f |= Flag_FLAG_DISPOSABLE
	}
	if u.Discontinuity || discontinuity {
		f |= Flag_FLAG_DISCONTINUITY
	}
	return f
}

func setFlags(u *media.AccessUnit, f Flag) {
	u.RandomAccess = f&Flag_FLAG_RANDOM_ACCESS != 0
	u.Leading = f&Flag_FLAG_LEADING != 0
	u.Disposable = f&Flag_FLAG_DISPOSABLE != 0
	u.Discontinuity = f&Flag_FLAG_DISCONTINUITY != 0
}

func clamp32(v int) uint32 { return uint32(min(max(v, 0), math.MaxInt32)) }

func clampInt(v uint32) int { return int(min(v, math.MaxInt32)) }
