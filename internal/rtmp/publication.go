package rtmp

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bluenviron/gortmplib/pkg/amf0"

	"github.com/headgate/gateway/sdk/secret"
)

// A Publish is one publication: who sends what under which name.
type Publish struct {
	ID uint64
	// App is as the client sent it, without its query; both may hold a secret, as
	// the key does.
	App      string
	AppQuery secret.String
	Key      secret.String
	Remote   string
	// Agent is the client's flashVer.
	Agent string
	TLS   bool
	Since time.Time
	// Recording is the path of the file, if there is one.
	Recording string
	// Session is for the functions of the server's owner, who alone looks at it.
	Session any
}

// A publication is a Publish under way.
type publication struct {
	Publish
	conn     *serverConn
	meter    *meter
	file     *os.File
	buffered *bufio.Writer
	flv      *FLVWriter
}

// begin admits a publication.
func (s *Server) begin(p *publication) error {
	if s.Check != nil {
		if err := s.Check(&p.Publish); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Unique {
		for _, other := range s.active {
			if other.App == p.App && other.Key.Equal(p.Key) {
				return &StatusError{Stage: StagePublish, Code: "NetStream.Publish.BadName", Description: "Already publishing"}
			}
		}
	}
	s.lastID++
	p.ID = s.lastID
	if s.RecordDir != "" {
		// The name must not come from the client alone: keys are secrets, and paths.
		name := fmt.Sprintf("%s-%04d-%s.flv", fileName(p.App), p.ID, p.Since.UTC().Format("20060102T150405.000"))
		p.Recording = filepath.Join(s.RecordDir, name)
	}
	if s.active == nil {
		s.active = make(map[uint64]*publication)
	}
	s.active[p.ID] = p
	return nil
}

// record opens the file of p, if it is to have one.
func (p *publication) record() error {
	if p.Recording == "" {
		return nil
	}
	file, err := os.OpenFile(p.Recording, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("recording: %w", err)
	}
	buffered := bufio.NewWriterSize(file, recordBuffer)
	flv, err := NewFLVWriter(buffered, true, true)
	if err != nil {
		_ = file.Close()
		return err
	}
	p.file, p.buffered, p.flv = file, buffered, flv
	return nil
}

// fileName makes app fit for a file's name.
func fileName(app string) string {
	app = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, app)
	return app[:min(len(app), 64)]
}

// message takes in an audio, video or data message.
func (s *Server) message(p *publication, m Message) {
	now := time.Now()
	p.meter.observe(m, now)
	if p.flv != nil {
		if err := p.flv.WriteMessage(m); err != nil {
			s.log().Error("recording stopped", "file", p.Recording, "error", err)
			_ = p.file.Close()
			p.flv = nil
		}
	}
	if s.OnMessage != nil {
		s.OnMessage(&p.Publish, m, now)
	}
}

// end takes a publication down.
func (s *Server) end(p *publication, err error) {
	if p.flv != nil {
		if ferr := errors.Join(p.buffered.Flush(), p.file.Close()); ferr != nil {
			s.log().Error("recording", "file", p.Recording, "error", ferr)
		}
	}
	now := time.Now()
	st := p.meter.snapshot(now)
	st.Publish = p.Publish
	st.Session = nil // its owner has done with it, and it may hold much
	st.Ended = now
	if err != nil {
		st.EndedBy = err.Error()
	}
	s.mu.Lock()
	delete(s.active, p.ID)
	s.ended = append(s.ended, st)
	if len(s.ended) > maxEnded {
		s.ended = slices.Delete(s.ended, 0, len(s.ended)-maxEnded)
	}
	s.mu.Unlock()
	ended := s.log().With("id", p.ID, "app", p.App, "remote", p.Remote)
	if err != nil {
		ended = ended.With("error", err)
	}
	ended.Info("rtmp publication ended")
	if s.OnEnd != nil {
		s.OnEnd(&p.Publish, err)
	}
}

// Stats returns the figures of the publications under way and of the last ones
// that ended, by ID.
func (s *Server) Stats() []StreamStats {
	s.mu.Lock()
	list := slices.Clone(s.ended)
	active := make([]*publication, 0, len(s.active))
	for _, p := range s.active {
		active = append(active, p)
	}
	s.mu.Unlock()
	now := time.Now()
	for _, p := range active {
		st := p.meter.snapshot(now)
		st.Publish = p.Publish
		list = append(list, st)
	}
	slices.SortFunc(list, func(a, b StreamStats) int {
		switch {
		case a.ID < b.ID:
			return -1
		case a.ID > b.ID:
			return 1
		}
		return 0
	})
	// One that ended between the two looks is in both.
	return slices.CompactFunc(list, func(a, b StreamStats) bool { return a.ID == b.ID })
}

// Stat returns the figures of one publication that is under way.
func (s *Server) Stat(id uint64) (StreamStats, bool) {
	s.mu.Lock()
	p := s.active[id]
	s.mu.Unlock()
	if p == nil {
		return StreamStats{}, false
	}
	st := p.meter.snapshot(time.Now())
	st.Publish = p.Publish
	st.RTT = roundTrip(p.conn.raw)
	return st, true
}

// End sends the client of a publication away and tells it why. OnEnd gets why. What
// the client still sends is thrown away.
func (s *Server) End(id uint64, why *StatusError) {
	s.mu.Lock()
	p := s.active[id]
	s.mu.Unlock()
	if p != nil {
		p.conn.dismiss(why)
	}
}

// RequestReconnect asks the publisher of a publication to connect to tcURL and to
// leave this server when it has, as Enhanced RTMP has it; an empty tcURL means to
// come back here. Publishers that do not know it stay.
func (s *Server) RequestReconnect(id uint64, tcURL secret.String, description string) error {
	s.mu.Lock()
	p := s.active[id]
	s.mu.Unlock()
	if p == nil {
		return errors.New("the publication is over")
	}
	o := statusObject("status", "NetConnection.Connect.ReconnectRequest", description)
	if !tcURL.Empty() {
		o = append(o, amf0.ObjectEntry{Key: "tcUrl", Value: tcURL.Reveal()})
	}
	return p.conn.locked(func(w *chunkWriter) error { return w.command(chunkStreamCommand, 0, "onStatus", 0, nil, o) })
}
