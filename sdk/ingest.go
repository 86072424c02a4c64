package sdk

import (
	"context"
	"net/http"

	"github.com/headgate/gateway/sdk/media"
)

// An IngestHost is the gateway as an [Ingest] sees it. Safe for concurrent use.
type IngestHost struct{}

// Options decodes the plugin's options into v, a pointer to the type that was
// declared in [Plugin.Options].
func (h *IngestHost) Options(v any) error { panic("sdk: contract only") }

// HandleHTTP serves the declared mounts with handler from now on. The gateway
// terminates TLS, limits headers and bodies, and passes the request on with its
// whole path; [http.Request.RemoteAddr] is the client's address.
func (h *IngestHost) HandleHTTP(handler http.Handler) { panic("sdk: contract only") }

// Offer asks for the right to publish and returns when the gateway has decided:
// a publication, or a *[RejectedError]. Allocate nothing for the publisher
// before.
func (h *IngestHost) Offer(ctx context.Context, o Offer) (*Publication, error) {
	panic("sdk: contract only")
}

// A Publication is one publisher's stream on its way into the gateway. Its
// methods are safe for concurrent use; units of one track must come from one
// goroutine.
type Publication struct{}

// SetTracks announces the tracks, or their change, before the first unit that
// needs them.
func (p *Publication) SetTracks(tracks []media.Track) { panic("sdk: contract only") }

// WriteAccessUnit hands a unit over; it never blocks. Set unit.Received to when
// its last byte arrived. If the gateway is behind by more than a safety cap the
// unit, and all up to the next random access point, are dropped and counted.
func (p *Publication) WriteAccessUnit(unit *media.AccessUnit) { panic("sdk: contract only") }

// ReportStats hands over the session's figures, about once a second.
func (p *Publication) ReportStats(s IngestStats) { panic("sdk: contract only") }

// Done is closed when the gateway ends the publication: another publisher took
// the name over, or the route is gone. Err says why then.
func (p *Publication) Done() <-chan struct{} { panic("sdk: contract only") }

// Err says why Done is closed; nil before.
func (p *Publication) Err() error { panic("sdk: contract only") }

// Close ends the publication: with nil when the publisher said goodbye, with an
// error when he was lost.
func (p *Publication) Close(lost error) { panic("sdk: contract only") }

// IngestStats are the figures of one publisher. Zero means unknown.
type IngestStats struct {
	Bytes     uint64
	UnitsLost uint64
	Values    map[string]float64 // figures of this plugin's own
}
