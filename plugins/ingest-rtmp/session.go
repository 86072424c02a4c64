package ingestrtmp

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
)

const (
	// silentAfter is when the gateway is told that no media come; silenceTimeout ends
	// a publication whose connection stands but brings none.
	silentAfter    = 500 * time.Millisecond
	silenceTimeout = 10 * time.Second
	statsEvery     = time.Second
	lookEvery      = silentAfter / 5
)

// A publication is what a session writes to: *[sdk.Publication].
type publication interface {
	writer
	ReportStats(s sdk.IngestStats)
	ReportSilence(silent bool)
	Done() <-chan struct{}
	Err() error
	Close(lost error)
}

// A session is one publisher. The server's goroutine calls begin, message and end;
// watch looks after the publication beside it.
type session struct {
	server *rtmp.Server
	id     uint64 // of the publication at the server
	pub    publication
	log    *slog.Logger
	media  *assembler

	bytes   atomic.Uint64
	begun   int64        // as heardAt
	heardAt atomic.Int64 // Unix nanoseconds of the last unit, at first of the beginning
	over    chan struct{}
	watcher sync.WaitGroup
}

func newSession(server *rtmp.Server, pub publication, log *slog.Logger) *session {
	return &session{server: server, pub: pub, log: log, media: newAssembler(pub, log), over: make(chan struct{})}
}

func (s *session) begin(id uint64) {
	s.id = id
	s.begun = time.Now().UnixNano()
	s.heardAt.Store(s.begun)
	s.watcher.Go(s.watch)
}

func (s *session) message(m rtmp.Message, arrived time.Time) {
	s.bytes.Add(uint64(len(m.Body)))
	if s.media.take(m, arrived) {
		s.heardAt.Store(arrived.UnixNano())
	}
}

// end is called when the connection is over: err is nil if the publisher said so.
func (s *session) end(err error) {
	close(s.over)
	s.watcher.Wait()
	s.pub.Close(lost(err))
}

// lost says in words of publishers why a connection ended.
func lost(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("nothing was heard of the publisher for %v", idleTimeout)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return errors.New("the publisher closed the connection without a goodbye")
	default:
		return err
	}
}

// watch ends the connection when the gateway ends the publication or no media come,
// and reports.
func (s *session) watch() {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var reported time.Time
	silent := false
	for {
		select {
		case <-s.over:
			return
		case <-s.pub.Done():
			s.leave("NetStream.Publish.BadName", s.pub.Err())
			<-s.over
			return
		case now := <-ticker.C:
			quiet := now.Sub(time.Unix(0, s.heardAt.Load()))
			if is := quiet >= silentAfter; is != silent {
				silent = is
				s.pub.ReportSilence(silent)
			}
			if quiet >= silenceTimeout {
				s.leave("NetStream.Publish.Failed", s.silence())
				<-s.over
				return
			}
			if now.Sub(reported) >= statsEvery {
				reported = now
				s.pub.ReportStats(s.stats())
			}
		}
	}
}

// silence is why a publisher of whom nothing came for silenceTimeout is sent away.
func (s *session) silence() error {
	switch f := &s.media.figures; {
	case s.heardAt.Load() != s.begun: // it was well before
	case f.early.Load() > 0:
		return fmt.Errorf("what came for %v cannot be decoded: a keyframe or a sequence header is missing", silenceTimeout)
	case f.leftOut.Load() > 0:
		return fmt.Errorf("what came for %v is in codecs that are not carried: send H.264 and AAC", silenceTimeout)
	}
	return fmt.Errorf("no picture and no sound came for %v", silenceTimeout)
}

// leave tells the publisher why he is sent away.
func (s *session) leave(code string, why error) {
	if why == nil {
		why = errors.New("the gateway ended the publication")
	}
	s.server.End(s.id, &rtmp.StatusError{Stage: rtmp.StageLive, Code: code, Description: why.Error()})
}

// stats are the figures of the publisher.
func (s *session) stats() sdk.IngestStats {
	f := &s.media.figures
	out := sdk.IngestStats{Bytes: s.bytes.Load(), UnitsLost: f.damaged.Load(), Values: map[string]float64{
		"rtmp_damaged":         float64(f.damaged.Load()),
		"rtmp_before_keyframe": float64(f.early.Load()),
		"rtmp_left_out":        float64(f.leftOut.Load()),
		"rtmp_time_jumps":      float64(f.jumps.Load()),
	}}
	if st, ok := s.server.Stat(s.id); ok {
		out.RTT = st.RTT
		out.Values["rtmp_extended_timestamp_faults"] = float64(st.ExtendedFaults)
		if st.Encoder != "" {
			out.Info = map[string]string{"encoder": st.Encoder}
		}
	}
	return out
}
