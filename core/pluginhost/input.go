package pluginhost

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// What a plugin sends is the input of a process that may be broken or hostile. A
// unit that breaks the rules is left out, a session that goes on breaking them is
// ended; the gateway and the other sessions never notice.

const (
	tracksMax       = 64
	nameBytesMax    = 256
	configBytesMax  = 256 << 10
	messageBytesMax = 2 << 10
	offersMax       = 1024 // waiting for a decision, per process
	// badUnitsMax is how many units in a row a session may get wrong.
	badUnitsMax = 250
	// complaintInterval is how often one process's faults are logged.
	complaintInterval = time.Second
)

// input is what one session has sent so far.
type input struct {
	lanes map[media.TrackID]*lane
	bad   int // units in a row that broke the rules
	owed  int // bytes of credit to give back
}

// lane is what is known of one track of a session.
type lane struct {
	started bool
	lastDTS time.Duration
	gap     bool // units were left out before the next one
}

// setTracks checks new tracks and takes them over.
func (in *input) setTracks(tracks []media.Track) error {
	if len(tracks) > tracksMax {
		return fmt.Errorf("%d tracks, more than %d", len(tracks), tracksMax)
	}
	lanes := make(map[media.TrackID]*lane, len(tracks))
	for _, t := range tracks {
		switch {
		case t.ID == 0:
			return fmt.Errorf("a track without a number")
		case lanes[t.ID] != nil:
			return fmt.Errorf("two tracks of the number %d", t.ID)
		case t.Codec == "" || len(t.Codec) > nameBytesMax || len(t.Language) > nameBytesMax || len(t.Group) > nameBytesMax:
			return fmt.Errorf("track %d: codec, language or group is missing or too long", t.ID)
		case len(t.DecoderConfig) > configBytesMax:
			return fmt.Errorf("track %d: a decoder config of %d bytes", t.ID, len(t.DecoderConfig))
		}
		lanes[t.ID] = in.lanes[t.ID]
		if lanes[t.ID] == nil {
			lanes[t.ID] = &lane{}
		}
	}
	in.lanes = lanes
	return nil
}

// unit checks one unit. It must be left out after an error.
func (in *input) unit(u *media.AccessUnit) error {
	err := in.check(u)
	if err != nil {
		in.bad++
		return err
	}
	in.bad = 0
	return nil
}

func (in *input) check(u *media.AccessUnit) error {
	l := in.lanes[u.Track]
	if l == nil {
		return fmt.Errorf("a unit of track %d, which was not announced", u.Track)
	}
	if len(u.Payload) == 0 || len(u.Payload) > wire.MaxPayloadBytes {
		l.gap = true
		return fmt.Errorf("track %d: a payload of %d bytes", u.Track, len(u.Payload))
	}
	if l.started && u.DTS <= l.lastDTS {
		l.gap = true
		return fmt.Errorf("track %d: the time goes back from %v to %v", u.Track, l.lastDTS, u.DTS)
	}
	l.started, l.lastDTS = true, u.DTS
	u.Discontinuity = u.Discontinuity || l.gap
	l.gap = false
	return nil
}

// A complaint logs the faults of one process, but not each of them.
type complaint struct {
	log   *slog.Logger
	last  time.Time
	quiet int // faults since, not logged
}

func (c *complaint) about(session uint32, err error) {
	now := time.Now()
	if now.Sub(c.last) < complaintInterval {
		c.quiet++
		return
	}
	c.log.Warn("the plugin broke the rules of the wire", "session", session, "error", err, "not_logged", c.quiet)
	c.last, c.quiet = now, 0
}

// cut returns s, no longer than limit bytes.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return s[:limit]
}
