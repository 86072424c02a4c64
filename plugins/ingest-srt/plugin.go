// Package ingestsrt is the ingest for MPEG transport streams over SRT: encoders that
// call, and sources that are called.
//
// It knows what a stream id asks for, and how elementary streams become access
// units. Packets are taken apart by internal/mpegts, connections are internal/srt's;
// who may publish is the gateway's to say.
package ingestsrt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/headgate/gateway/internal/endpoint"
	"github.com/headgate/gateway/internal/srt"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// Plugin returns the plugin ingest-srt.
func Plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:    "ingest-srt",
		Version: sdk.Version,
		Options: &Options{},
		Ingest: &sdk.IngestPlugin{
			Ingest:  &ingest{},
			Codecs:  []media.Codec{media.H264, media.H265, media.AAC, media.Opus, media.MP2, media.MP3},
			Schemes: []string{"srt"},
		},
	}
}

// Options are those of the plugin.
type Options struct {
	Listen      string                   `json:"listen,omitempty" jsonschema:"description=Address of the UDP port on which encoders call; none if absent"`
	Passphrase  secret.String            `json:"passphrase,omitzero" jsonschema:"description=What every encoder must encrypt with: 10 to 79 characters"`
	Passphrases map[string]secret.String `json:"passphrases,omitempty" jsonschema:"description=The same for single streams by their name"`
	Latency     time.Duration            `json:"latency,omitempty" jsonschema:"description=How long is waited for what was lost; 120ms unless told otherwise. The larger one of both sides counts"`
	Programs    map[string]int           `json:"programs,omitempty" jsonschema:"description=Number of the program to take by the name of the stream; the first one otherwise"`
}

// Check implements [sdk.Checker].
func (o Options) Check() error {
	errs := []error{endpoint.Check("listen", o.Listen)}
	for _, name := range slices.Sorted(maps.Keys(o.Passphrases)) {
		errs = append(errs, checkPassphrase("passphrases."+name, o.Passphrases[name]))
	}
	errs = append(errs, checkPassphrase("passphrase", o.Passphrase))
	if o.Latency < 0 || o.Latency > srt.MaxLatency {
		errs = append(errs, fmt.Errorf("latency: out of range; want at most %v", srt.MaxLatency))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Programs)) {
		if n := o.Programs[name]; n < 1 || n > maxProgram {
			errs = append(errs, fmt.Errorf("programs.%s: no number of a program; want 1 to %d", name, maxProgram))
		}
	}
	if o.Listen == "" && (!o.Passphrase.Empty() || len(o.Passphrases) > 0) {
		errs = append(errs, errors.New("a passphrase is for encoders that call, and nobody can; add listen"))
	}
	return errors.Join(errs...)
}

// maxProgram is the largest number of a program; 0 is that of the network's table.
const maxProgram = 1<<16 - 1

func checkPassphrase(option string, p secret.String) error {
	if n := len(p.Reveal()); n != 0 && (n < 10 || n > 79) {
		return fmt.Errorf("%s: too short or too long; want 10 to 79 characters", option)
	}
	return nil
}

// passphrase is what the encoder of a stream must encrypt with.
func (o Options) passphrase(name string) secret.String {
	if p, ok := o.Passphrases[name]; ok {
		return p
	}
	return o.Passphrase
}

type ingest struct{}

// Serve implements [sdk.Ingest].
func (ingest) Serve(ctx context.Context, host *sdk.IngestHost) error {
	var o Options
	if err := host.Options(&o); err != nil {
		return err
	}
	if o.Listen == "" {
		<-ctx.Done()
		return nil
	}
	server, err := srt.Listen(srt.Address{Mode: srt.Listener, HostPort: o.Listen, Latency: o.Latency})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	sdk.Logger().Info("waiting for encoders", "srt", server.Addr())
	s := &service{host: host, options: o, busy: make(chan struct{}, maxPublishers)}
	return server.Run(ctx, func(c srt.Call) { s.answer(ctx, c) })
}

// usefulWithin is how long an encoder may send before there are pictures, or sound of
// one that sends no pictures; then the log says why there are none.
const usefulWithin = 5 * time.Second

// maxPublishers bounds the encoders at a time.
const maxPublishers = 500

// A service answers encoders who call.
type service struct {
	host    *sdk.IngestHost
	options Options
	busy    chan struct{}
}

// answer serves one encoder until it leaves.
func (s *service) answer(ctx context.Context, call srt.Call) {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		call.Reject(srt.Overload)
		return
	}
	log := sdk.Logger().With("remote", call.Remote())
	want, err := parseStreamID(call.StreamID())
	if err != nil {
		log.Warn("refused an encoder", "why", err)
		call.Reject(srt.BadRequest)
		return
	}
	log = log.With("stream", want.name)
	if err := call.Verify(s.options.passphrase(want.name)); err != nil {
		log.Warn("refused an encoder", "why", err)
		return
	}
	// The gateway decides within moments, and the encoder waits for three seconds.
	offering, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	pub, err := s.host.Offer(offering, sdk.Offer{
		Name: want.name, Credentials: want.token, Remote: call.Remote(), Agent: "srt",
		Codecs: Plugin().Ingest.Codecs,
	})
	if err != nil {
		log.Debug("refused an encoder", "why", err) // the gateway has told
		call.Reject(rejection(err))
		return
	}
	conn, err := call.Accept()
	if err != nil {
		pub.Close(err)
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, conn.Close)
	defer stop()
	pub.Close(receive(conn, pub, s.options.Programs[want.name], log))
}

