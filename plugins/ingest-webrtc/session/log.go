package session

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// loggers passes pion's log on at one level below its own: what is an error to
// it is mostly a publisher who left.
type loggers struct{ log *slog.Logger }

func (l loggers) NewLogger(scope string) logging.LeveledLogger { return newLogger(l.log, scope) }

type logger struct{ log *slog.Logger }

func newLogger(log *slog.Logger, scope string) logger { return logger{log.With("pion", scope)} }

func (l logger) put(level slog.Level, text string) {
	l.log.Log(context.Background(), level, "WebRTC", "text", text)
}

func (l logger) putf(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.put(level, fmt.Sprintf(format, args...))
	}
}

func (l logger) Trace(string)                   {}
func (l logger) Tracef(string, ...any)          {}
func (l logger) Debug(string)                   {}
func (l logger) Debugf(string, ...any)          {}
func (l logger) Info(s string)                  { l.put(slog.LevelDebug, s) }
func (l logger) Infof(format string, a ...any)  { l.putf(slog.LevelDebug, format, a) }
func (l logger) Warn(s string)                  { l.put(slog.LevelDebug, s) }
func (l logger) Warnf(format string, a ...any)  { l.putf(slog.LevelDebug, format, a) }
func (l logger) Error(s string)                 { l.put(slog.LevelInfo, s) }
func (l logger) Errorf(format string, a ...any) { l.putf(slog.LevelInfo, format, a) }
