package pluginhost

import (
	"fmt"
	"log/slog"
	"math"
	"strings"
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
	codecsMax       = 64   // that a publisher or a peer names
	figuresMax      = 64   // of a session, of a plugin's own
	// secretBytesMax is the longest credential that is looked at.
	secretBytesMax = 16 << 10
	// backlogMax is how many control messages wait for a plugin that does not read.
	backlogMax = 8 << 10
	// farthest is how far from zero a timestamp may be: clocks that count from some
	// other year than ours are fine, sums of two of them must not overflow.
	farthest = time.Duration(1) << 62
	// reorderMax is how far apart the two timestamps of one unit may be.
	reorderMax = 10 * time.Second
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
	ready bool
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
	if u.DTS < -farthest || u.DTS > farthest || u.PTS < u.DTS-reorderMax || u.PTS > u.DTS+reorderMax {
		l.gap = true
		return fmt.Errorf("track %d: timestamps that make no sense: DTS %v, PTS %v", u.Track, u.DTS, u.PTS)
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

// remedy is what to do about a plugin that breaks the rules.
const remedy = "tell the plugin's author; gateway plugins check says which rule of docs/wire.md it breaks"

// figures are those of a plugin's own that can be shown: numbers, and not too many.
func figures(in map[string]float64) map[string]float64 {
	out := make(map[string]float64, min(len(in), figuresMax))
	for name, v := range in {
		if len(out) < figuresMax && len(name) <= nameBytesMax && !math.IsNaN(v) && !math.IsInf(v, 0) {
			out[name] = v
		}
	}
	return out
}

// facts are the texts of a plugin's own that can be shown.
func facts(in map[string]string) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]string, min(len(in), figuresMax))
	for name, v := range in {
		if len(out) < figuresMax && len(name) <= nameBytesMax {
			out[name] = cut(v, nameBytesMax)
		}
	}
	return out
}

// codecs are those that a plugin names, within reason.
func codecs(names []string) []media.Codec {
	var out []media.Codec
	for _, name := range names[:min(len(names), codecsMax)] {
		if len(name) <= nameBytesMax {
			out = append(out, media.Codec(strings.ToLower(name)))
		}
	}
	return out
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
	c.log.Warn("the plugin broke the rules of the wire", "session", session, "error", err, "not_logged", c.quiet, "remedy", remedy)
	c.last, c.quiet = now, 0
}

// cut returns s, no longer than limit bytes.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return s[:limit]
}