// rejection is the code for a refusal by the gateway.
func rejection(err error) uint32 {
	var rejected *sdk.RejectedError
	if !errors.As(err, &rejected) {
		return srt.Overload
	}
	switch rejected.Reason {
	case sdk.Unauthenticated:
		return srt.Unauthorized
	case sdk.Forbidden:
		return srt.Forbidden
	case sdk.NotFound:
		return srt.NotFound
	case sdk.Conflict:
		return srt.Conflict
	case sdk.Unusable:
		return srt.BadRequest
	default:
		return srt.Overload
	}
}

// receive passes what comes on until the connection or the publication is over. It
// returns why: SRT tells a goodbye from a loss only by what is there to hear.
func receive(conn *srt.Conn, pub *sdk.Publication, program int, log *slog.Logger) error {
	stop := context.AfterFunc(done{pub}, conn.Close)
	defer stop()
	a := newAssembler(pub, program, log)
	b := make([]byte, 1500)
	began := time.Now()
	reported, told := began, false
	var bytes uint64
	for {
		n, err := conn.Read(b)
		if err != nil {
			a.demux.Flush()
			if pub.Err() != nil {
				return pub.Err()
			}
			return errors.New("the encoder ended the connection, or is not heard any more")
		}
		bytes += uint64(n)
		a.demux.Write(b[:n])
		if time.Since(reported) >= time.Second {
			reported = time.Now()
			pub.ReportStats(a.stats(conn.Stats(), bytes))
			if why := a.useless(); !told && why != "" && time.Since(began) >= usefulWithin {
				told = true
				log.Warn("what the encoder sends cannot be used", "why", why)
			}
		}
	}
}

// done is the life of a publication as a context.
type done struct{ pub *sdk.Publication }

func (d done) Deadline() (time.Time, bool) { return time.Time{}, false }
func (d done) Done() <-chan struct{}       { return d.pub.Done() }
func (d done) Err() error {
	select {
	case <-d.pub.Done():
		return context.Canceled
	default:
		return nil
	}
}
func (d done) Value(any) any { return nil }

// stats are the figures of a publisher.
func (a *assembler) stats(st srt.Stats, bytes uint64) sdk.IngestStats {
	c := a.demux.Counts()
	left := 0
	for _, n := range a.leftOut {
		left += n
	}
	return sdk.IngestStats{Bytes: bytes, UnitsLost: a.lost + a.damaged, Values: map[string]float64{
		"srt_rtt_seconds":         st.RTT.Seconds(),
		"srt_packets_received":    float64(st.Received),
		"srt_packets_lost":        float64(st.ReceiveLost),
		"srt_packets_too_late":    float64(st.ReceiveDropped),
		"srt_packets_undecrypted": float64(st.Undecrypted),
		"ts_continuity_errors":    float64(c.Lost),
		"ts_damaged":              float64(c.Damaged),
		"ts_unsynced_bytes":       float64(c.Unsynced),
		"ts_scrambled":            float64(c.Scrambled),
		"ts_streams_left_out":     float64(left),
		"ts_time_jumps":           float64(a.jumps),
	}}
}

// CheckSource implements [sdk.SourceChecker].
func (ingest) CheckSource(source secret.String) error {
	_, err := parseSource(source)
	return err
}

// parseSource reads the URL of a source, which is one to call.
func parseSource(source secret.String) (srt.Address, error) {
	at, err := srt.ParseAddress(source)
	if err == nil && at.Mode != srt.Caller {
		err = errors.New("a source is called, and this is an address to listen on; want srt://host:port")
	}
	return at, err
}

// Pull implements [sdk.Puller].
func (ingest) Pull(ctx context.Context, source secret.String, pub *sdk.Publication) error {
	var o Options
	if err := pub.Options(&o); err != nil {
		return err
	}
	at, err := parseSource(source)
	if err != nil {
		return sdk.Permanent(&sdk.Error{Cause: sdk.CauseConfig, Err: err})
	}
	dialing, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := srt.Dial(dialing, at, nil)
	if err != nil {
		return explain(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, conn.Close)
	defer stop()
	program, log := o.Programs[pub.Stream()], sdk.Logger().With("stream", pub.Stream())
	return &sdk.Error{Cause: sdk.CauseRemote, Class: "closed", Err: receive(conn, pub, program, log)}
}

// explain says whose fault err is and whether trying again soon may help.
func explain(err error) error {
	e := &sdk.Error{Cause: sdk.CauseRemote, Err: err}
	var rejected *srt.RejectedError
	var name *net.DNSError
	switch {
	case errors.As(err, &name):
		e.Class = "dns"
	case errors.As(err, &rejected):
		if e.Class = "refused"; rejected.Permanent() {
			e.Cause, e.Class = sdk.CauseConfig, "auth"
			return sdk.Permanent(e)
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Class = "refused"
	case errors.Is(err, context.DeadlineExceeded):
		e.Class = "timeout"
	}
	return e
}
