package sdk

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/headgate/gateway/sdk/wire"
)

// newLogger returns a logger that writes what the gateway reads from a plugin's
// standard error: one JSON object per line, with hclog's names for the level,
// the message and the time.
func newLogger(w io.Writer) *slog.Logger {
	level := slog.LevelInfo
	if os.Getenv(wire.LogLevelEnv) == "debug" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			// As text they are what people know; as JSON a struct and a number.
			switch v := a.Value.Any().(type) {
			case net.Addr:
				a.Value = slog.StringValue(v.String())
			case time.Duration:
				a.Value = slog.StringValue(v.String())
			}
			if len(groups) > 0 {
				return a
			}
			switch a.Key {
			case slog.TimeKey:
				if a.Value.Kind() == slog.KindTime {
					return slog.String("@timestamp", a.Value.Time().Format("2006-01-02T15:04:05.000000Z07:00"))
				}
			case slog.LevelKey:
				if l, ok := a.Value.Any().(slog.Level); ok {
					return slog.String("@level", strings.ToLower(levelName(l)))
				}
			case slog.MessageKey:
				a.Key = "@message"
			}
			return a
		},
	}))
}

// levelName rounds l down to a level that has a name.
func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return slog.LevelDebug.String()
	case l < slog.LevelWarn:
		return slog.LevelInfo.String()
	case l < slog.LevelError:
		return slog.LevelWarn.String()
	default:
		return slog.LevelError.String()
	}
}

// logPanic reports a panic in the author's code with its stack.
func logPanic(ctx context.Context, session uint32, value string, stack []byte) {
	slog.ErrorContext(ctx, "panic in a session", "session", session, "panic", value, "stack", string(stack))
}
