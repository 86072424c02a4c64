// Package config turns YAML into a [Config]: strict keys, references to the
// environment and to files, defaults, and every mistake at once with its place,
// finding and remedy. It knows the shape of the configuration and what plugins
// declare of theirs. It starts nothing and opens no socket.
package config

import (
	"context"
	"strings"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// A Catalog says what plugins declare of themselves, by name.
type Catalog map[string]*wire.DescribeResponse

// A Config is a complete and valid configuration.
type Config struct {
	// Listen is the public address: WHIP, publish pages, health.
	Listen string
	// TLS of the public listener; nil serves plain HTTP.
	TLS *TLS
	// Admin is the address of the API, the metrics and pprof.
	Admin string
	// AdminToken is needed by every request to Admin; empty on loopback only.
	AdminToken secret.String
	Plugins    []Plugin
	// Routes in the order of the file.
	Routes []Route
	// Catalog has the built-in plugins and those of Plugins.
	Catalog Catalog

	read func(name string) ([]byte, error) // a file; nil: as in Options

	// For targets that come later; see [Options].
	validate func(context.Context, Plugin, *wire.ValidateRequest) (*wire.ValidateResponse, error)
	lost     func(c Catalog, codecs []media.Codec, t *Target) []media.Kind
	made     func(c Catalog, codecs []media.Codec, t *Target) bool
}

// TLS names the certificate and key files (PEM), as paths that can be opened.
type TLS struct{ CertFile, KeyFile string }

// A Plugin is what the configuration says of a plugin; first-party plugins
// without options have no entry.
type Plugin struct {
	Name string
	// Path and SHA256 are for third-party plugins.
	Path   string
	SHA256 string
	// InsecureUnpinned allows a Path without SHA256.
	InsecureUnpinned bool
	// Instances are the processes that share its sessions; at least 1.
	Instances int
	// MemoryBytes is what each process may use; 0 for no limit.
	MemoryBytes int64
	// Dirs are the directories, as absolute paths, in which it may read and write
	// files, and Env the variables of the gateway's environment that it gets.
	Dirs []string
	Env  []string
	// Options as JSON, references resolved; nil if none.
	Options []byte
	// Files are the contents of the files that the options name, by option path, and
	// FileNames their paths, which can be opened.
	Files     map[string][]byte
	FileNames map[string]string
}

// A Route says who may publish a stream and where it goes.
type Route struct {
	// Name is a stream name, or a pattern in which * stands for one segment.
	Name    string
	Publish Publish
	// From is set when the gateway fetches the stream itself.
	From *From
	// Hold is how long targets stay connected without a publisher.
	Hold time.Duration
	// HoldOnEnd holds also when the publisher said goodbye.
	HoldOnEnd bool
	// Isolate gives targets and source plugin processes of their own.
	Isolate    bool
	Congestion Congestion
	To         []Target
}

// Congestion says whether a publisher is told to send less when targets do not
// keep up.
type Congestion struct {
	Follow Follow
	// FloorBPS is the least bitrate that he is asked for, in bits per second.
	FloorBPS uint64
}

// A Follow says by which targets a publisher goes.
type Follow string

// The choices.
const (
	FollowNone    Follow = "none"
	FollowSlowest Follow = "slowest"
	FollowPrimary Follow = "primary" // the first one of the route
)

// Publish says who may publish.
type Publish struct {
	Token secret.String
	Open  bool
}

// From is a source to pull.
type From struct {
	URL    secret.String
	Plugin string // the plugin that serves its scheme
	// OnDemand: it is fetched only while a target is switched on.
	OnDemand bool
}

// A Target is one place that a stream is sent to.
type Target struct {
	Name   string
	Plugin string // the plugin that serves its scheme
	URL    secret.String
	Key    secret.String // ${stream} in it is expanded by [Target.KeyFor]
	// Backup is where to send when URL fails, or as well; empty if there is none.
	// BackupKey is its key, as Key is.
	Backup, BackupKey secret.String
	// Both: Backup is sent to all the time.
	Both bool
	// Preset is what the plugin knows of the service that this is; nil if nothing.
	// It is shared and not to be changed.
	Preset  *wire.Preset
	MaxLag  time.Duration
	Audio   Audio
	Enabled bool
	// Restricted: the API gave the target its destination; see wire.Target.
	Restricted bool
	// Definition is the target as it was written, references resolved, in JSON.
	Definition secret.String
	// Options of the plugin's own as JSON, and the files they name.
	Options []byte
	Files   map[string][]byte
}

// Audio is how a target wants its sound. Zero values leave it to what the target
// takes and to whoever makes the sound.
type Audio struct {
	// Codec is aac or opus.
	Codec string
	// BitsPerSecond, Channels and Quality (high or fast) count where the sound has to
	// be made; sound that the target takes as it is stays as it is.
	BitsPerSecond int
	Channels      int
	Quality       string
}

// ForMade names the settings that are there and count for sound alone that is made.
func (a Audio) ForMade() (names []string) {
	if a.BitsPerSecond != 0 {
		names = append(names, "bitrate")
	}
	if a.Channels != 0 {
		names = append(names, "channels")
	}
	if a.Quality != "" {
		names = append(names, "quality")
	}
	return names
}

// KeyFor is the key for one stream: ${stream} in it becomes the stream's name.
func (t *Target) KeyFor(stream string) secret.String { return keyFor(t.Key, stream) }

// BackupKeyFor is the same for the backup.
func (t *Target) BackupKeyFor(stream string) secret.String { return keyFor(t.BackupKey, stream) }

func keyFor(key secret.String, stream string) secret.String {
	return secret.New(strings.ReplaceAll(key.Reveal(), streamRef, stream))
}

// Defaults of the configuration.
const (
	DefaultListen = "127.0.0.1:8080"
	DefaultAdmin  = "127.0.0.1:8081"
	DefaultMaxLag = 2 * time.Second
	DefaultHold   = 30 * time.Second
	// DefaultFloorBPS is the least bitrate that a publisher is asked for.
	DefaultFloorBPS = 500_000
)
