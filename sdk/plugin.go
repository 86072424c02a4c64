// Package sdk is what the author of a plugin imports. A plugin is a process
// that brings media into the gateway (an ingest), sends it on (an egress), or
// derives one track from another (a transform). The gateway starts it, gives it
// work, restarts it when it dies, and keeps everything that is hard to get
// right on its own side: queues, lag, drops, retries, status and metrics.
//
// A whole egress is one type with one method and a main function:
//
//	func main() { sdk.ServeEgress("egress-file", "1.0.0", []string{"file"}, egress{}) }
//
// sdk knows the wire and the life of a plugin process. It does not know the
// gateway's core.
package sdk

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// A Plugin is what one process serves. Name and Version are required, and at
// least one of Ingest, Egress and Transforms.
type Plugin struct {
	// Name is the plugin's name in the configuration: egress-rtmp.
	Name    string
	Version string
	// Options is a pointer to a zero value of the struct that the plugin's
	// options decode into, or nil if it has none. The JSON Schema that the
	// gateway checks the configuration with is made from it (tags json and
	// jsonschema, as in github.com/invopop/jsonschema).
	Options any
	// Shardable says that several processes of the plugin may run beside each other
	// and share its sessions by stream: none of them needs something that only one
	// can have, such as a port or a file. A plugin with [IngestPlugin.Mounts] cannot.
	Shardable bool

	Ingest     *IngestPlugin
	Egress     *EgressPlugin
	Transforms []Transform
}

// An IngestPlugin declares an ingest.
type IngestPlugin struct {
	Ingest Ingest
	// Codecs are those it can deliver.
	Codecs []media.Codec
	// Schemes are those of the URLs that it can be asked to pull; each needs
	// Ingest to be a [Puller] too.
	Schemes []string
	// Mounts are the HTTP path prefixes that it serves through
	// [IngestHost.HandleHTTP]: "/whip/".
	Mounts []string
}

// An EgressPlugin declares an egress.
type EgressPlugin struct {
	Egress Egress
	// Schemes are those of the target URLs that it serves.
	Schemes []string
	// Accepts is what a target takes, as far as it is known without asking it.
	Accepts Accepts
	// TargetOptions is a pointer to a zero value of the struct that a target's
	// own options decode into, or nil. A field of type [File] is a file that the
	// gateway reads; its content travels with the target.
	TargetOptions any
	// OpensEarly says that Open may be called before every track has its decoder
	// config, which then comes with SetTracks: a sink that needs time to connect
	// is ready earlier. Its sinks must implement [TrackSetter].
	OpensEarly bool
	// CodecsOption is the option of a target by which its user says what its peer
	// takes: a list of codecs, which then stands for those of Accepts. Empty: there is
	// none.
	CodecsOption string
	// Presets are the services that it knows.
	Presets []Preset
}

// Accepts says what a peer takes: codecs, the best first, and how many tracks of
// each kind.
type Accepts struct {
	Codecs      []media.Codec
	VideoTracks int
	AudioTracks int
	// Optional are codecs that only some peers take. They count in
	// [EgressPlugin.Accepts] alone: a stream that a target could not be served with
	// otherwise is opened in the hope of them, and [Accepter] then says.
	Optional []media.Codec
}

// An Egress opens targets. Its methods are called concurrently.
type Egress interface {
	// Open connects to the target and returns once media can flow. tracks are
	// what the gateway means to send. ctx bounds the opening only, to 20 s. Every error
	// is tried again later, those made by [Permanent] much later.
	Open(ctx context.Context, target Target, tracks []media.Track) (Sink, error)
}

// A Configurer is an Egress that has options of the plugin, beside those of each
// target. Configure is called once, before the first Open; decode decodes them
// into a pointer to the type that was declared in [Plugin.Options]. An error
// keeps the plugin from being used, and is shown.
type Configurer interface {
	Configure(decode func(v any) error) error
}

