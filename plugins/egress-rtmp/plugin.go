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
			CodecsOption:  "codecs",
			Presets:       presets(),
		},
		Transforms: transcode.All(),
	}
}

// accepts is what every RTMP server takes, and what some take.
func accepts() sdk.Accepts {
	return sdk.Accepts{
		Codecs: []media.Codec{media.H264, media.AAC}, VideoTracks: 1, AudioTracks: 1,
		Optional: optional(),
	}
}

// An egress opens targets.
type egress struct {
	once sync.Once // of unmeasured

	mu sync.Mutex // guards the field below
	// redirects are where servers asked to reconnect to, by target; each counts for
	// one attempt.
	redirects map[targetName]secret.String
}

// A targetName names a target within the gateway.
type targetName struct{ stream, target string }

// CheckTarget implements [sdk.TargetChecker].
func (e *egress) CheckTarget(target sdk.Target) error {
	var opts Options
	if err := target.Options(&opts); err != nil {
		return err
	}
	opts.defaults()
	at, err := rtmp.ParseTarget(target.URL, target.Key)
	if err != nil {
		return err
	}
	_, err = opts.client(target, at)
	return err
}

// Open implements [sdk.Egress].
func (e *egress) Open(ctx context.Context, target sdk.Target, tracks []media.Track) (sdk.Sink, error) {
	var opts Options
	if err := target.Options(&opts); err != nil {
		return nil, configError(err)
	}
	return e.open(ctx, target, opts, tracks)
}

func (e *egress) open(ctx context.Context, target sdk.Target, opts Options, tracks []media.Track) (sdk.Sink, error) {
	opts.defaults()
	at, err := rtmp.ParseTarget(target.URL, target.Key)
	if err != nil {
		return nil, configError(err)
	}
	client, err := opts.client(target, at)
	if err != nil {
		return nil, configError(err)
	}
	name := targetName{target.Stream, target.Name}
	s := newSink(target, opts)
	s.client = client
	s.noteRedirect = func(to secret.String) { e.redirect(name, to) }
	if err := s.setTracks(tracks); err != nil {
		return nil, err
	}
	if to, ok := e.redirected(name); ok {
		// One that does not lead anywhere good is as none.
		if elsewhere, err := at.Redirect(to, opts.ReconnectTo); err == nil {
			client.Target = elsewhere
		}
	}
	conn, err := rtmp.Dial(ctx, client)
	if err != nil {
		return nil, explain(client.Target, err)
	}
	e.unmeasured(conn)
	s.start(newLeg(client.Target, conn))
	return s, nil
}

// unmeasured says once what is missing where the kernel tells nothing of a
// connection.
func (e *egress) unmeasured(conn *rtmp.Conn) {
	if conn.Stats().Kernel {
		return
	}
	e.once.Do(func() {
		sdk.Logger().Warn("this system tells nothing of its connections: lag counts without what waits in sockets, " +
			"there is no round trip, rate or count of retransmits, and a target that takes nothing is noticed later")
	})
}

// redirect notes where the next attempt for a target goes.
func (e *egress) redirect(name targetName, to secret.String) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.redirects == nil {
		e.redirects = make(map[targetName]secret.String)
	}
	if to.Empty() {
		delete(e.redirects, name)
		return
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

// configError is a fault of the configuration, which no retry cures.
func configError(err error) error {
	return sdk.Permanent(&sdk.Error{Cause: sdk.CauseConfig, Err: err})
}

// explain says whose fault err is, what kind of failure it is, and whether trying
// again soon may help.
func explain(at rtmp.Target, err error) error {
	class := rtmp.Class(err)
	e := &sdk.Error{Cause: sdk.CauseRemote, Class: class, Err: err}
	var status *rtmp.StatusError
	if errors.As(err, &status) {
		e.Err = fmt.Errorf("%s: %w", at, err)
	}
	ours := func(remedy string) error {
		e.Cause, e.Err = sdk.CauseConfig, fmt.Errorf("%w (%s)", e.Err, remedy)
		return sdk.Permanent(e)
	}
	var (
		refused   *sdk.RefusedAddressError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &refused):
		return sdk.Permanent(&sdk.Error{Cause: sdk.CauseConfig, Class: "address", Err: refused})
	case class == string(rtmp.RefusedKey):
		return ours("the server refuses the stream key: check it")
	case class == string(rtmp.RefusedLogin):
		return ours("the server refuses the login: check user and password")
	case class == string(rtmp.RefusedApp):
		return ours("the server knows no such app: check the path of the URL")
	case errors.Is(err, rtmp.ErrFingerprint):
		return ours("if its certificate was renewed, put the new fingerprint into the configuration")
	case errors.Is(err, rtmp.ErrProxyLogin):
		return ours("check user and password in the option proxy")
	case errors.As(err, &authority):
		return ours("name its root certificates with the option ca")
	case errors.As(err, &host):
		e.Cause = sdk.CauseConfig
		return sdk.Permanent(e)
	case errors.As(err, &invalid):
		return sdk.Permanent(e)
	default:
		return e
	}
}
