// Package status holds the shapes in which the gateway tells the outside world
// how it is doing: the answer of GET /v1/streams and of the plugins' list. It
// knows names and JSON tags, and the errors by which a change is refused; whoever
// fills or serves them is elsewhere.
package status

import "time"

// A StreamState says whether a stream has a publisher.
type StreamState string

// The states of a stream.
const (
	// StreamIdle: nobody publishes, and no target is held.
	StreamIdle StreamState = "idle"
	// StreamLive: a publisher is here. He may not have sent a picture yet.
	StreamLive StreamState = "live"
	// StreamHolding: the publisher is gone and the targets stay connected for the
	// route's hold.
	StreamHolding StreamState = "holding"
)

// Streams is the answer of GET /v1/streams.
type Streams struct {
	Streams []Stream `json:"streams"`
}

// A Stream is one stream: a configured name, or one that matched a pattern.
type Stream struct {
	Name      string      `json:"name"`
	State     StreamState `json:"state"`
	Since     time.Time   `json:"since"`
	Publisher *Publisher  `json:"publisher,omitempty"`
	// Source is where the stream is fetched from; nil if publishers come by themselves.
	Source  *Source  `json:"source,omitempty"`
	Tracks  []Track  `json:"tracks"`
	Targets []Target `json:"targets"`
	// UnitsDropped are units that a publisher sent and no target was offered, by reason;
	// plugin is the ingest's, which the gateway did not keep up with.
	UnitsDropped map[string]uint64 `json:"units_dropped,omitempty"`
}

// A Publisher is who feeds a stream.
type Publisher struct {
	Plugin string    `json:"plugin"`
	Remote string    `json:"remote"`
	Since  time.Time `json:"since"`
	// Silent: he is connected and sends no media, since then.
	Silent *time.Time `json:"silent_since,omitempty"`
	// LimitBPS is the bitrate that the targets can take and he was told; 0 for none.
	LimitBPS   uint64  `json:"limit_bps,omitempty"`
	RTTSeconds float64 `json:"rtt_seconds,omitempty"`
	// BytesReceived and UnitsLost count since he came, as his plugin tells.
	BytesReceived uint64 `json:"bytes_received"`
	UnitsLost     uint64 `json:"units_lost"`
	// Values and Info are the plugin's own: its page says what they mean.
	Values map[string]float64 `json:"values,omitempty"`
	Info   map[string]string  `json:"info,omitempty"`
}

// A SourceState says what the source of a stream does.
type SourceState string

// The states of a source.
const (
	// SourceIdle: nobody wants the stream, which is fetched on demand.
	SourceIdle SourceState = "idle"
	// SourceConnecting: it is asked, and has not delivered anything yet.
	SourceConnecting SourceState = "connecting"
	// SourceLive: it delivers.
	SourceLive SourceState = "live"
	// SourceWaiting: for the next try.
	SourceWaiting SourceState = "waiting"
	// SourceFailed: a failure that trying again soon does not cure. It is tried again
	// at NextRetry all the same.
	SourceFailed SourceState = "failed"
)

// A Source is where a stream is fetched from.
type Source struct {
	Plugin string      `json:"plugin"`
	State  SourceState `json:"state"`
	Since  time.Time   `json:"since"`
	// Attempt counts the sessions opened since the gateway knows the source.
	Attempt   int        `json:"attempt"`
	NextRetry *time.Time `json:"next_retry,omitempty"`
	LastError *Error     `json:"last_error,omitempty"`
}

// A Track is one track of a stream.
type Track struct {
	ID       uint32 `json:"id"`
	Codec    string `json:"codec"`
	Width    int    `json:"width,omitempty"`
	Height   int    `json:"height,omitempty"`
	Channels int    `json:"channels,omitempty"`
	// DerivedFrom is the track that it is made from. Silent: that is one of pictures,
	// and this is silence, for targets that need sound where the publisher has none.
	DerivedFrom uint32 `json:"derived_from,omitempty"`
	Silent      bool   `json:"silent,omitempty"`
	// Values are figures of whoever makes a derived track: its page says what they
	// mean.
	Values map[string]float64 `json:"values,omitempty"`
}

// A TargetState says what a target does.
type TargetState string

// The states of a target.
const (
	// TargetIdle: nobody publishes.
	TargetIdle TargetState = "idle"
	// TargetConnecting: a session is being opened, or is open and has not yet
	// written anything to its peer.
	TargetConnecting TargetState = "connecting"
	// TargetLive: the session has written media to its peer.
	TargetLive TargetState = "live"
	// TargetWaiting: for the next try, or, connected, for the publisher to come
	// back.
	TargetWaiting TargetState = "waiting"
	// TargetFailed: a failure that trying again soon does not cure. It is tried
	// again at NextRetry all the same.
	TargetFailed TargetState = "failed"
)