// A Sink receives one stream in decoding order, from a random access point on.
// Its methods are called from one goroutine. Sinks that implement
// [TrackSetter], [Accepter], [StatsReporter] or [Failer] can do more.
type Sink interface {
	// WriteAccessUnit sends the unit. It may block: the gateway keeps the queue
	// and learns from the time this takes how fast the target is. The unit is
	// shared and must not be changed; it stays valid for as long as it is
	// referred to. After an error only Close is called. ctx ends when the session
	// is closed without draining, and when draining takes more than half of the time
	// that the end may take.
	WriteAccessUnit(ctx context.Context, unit *media.AccessUnit) error
	// Close ends the session politely within ctx (5 s with the draining before it, 1 s
	// without one, 2 s when the gateway is gone; less when the process has to end sooner)
	// and frees what it holds. It is called once, also after an error.
	Close(ctx context.Context) error
}

// A TrackSetter is a Sink that can change tracks and decoder configs in place.
// SetTracks is called between two units, before the first one that needs it. A
// Sink without it is closed and opened anew at the next random access point; so is
// one that answers [ErrReopen].
type TrackSetter interface {
	SetTracks(ctx context.Context, tracks []media.Track) error
}

// ErrReopen is what [TrackSetter] answers when it cannot make this change in place.
var ErrReopen = errors.New("the tracks cannot be changed in place")

// An Accepter is a Sink that has learned from its peer what that accepts. The
// gateway then chooses the tracks anew and calls SetTracks if they differ.
type Accepter interface {
	Accepts() Accepts
}

// A StatsReporter is a Sink that knows more than the bytes that it was given.
// Stats is called several times a second, concurrently with the other methods.
type StatsReporter interface {
	Stats() SinkStats
}

// A Failer is a Sink that notices on its own, between writes, that its peer is
// gone. Failed is closed then; the next write says why. If there is no unit to
// write, a method Err() error is asked for the reason where the sink has one.
type Failer interface {
	Failed() <-chan struct{}
}

// SinkStats are the figures of one target session. Zero means unknown.
type SinkStats struct {
	Bytes        uint64        // written to the peer
	AckedBytes   uint64        // acknowledged by the peer
	UnsentBytes  uint64        // in the socket, not yet sent
	UnsentAge    time.Duration // how long the oldest of them waits
	UnackedAge   time.Duration // how long the oldest byte waits that the peer has not acknowledged
	DeliveryBPS  uint64        // what the peer can take, bits per second
	RTT          time.Duration
	Retransmits  uint64 // segments that the kernel sent again
	UnitsDropped uint64
	Values       map[string]float64 // figures of this plugin's own
	// Idle: nobody is there to send to now, and that is no fault: a port on which no
	// player has called. The target shows as idle.
	Idle bool
}

// A Target is where an egress session sends to.
type Target struct {
	// Name is the target's name in its route, Stream the stream's name.
	Name   string
	Stream string
	URL    secret.String
	// Key is the stream key, where it is given apart from the URL.
	Key secret.String
	// Attempt counts the openings of this target, from 1.
	Attempt int
	// Restricted: the target was given by the API. Whoever gave it must not reach
	// through the plugin what only this machine can reach: connect with
	// [Target.Control].
	Restricted bool

	options  []byte
	files    map[string][]byte
	keyframe func()
}

// RequestKeyframe asks the source for a random access point, and returns at once.
func (t Target) RequestKeyframe() {
	if t.keyframe != nil {
		t.keyframe()
	}
}

// Options decodes the target's own options into v, a pointer to the type that
// was declared in [EgressPlugin.TargetOptions]. Fields of type [File] are filled
// with the content that the gateway read, durations are written as "250ms".
// Unknown keys are an error. Without options v stays as it is.
func (t Target) Options(v any) error { return decodeOptions(t.options, t.files, v) }

// A File is an option that names a file. The gateway reads it: a plugin needs no
// access to the file system for it.
type File struct {
	Name    string
	Content []byte
}

// An Ingest brings media in from publishers who come by themselves.
type Ingest interface {
	// Serve runs until ctx ends. It is called once, after the options arrived.
	Serve(ctx context.Context, host *IngestHost) error
}

// A Puller is an Ingest that can fetch a URL. Pull reads from url and writes to
// pub until ctx ends or the source does; the gateway tries again after an error.
type Puller interface {
	Pull(ctx context.Context, url secret.String, pub *Publication) error
}

