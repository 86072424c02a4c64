// Package media is the normal form in which media crosses Headgate: tracks and
// access units, and the small amount of codec knowledge that ingests and
// egresses need to produce and consume it.
//
// It knows codecs and time. It knows nothing of transports, plugins, processes
// or routes, and it imports the standard library alone (tests compare it with
// independent parsers).
package media

import (
	"sync"
	"time"
)

// A Codec names how a track is coded. The names are lower case and stable: they
// cross the wire and appear in the API.
type Codec string

// The codecs that the gateway carries. See [AccessUnit] for the payload of each.
const (
	H264 Codec = "h264"
	H265 Codec = "h265"
	AV1  Codec = "av1"
	VP8  Codec = "vp8"
	VP9  Codec = "vp9"

	Opus Codec = "opus"
	AAC  Codec = "aac"
	MP2  Codec = "mp2"  // MPEG audio, layer II
	MP3  Codec = "mp3"  // MPEG audio, layer III
	PCMA Codec = "pcma" // G.711 A-law
	PCMU Codec = "pcmu" // G.711 mu-law
)

// A Kind is what a track carries.
type Kind string

// The kinds of track.
const (
	Video       Kind = "video"
	Audio       Kind = "audio"
	UnknownKind Kind = ""
)

// Kind returns whether c codes pictures or sound; UnknownKind for a codec that
// this version does not know.
func (c Codec) Kind() Kind {
	switch c {
	case H264, H265, AV1, VP8, VP9:
		return Video
	case Opus, AAC, MP2, MP3, PCMA, PCMU:
		return Audio
	default:
		return UnknownKind
	}
}

// NeedsConfig reports whether a decoder of c cannot start without
// [Track.DecoderConfig].
func (c Codec) NeedsConfig() bool {
	switch c {
	case H264, H265, AV1, AAC, Opus:
		return true
	default:
		return false
	}
}

// A TrackID names a track within its stream. Zero is not a track.
type TrackID uint32

// A Track describes one coded picture or sound sequence of a stream.
//
// A Track is a value: holders copy it, and nobody changes the bytes behind
// DecoderConfig after handing the track over. A change of size, codec or
// configuration is a new list of tracks, which travels in the order of the
// access units, before the first one that needs it.
type Track struct {
	ID    TrackID
	Codec Codec
	// DecoderConfig is what a decoder needs before the first access unit: avcC
	// (H.264), hvcC (H.265), av1C (AV1), OpusHead (Opus), AudioSpecificConfig
	// (AAC). Empty while it is not known yet.
	DecoderConfig []byte
	// Width and Height are pixels as displayed; zero while unknown.
	Width, Height int
	// FrameRate is pictures per second as the bitstream declares it; zero if unknown.
	FrameRate float64
	// SampleRateHz and Channels describe sound; zero if unknown.
	SampleRateHz int
	Channels     int
	// BitrateBitsPerSecond is what the sender aims at; zero if unknown.
	BitrateBitsPerSecond int
	// Language is a BCP 47 tag; empty if unknown.
	Language string
	// Group joins tracks that show the same picture in several qualities
	// (simulcast layers); Rank orders them, 0 is the best. An empty Group is a
	// track of its own.
	Group string
	Rank  int
	// DerivedFrom is the track this one was made from by a transform; zero for
	// an original.
	DerivedFrom TrackID
	// DerivedAs tells tracks apart that were made of one original in several ways.
	// The gateway sets it, and it is not sent to plugins.
	DerivedAs string
}

// Complete reports whether a decoder could start on t with what is known.
func (t Track) Complete() bool { return len(t.DecoderConfig) > 0 || !t.Codec.NeedsConfig() }

// An AccessUnit is one coded picture or one audio frame of one track.
//
// The payload is one contiguous ISO BMFF sample, by codec:
//   - H.264, H.265: NAL units, each behind a 4-byte big-endian length; no access
//     unit delimiter, no filler data; SEI kept; parameter sets only in
//     [Track.DecoderConfig].
//   - AV1: the OBUs of one temporal unit with their size fields, no temporal
//     delimiter. VP8, VP9: the frame.
//   - AAC: one raw_data_block, no ADTS. Opus: one packet. MP2, MP3: one frame with
//     its header. G.711: the bytes of 20 ms.
//
// Ownership: whoever fills an AccessUnit owns it until he hands it over; after
// that nobody changes it or the bytes of its payload, and it is shared by
// reference. An AccessUnit must not be copied once it is handed over: [AccessUnit.Clone]
// makes another one over the same payload.
type AccessUnit struct {
	Track TrackID
	// Seq counts the units of one track; a gap says that units are missing.
	Seq uint32
	// PTS and DTS count from the epoch of the session that stamps them, one for
	// all its tracks. Inside the core and at an egress they count from the start
	// of the stream, and DTS rises strictly per track. PTS is free (B-frames).
	PTS, DTS time.Duration
	// Duration is how long the unit plays; zero if unknown.
	Duration time.Duration

	// RandomAccess: decoding can start here (IDR; CRA and recovery point 0 too).
	// Every audio unit that decodes alone is one.
	RandomAccess bool
	// Leading: follows a random access point in decoding order but cannot be
	// decoded by who joined there.
	Leading bool
	// Disposable: no other unit refers to it.
	Disposable bool
	// Discontinuity: units of this track are missing before this one.
	Discontinuity bool

	// Received is when the unit reached the gateway, on this process's monotonic clock.
	Received time.Time
	// Captured is the wall clock of the sender at capture; zero if unknown.
	Captured time.Time

	Payload []byte

	derived derived
}

// Clone returns a new unit with the fields of u over the same payload.
func (u *AccessUnit) Clone() *AccessUnit {
	return &AccessUnit{
		Track: u.Track, Seq: u.Seq, PTS: u.PTS, DTS: u.DTS, Duration: u.Duration,
		RandomAccess: u.RandomAccess, Leading: u.Leading, Disposable: u.Disposable, Discontinuity: u.Discontinuity,
		Received: u.Received, Captured: u.Captured, Payload: u.Payload,
	}
}

// derived is what consumers of one unit made from it and share.
type derived struct {
	mu    sync.Mutex
	key   any
	value any
	more  map[any]any // further keys; almost always nil
}

// Derived returns what build makes of u, made once per key for all who hold u:
// the sinks of one process that send the same unit to many targets share one
// muxed form of it. Keys compare with ==; use a value of a type of your own.
// build must depend on nothing but u and key, and its result is shared: nobody
// may change it. Safe for concurrent use.
func (u *AccessUnit) Derived(key any, build func() any) any {
	d := &u.derived
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.key == nil {
		d.key, d.value = key, build()
		return d.value
	}
	if d.key == key {
		return d.value
	}
	v, ok := d.more[key]
	if !ok {
		v = build()
		if d.more == nil {
			d.more = make(map[any]any)
		}
		d.more[key] = v
	}
	return v
}
