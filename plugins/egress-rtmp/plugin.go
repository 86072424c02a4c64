// Package egressrtmp is the egress that publishes to RTMP and RTMPS servers:
// H.264 passed on as it is, and AAC.
//
// It knows how a stream has to look for such a server: headers, timestamps,
// interleaving, and what the server's refusals mean. The protocol is in
// internal/rtmp; queues, drops and retries are the gateway's.
package egressrtmp

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/transcode"
)

// Plugin returns the plugin egress-rtmp.
func Plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:      "egress-rtmp",
		Shardable: true,
		Version:   sdk.Version,
		Egress: &sdk.EgressPlugin{
			Egress:        &egress{},
			Schemes:       []string{"rtmp", "rtmps"},
			Accepts:       accepts(),
			TargetOptions: &Options{},
			OpensEarly:    true,
			Presets:       presets(),
		},
		Transforms: []sdk.Transform{transcode.OpusToAAC()},
	}
}

// accepts is what every RTMP server takes.
func accepts() sdk.Accepts {
	return sdk.Accepts{Codecs: []media.Codec{media.H264, media.AAC}, VideoTracks: 1, AudioTracks: 1}
}

// Options are those of one target.
type Options struct {
	// CA is a file of root certificates (PEM) that verify the server of an rtmps
	// target instead of those of the system.
	CA sdk.File `json:"ca,omitzero" jsonschema:"description=file of root certificates (PEM) that verify the server instead of those of the system"`
	// Interleave is low or strict.
	Interleave Interleave `json:"interleave,omitempty" jsonschema:"enum=low,enum=strict,default=low,description=low sends every unit at once; strict orders audio and video by time and waits for it"`
}

// Interleave says in which order audio and video leave.
type Interleave string

// The ways to interleave.
const (
	// InterleaveLow sends each unit as it comes: timestamps rise on each track, not
	// across them.
	InterleaveLow Interleave = "low"
	// InterleaveStrict merges both tracks by time and waits for the slower one, for
	// servers that package what arrives in the order of arrival.
	InterleaveStrict Interleave = "strict"
)

// An egress opens targets.
type egress struct {
	mu sync.Mutex // guards the field below
	// redirects are where servers asked to reconnect to, by target; each counts for
	// one attempt.
	redirects map[targetName]secret.String
}

// A targetName names a target within the gateway.
type targetName struct{ stream, target string }

// Open implements [sdk.Egress].
func (e *egress) Open(ctx context.Context, target sdk.Target, tracks []media.Track) (sdk.Sink, error) {
	opts := Options{Interleave: InterleaveLow}
	if err := target.Options(&opts); err != nil {
		return nil, configError(err)
	}
	return e.open(ctx, target, opts, tracks)
}

func (e *egress) open(ctx context.Context, target sdk.Target, opts Options, tracks []media.Track) (sdk.Sink, error) {
	at, err := rtmp.ParseTarget(target.URL, target.Key)
	if err != nil {
		return nil, configError(err)
	}
	roots, err := opts.roots(at)
	if err != nil {
		return nil, configError(err)
	}
	switch opts.Interleave {
	case InterleaveLow, InterleaveStrict:
	default:
		return nil, configError(errors.New("interleave: want low or strict"))
	}
	name := targetName{target.Stream, target.Name}
	if to, ok := e.redirected(name); ok {
		if at, err = at.Redirect(to); err != nil {
			return nil, &sdk.Error{Cause: sdk.CauseRemote, Err: err}
		}
	}
	s := newSink(opts.Interleave)
	if err := s.setTracks(tracks); err != nil {
		return nil, err
	}
	conn, err := rtmp.Dial(ctx, rtmp.ClientConfig{Target: at, RootCAs: roots, Control: target.Control})
	if err != nil {
		return nil, explain(at, err)
	}
	s.target, s.conn = at, conn
	s.onReconnect = func(to secret.String) { e.redirect(name, to) }
	return s, nil
}

// redirect notes where the next attempt for a target goes.
func (e *egress) redirect(name targetName, to secret.String) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.redirects == nil {
		e.redirects = make(map[targetName]secret.String)
	}
	e.redirects[name] = to
}

// redirected takes the note back.
func (e *egress) redirected(name targetName) (secret.String, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	to, ok := e.redirects[name]
	delete(e.redirects, name)
	return to, ok
}

// roots returns the certificates that verify the server; nil for the system's.
func (o Options) roots(at rtmp.Target) (*x509.CertPool, error) {
	if o.CA.Name == "" && len(o.CA.Content) == 0 {
		return nil, nil
	}
	if !at.TLS {
		return nil, errors.New("ca: the target's URL is rtmp, which is not secured; want rtmps")
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(o.CA.Content) {
		return nil, fmt.Errorf("ca: no certificate in %s; want PEM", o.CA.Name)
	}
	return pool, nil
}

// configError is a fault of the configuration, which no retry cures.
func configError(err error) error {
	return sdk.Permanent(&sdk.Error{Cause: sdk.CauseConfig, Err: err})
}

// explain says whose fault err is and whether trying again soon may help.
func explain(at rtmp.Target, err error) error {
	var status *rtmp.StatusError
	if errors.As(err, &status) {
		err = fmt.Errorf("%s: %w", at, err)
		switch status.Kind() {
		case rtmp.RefusedKey:
			return configError(fmt.Errorf("%w (the server refuses the stream key or the login: check it)", err))
		case rtmp.RefusedApp:
			return configError(fmt.Errorf("%w (the server knows no such app: check the path of the URL)", err))
		default:
			return &sdk.Error{Cause: sdk.CauseRemote, Err: err}
		}
	}
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	var refused *sdk.RefusedAddressError
	switch {
	case errors.As(err, &refused):
		return configError(refused)
	case errors.As(err, &authority):
		return configError(fmt.Errorf("%w (name its root certificates with the option ca)", err))
	case errors.As(err, &host):
		return configError(err)
	case errors.As(err, &invalid):
		return sdk.Permanent(&sdk.Error{Cause: sdk.CauseRemote, Err: err})
	default:
		return &sdk.Error{Cause: sdk.CauseRemote, Err: err}
	}
}