// An Offer asks the gateway for the right to publish.
type Offer struct {
	// Name is the stream's name as the publisher gave it.
	Name        string
	Credentials secret.String
	Remote      string
	Agent       string
	Codecs      []media.Codec

	// OnKeyframeRequest is called when a receiver needs a random access point on
	// the track (0: on every video track). OnTargetBitrate is called with the bits
	// per second that the receivers can take, 0 for no limit. Neither may block.
	// Either may be nil.
	OnKeyframeRequest func(track media.TrackID)
	OnTargetBitrate   func(bps uint64)
}

// A RejectedError is the gateway's no to an [Offer].
type RejectedError struct {
	Reason     Reason
	Message    string // for the person who publishes
	RetryAfter time.Duration
}

func (e *RejectedError) Error() string { return "offer rejected: " + e.Message }

// A Reason says why an offer was rejected. The names are stable.
type Reason string

// The reasons.
const (
	Unauthenticated Reason = "unauthenticated"
	Forbidden       Reason = "forbidden"
	NotFound        Reason = "not_found"
	Conflict        Reason = "conflict"
	Busy            Reason = "busy"
	Unusable        Reason = "unusable"
)

// A Transform derives tracks of codec To from tracks of codec From.
//
// One whose From is empty makes sound of nothing: silence, for targets that need
// sound where the stream has none. Its track is one of pictures of any codec, and
// the units that it gets say when those are and carry no payload.
type Transform struct {
	From, To media.Codec
	Open     func(ctx context.Context, in media.Track, s TransformSettings) (Transformer, error)
}

// TransformSettings are what the targets ask of a derived track. Zero values
// leave the choice to the transform.
type TransformSettings struct {
	Bitrate  int // bits per second
	Channels int
	// Quality is "high" or "fast": how much work to put into it.
	Quality string
}

// A Transformer turns the units of one track into those of another. Its methods
// are called from one goroutine. Transformers that implement [Idler] or
// [TransformReporter] can do more.
type Transformer interface {
	// Track describes the derived track; its ID is set by the gateway. It is
	// called after Open and after each SetTrack.
	Track() media.Track
	// SetTrack says that the description of the input changed.
	SetTrack(in media.Track) error
	// Transform takes one unit and calls emit for each unit that is ready; emit
	// takes ownership. An error concerns this unit alone; where it leaves a hole in
	// what comes out, the unit behind that says Discontinuity by itself.
	Transform(unit *media.AccessUnit, emit func(*media.AccessUnit)) error
	Close()
}

// An Idler is a Transformer that has something to say while nothing comes in, such
// as the silence of a publisher who is muted. Idle is called, about every
// [IdleInterval], while no unit comes; quiet is how long ago the newest was taken.
// An error counts as one of [Transformer.Transform].
type Idler interface {
	Idle(quiet time.Duration, emit func(*media.AccessUnit)) error
}

// IdleInterval is the pace of [Idler.Idle]; the first call is twice as late.
const IdleInterval = 50 * time.Millisecond

// A TransformReporter is a Transformer that has figures of its own, which the
// gateway shows with the derived track. Figures is called about once a second, from
// the goroutine of the other methods; names are lower case, with their unit, and
// end in _total where the figure only ever rises.
type TransformReporter interface {
	Figures() map[string]float64
}

// permanent marks an error that will not go away by trying again soon.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks err, from Open or WriteAccessUnit, as one that trying again
// soon will not cure: a refused key, a wrong address. The gateway then tries
// once a minute and shows the target as failed.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

// IsPermanent reports whether err or one that it wraps was made by [Permanent].
func IsPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p)
}

// A Cause says whose fault a failure is.
type Cause string

// The causes.
const (
	CauseConfig  Cause = "config"
	CauseRemote  Cause = "remote"
	CausePlugin  Cause = "plugin"
	CauseGateway Cause = "gateway"
)

// An Error carries what the gateway shows and decides with. Errors without it
// count as CauseRemote.
type Error struct {
	Cause      Cause
	RetryAfter time.Duration // what the peer asked for; 0 if nothing
	// Class is one word for what kind of failure it is; see SessionState in the
	// wire's definition for those in use. Empty if the plugin does not tell.
	Class string
	Err   error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Logger writes to the gateway's log, from any plugin code, labelled with the
// plugin's name.
func Logger() *slog.Logger { return slog.Default() }
