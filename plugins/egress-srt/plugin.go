// Package egresssrt is the egress that sends MPEG transport streams over SRT: to a
// listener that it calls, or to every player that calls it.
//
// It knows how a stream has to look on such a line: program tables, clock, pace.
// Packets are made by internal/mpegts, connections by internal/srt; queues, drops
// and retries are the gateway's.
package egresssrt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/headgate/gateway/internal/mpegts"
	"github.com/headgate/gateway/internal/srt"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/transcode"
)

// Plugin returns the plugin egress-srt.
func Plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:    "egress-srt",
		Version: sdk.Version,
		// A port that is listened on belongs to one process, and a target to one
		// session: several processes never want the same.
		Shardable: true,
		Egress: &sdk.EgressPlugin{
			Egress:        egress{},
			Schemes:       []string{"srt"},
			Accepts:       declared(),
			TargetOptions: &Options{},
			OpensEarly:    true,
		},
		Transforms: transcode.All(),
	}
}

// declared is what every target takes, and what those take that ask for it.
func declared() sdk.Accepts {
	a := accepts(nil)
	a.Optional = []media.Codec{media.Opus}
	return a
}

// accepts is what a session takes that is to begin with tracks: Opus where the target
// asked for it, so that it is among them.
func accepts(tracks []media.Track) sdk.Accepts {
	a := sdk.Accepts{Codecs: []media.Codec{media.H264, media.H265, media.AAC}, VideoTracks: 1, AudioTracks: 1}
	if slices.ContainsFunc(tracks, func(t media.Track) bool { return t.Codec == media.Opus }) {
		a.Codecs = append(a.Codecs, media.Opus)
	}
	return a
}

// Options are those of one target. What the URL says as well must be the same.
type Options struct {
	StreamID   secret.String `json:"streamid,omitzero" jsonschema:"description=name of the stream at the peer; the same as key"`
	Passphrase secret.String `json:"passphrase,omitzero" jsonschema:"description=10 to 79 characters; encrypts the stream"`
	KeyBits    int           `json:"key_bits,omitempty" jsonschema:"enum=128,enum=192,enum=256,description=length of the AES key; 128 unless told otherwise"`
	Latency    time.Duration `json:"latency,omitempty" jsonschema:"description=how long a receiver waits for what was lost; 120ms unless told otherwise. Want four round trips"`
	MuxRate    int           `json:"muxrate,omitempty" jsonschema:"minimum=100000,maximum=200000000,description=bits per second of a constant rate that is kept with null packets; without it the rate is that of the stream"`
}

// address returns where a target is.
func (o Options) address(url, key secret.String) (srt.Address, error) {
	a, err := srt.ParseAddress(url)
	if err != nil {
		return a, err
	}
	if !key.Empty() {
		if !o.StreamID.Empty() && !o.StreamID.Equal(key) {
			return a, errors.New("the stream id is in key and in streamid; leave one")
		}
		o.StreamID = key
	}
	return a.Overlay(srt.Address{StreamID: o.StreamID, Passphrase: o.Passphrase, KeyBits: o.KeyBits, Latency: o.Latency})
}

type egress struct{}

// CheckTarget implements [sdk.TargetChecker].
func (egress) CheckTarget(target sdk.Target) error {
	var opts Options
	if err := target.Options(&opts); err != nil {
		return err
	}
	_, err := opts.address(target.URL, target.Key)
	return err
}

// Open implements [sdk.Egress].
func (egress) Open(ctx context.Context, target sdk.Target, tracks []media.Track) (sdk.Sink, error) {
	var opts Options
	if err := target.Options(&opts); err != nil {
		return nil, configError(err)
	}
	at, err := opts.address(target.URL, target.Key)
	if err != nil {
		return nil, configError(err)
	}
	if err := checkTracks(tracks); err != nil {
		return nil, err
	}
	if at.Mode == srt.Listener {
		if target.Restricted {
			return nil, configError(errors.New("a target given by the API may not open a port of this machine"))
		}
		return openListener(target, at, opts, tracks)
	}
	return openCaller(ctx, target, at, opts, tracks)
}

// logger is that of a target.
func logger(t sdk.Target) *slog.Logger {
	return sdk.Logger().With("stream", t.Stream, "target", t.Name)
}

// checkTracks refuses what no transport stream carries.
func checkTracks(tracks []media.Track) error {
	for _, t := range tracks {
		if !mpegts.Carries(t.Codec) {
			return sdk.Permanent(&sdk.Error{
				Cause: sdk.CauseGateway,
				Err:   fmt.Errorf("srt carries h264, h265, aac and opus, and was given %s", t.Codec),
			})
		}
	}
	return nil
}

// configError is a fault of the configuration, which no retry cures.
func configError(err error) error {
	return sdk.Permanent(&sdk.Error{Cause: sdk.CauseConfig, Err: err})
}

// explain says whose fault err is and whether trying again soon may help.
func explain(err error) error {
	var rejected *srt.RejectedError
	var refused *sdk.RefusedAddressError
	var name *net.DNSError
	failure := func(class string) *sdk.Error { return &sdk.Error{Cause: sdk.CauseRemote, Class: class, Err: err} }
	switch {
	case errors.As(err, &refused):
		return configError(refused)
	case errors.As(err, &rejected):
		e := failure("refused")
		switch rejected.Code {
		case srt.BadSecret, srt.Unsecure:
			e.Class, e.Cause = "auth", sdk.CauseConfig
		case srt.Conflict:
			e.Class = "in_use"
		case srt.NotFound, srt.Unauthorized, srt.Forbidden, srt.BadRequest:
			e.Class, e.Cause = "key", sdk.CauseConfig
		}
		if rejected.Permanent() {
			return sdk.Permanent(e)
		}
		return e
	case errors.Is(err, srt.ErrInUse):
		return &sdk.Error{Cause: sdk.CauseConfig, Class: "in_use", Err: err}
	case errors.Is(err, srt.ErrNotOurs), errors.Is(err, srt.ErrForbidden):
		return &sdk.Error{Cause: sdk.CauseConfig, Class: "address", Err: err}
	case errors.As(err, &name):
		return failure("dns")
	case errors.Is(err, syscall.ECONNREFUSED):
		return failure("refused")
	case errors.Is(err, context.DeadlineExceeded):
		return failure("timeout")
	case errors.Is(err, srt.ErrClosed):
		return failure("closed")
	default:
		return &sdk.Error{Cause: sdk.CauseRemote, Err: err}
	}
}
