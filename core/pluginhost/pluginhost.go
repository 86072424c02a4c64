// Package pluginhost runs plugin processes and speaks the wire with them: start,
// handshake, the Attach stream, liveness, restart, stop. It knows processes and
// sessions. It does not know routes, streams' contents or policy: who may
// publish, what to send and when to try again is decided by its callers.
package pluginhost

import (
	"net/http"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// A SessionHandler hears what one session says. Its methods are called one at a
// time, in order, almost always from the receiving goroutine of the plugin's
// process, and must not block. They are never called from within a method of the
// session or the host. After Ended nothing is called any more.
type SessionHandler interface {
	// Ready: media may flow. accepts is set for egress sessions.
	Ready(accepts Accepts)
	// Tracks and Unit: from ingest and transform sessions. The unit belongs to the
	// handler.
	Tracks(tracks []media.Track)
	Unit(unit *media.AccessUnit)
	// Credited: the session has dealt with so many bytes of payload, in the order
	// in which they were pulled.
	Credited(bytes int)
	Keyframe(track media.TrackID)
	Stats(stats Stats)
	// Ended: the session is over, as asked (err nil), by itself (Ended.Clean) or
	// by a failure. The death of the process ends its sessions with CausePlugin.
	Ended(end End)
}

// A Source is where a session's media comes from. The send loop of the process
// calls Pull when the session has credit and was woken; it must not block. Pull
// takes at most maxBytes of payload from the queue, but at least one item if
// there is any.
type Source = wire.Source

// An Item is one step of a session's media: new tracks, or a unit. A unit that
// several sessions of one process pull at the same time crosses once.
type Item = wire.Item

// Accepts says what a peer takes.
type Accepts struct {
	Codecs      []media.Codec
	VideoTracks int
	AudioTracks int
	// Optional are codecs that only some peers take: READY says.
	Optional []media.Codec
}

// A CodecChooser is a [SessionHandler] of a publisher that knows which of the codecs
// he offered all targets can carry. It is asked once, when the offer is accepted.
type CodecChooser interface {
	Codecs() []media.Codec
}

// Stats are the figures that a session reports about once a second.
type Stats struct {
	Bytes, AckedBytes, UnsentBytes uint64
	UnsentAge                      time.Duration
	DeliveryBPS                    uint64
	RTT                            time.Duration
	UnackedAge                     time.Duration
	Retransmits                    uint64
	UnitsLost, UnitsDropped        uint64
	Values                         map[string]float64
	Info                           map[string]string
	// Idle: nobody is there to send to now, and that is no fault.
	Idle bool
}

// A SilenceHandler is a [SessionHandler] that wants to know when a publisher who
// is connected stops sending media, and when he goes on.
type SilenceHandler interface {
	Silence(silent bool)
}

// A Cause says whose fault a failure is.
type Cause string

// The causes, as in sdk and on the wire.
const (
	CauseConfig  Cause = "config"
	CauseRemote  Cause = "remote"
	CausePlugin  Cause = "plugin"
	CauseGateway Cause = "gateway"
)

// An End says how a session ended.
type End struct {
	// Failed is false when the session was closed as asked or the publisher
	// ended cleanly.
	Failed     bool
	Permanent  bool
	Cause      Cause
	Class      string // one word for what kind of failure; empty if unknown
	Message    string
	RetryAfter time.Duration
}

// EgressSpec opens an egress session.
type EgressSpec struct {
	StreamID uint64
	Stream   string
	Target   string // name
	URL      secret.String
	Key      secret.String
	Options  []byte            // JSON, checked against the plugin's schema
	Files    map[string][]byte // contents of files that the options name
	Attempt  int
	Tracks   []media.Track
	// Restricted: the target was given by the API; see wire.Target.
	Restricted bool
}

// TransformSpec opens a transform session.
type TransformSpec struct {
	StreamID uint64
	Stream   string
	In       media.Track
	To       media.Codec
	Out      media.TrackID
	Bitrate  int    // bits per second, 0: the plugin's choice
	Channels int    // 0: the plugin's choice
	Quality  string // high or fast, empty: the plugin's choice
}

// Silent reports whether what is made is silence: sound in the time of a picture.
func (s TransformSpec) Silent() bool { return s.In.Codec.Kind() != s.To.Kind() }

// An Offer is a publisher's wish to publish, passed on by an ingest.
type Offer struct {
	Name        string
	Credentials secret.String
	Remote      string
	Agent       string
	Codecs      []media.Codec
}

// A Rejection is the answer no.
type Rejection struct {
	Reason     wire.OfferRejected_Reason
	Message    string // for the person who publishes
	RetryAfter time.Duration
}

// An Offers decides on offers. It is called from the receiving goroutine of the
// plugin's process and must not block; it answers by calling exactly one of
// accept and reject, then or later, from any goroutine.
type Offers interface {
	Offer(plugin string, o Offer, accept func(streamID uint64, h SessionHandler) Session, reject func(Rejection))
}

// An Enquirer is an [Offers] that says whether a name can be published at all: why
// says why not, in words for the person who asks. It is called as Offer is, and claims
// nothing.
type Enquirer interface {
	Enquire(name string) (open bool, why string)
}

// A TargetState is how one target of a stream is doing, for who publishes it.
type TargetState struct {
	Name   string
	State  wire.TargetStates_State
	Reason string // in plain words, without address or secret
}

// A Session is the gateway's end of one session. Its methods may be called from
// any goroutine, also from the handler, and do nothing after the end.
type Session interface {
	// Wake says that the source has something to pull.
	Wake()
	// RequestKeyframe, SetTargetBitrate and SetTargetStates are for ingest sessions.
	RequestKeyframe(track media.TrackID)
	SetTargetBitrate(bps uint64)
	SetTargetStates(targets []TargetState)
	// Close ends the session: nothing more is pulled. With drain the plugin first
	// writes out what it was sent. Ended is called when it is over, at the latest after the close
	// timeout.
	Close(reason string, drain bool)
}

// A Mount is an HTTP path prefix that a plugin serves.
type Mount struct {
	Prefix  string
	Plugin  string
	Handler http.Handler
}

// A Spec says how to start one plugin.
type Spec struct {
	Name string
	// Command and arguments. First-party plugins are this executable started
	// again with "plugin NAME".
	Command []string
	// SHA256 of the executable, hexadecimal; empty for first-party plugins. What is
	// started is a copy with this checksum.
	SHA256 string
	// Env names the variables of the gateway's environment that the process gets
	// beside those that all get.
	Env []string
	// Dirs are the directories in which it may read and write files; an SDK that can
	// keeps it out of all others.
	Dirs []string
	// Instances are the processes that share the sessions, by stream; only a plugin
	// that says it is shardable has more than one.
	Instances int
	// MemoryBytes is what each process may use; 0 for no limit.
	MemoryBytes int64
	// Socket is that of a process which was started by hand, under a debugger; then
	// nothing is started. A plugin with one has no second process.
	Socket string
	// Info is what the plugin's Describe answers; known beforehand for
	// first-party plugins, asked by [Describe] for others.
	Info *wire.DescribeResponse
	// Options (JSON) and the contents of the files they name.
	Options []byte
	Files   map[string][]byte
}

// A State of a plugin process.
type State string

// The states.
const (
	Stopped  State = "stopped"  // not needed so far
	Starting State = "starting" //
	Ready    State = "ready"    //
	Backoff  State = "backoff"  // died; starts again soon
	Broken   State = "broken"   // died too often; starts again later
)

// A Status is what the API shows of a plugin.
type Status struct {
	Name string
	// Process tells the processes of one plugin apart: 1, 2, ... for those that share
	// the sessions, "route NAME" for one of a route's own.
	Process   string
	Version   string
	State     State
	Since     time.Time
	PID       int // 0 if there is no process
	Restarts  int
	LastError string
	Sessions  int
	RetryAt   time.Time // when it is started again; zero if it need not be
	// MemoryBytes is what the process may use, 0 for no limit; MemoryNote says why the
	// kernel does not see to it, where it does not.
	MemoryBytes int64
	MemoryNote  string
}