// A Target is one place that a stream is sent to.
type Target struct {
	Name  string      `json:"name"`
	State TargetState `json:"state"`
	// Disabled: the configuration has switched the target off. It stays idle.
	Disabled bool      `json:"disabled,omitempty"`
	Since    time.Time `json:"since"`
	// Preset is the service that the target is; Address scheme and host of where
	// the present or next session leads, which is the backup if OnBackup.
	Preset string `json:"preset,omitempty"`
	// PresetUnverified: what is known of the service was not found on a page of its own.
	PresetUnverified bool   `json:"preset_unverified,omitempty"`
	Address          string `json:"address,omitempty"`
	OnBackup         bool   `json:"on_backup,omitempty"`
	// ByAPI: the API gave the target its destination.
	ByAPI bool `json:"by_api,omitempty"`
	// Attempt counts the sessions opened since the gateway knows the target.
	Attempt   int        `json:"attempt"`
	NextRetry *time.Time `json:"next_retry,omitempty"`
	LastError *Error     `json:"last_error,omitempty"`
	// BytesSent and UnitsSent count what was written to the peer; UnitsDropped
	// what was left out on the way, by reason. They count over all sessions.
	BytesSent    uint64            `json:"bytes_sent"`
	UnitsSent    uint64            `json:"units_sent"`
	UnitsDropped map[string]uint64 `json:"units_dropped"`
	LagSeconds   float64           `json:"lag_seconds"`
	// TracksLeftOut are those of the stream that the target has no room for, or whose
	// codec it does not take, beside others of their kind that it gets.
	TracksLeftOut int `json:"tracks_left_out,omitempty"`
	// What the peer took in the last seconds, and the distance of its keyframes; 0
	// while nothing is written.
	VideoBPS                uint64  `json:"video_bps"`
	AudioBPS                uint64  `json:"audio_bps"`
	FrameRate               float64 `json:"frame_rate"`
	KeyframeIntervalSeconds float64 `json:"keyframe_interval_seconds"`
	// Peer is what the plugin knows of the connection; nil without one.
	Peer *Peer `json:"peer,omitempty"`
	// Warnings say what is beyond the limits of the service, and which settings have no
	// effect.
	Warnings []Warning `json:"warnings,omitempty"`
}

// A Peer is what the plugin tells of the other end of a target's connection. Zero
// means unknown.
type Peer struct {
	BytesAcknowledged uint64             `json:"bytes_acknowledged,omitempty"`
	BytesUnsent       uint64             `json:"bytes_unsent,omitempty"`
	UnsentSeconds     float64            `json:"unsent_seconds,omitempty"`
	UnackedSeconds    float64            `json:"unacked_seconds,omitempty"`
	Retransmits       uint64             `json:"retransmits,omitempty"`
	DeliveryBPS       uint64             `json:"delivery_bps,omitempty"`
	RTTSeconds        float64            `json:"rtt_seconds,omitempty"`
	Values            map[string]float64 `json:"values,omitempty"`
}

// A Warning is something that works and may not be what the service wants.
type Warning struct {
	// Kind is one of a fixed set of words: keyframe_interval, video_bitrate,
	// audio_bitrate, frame_rate, size, b_frames, no_audio, no_video, duration; or
	// audio_settings.
	Kind    string    `json:"kind"`
	Finding string    `json:"finding"`
	Remedy  string    `json:"remedy"`
	Since   time.Time `json:"since"`
}

// An Error says what went wrong and whose fault it is: config, remote, plugin or
// gateway.
type Error struct {
	Cause string `json:"cause"`
	// Class is one word for what kind of failure it was, such as key, in_use, dns, codec or
	// timeout; empty if the plugin does not tell.
	Class   string    `json:"class,omitempty"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// A Plugin is one plugin process.
type Plugin struct {
	Name string `json:"name"`
	// Process tells the processes of one plugin apart: 1, 2, ... for those that share
	// its sessions, "route NAME" for one of a route's own.
	Process   string    `json:"process"`
	Version   string    `json:"version"`
	State     string    `json:"state"`
	Since     time.Time `json:"since"`
	PID       int       `json:"pid,omitempty"`
	Restarts  int       `json:"restarts"`
	LastError string    `json:"last_error,omitempty"`
	Sessions  int       `json:"sessions"`
	// RetryAt is when a process that died is started again.
	RetryAt *time.Time `json:"next_retry,omitempty"`
	// MemoryBytes is what the process may use; MemoryNote says why the kernel does
	// not see to it, where it does not.
	MemoryBytes int64  `json:"memory_limit_bytes,omitempty"`
	MemoryNote  string `json:"memory_note,omitempty"`
}
