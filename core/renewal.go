package core

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
)

// renewalEvery is how often files are looked at that options of plugins name. What is
// new counts when it is the same twice: certificate and key are two files.
const renewalEvery = 5 * time.Second

// A renewal watches the files that the options of one plugin name, such as a certificate,
// and gives the plugin what is new in them.
type renewal struct {
	log  *slog.Logger
	read func() (map[string][]byte, error)
	give func(ctx context.Context, files map[string][]byte) error

	given  map[string][]byte // last
	seen   map[string][]byte // at the last look
	unread string            // why they could not be read then
}

// renewals are those of all plugins whose options name files.
func renewals(cfg *config.Config, h host, log *slog.Logger) []*renewal {
	var out []*renewal
	for i := range cfg.Plugins {
		p := &cfg.Plugins[i]
		if len(p.FileNames) == 0 {
			continue
		}
		out = append(out, &renewal{
			log:   log.With("plugin", p.Name, "files", strings.Join(slices.Sorted(maps.Values(p.FileNames)), ", ")),
			given: p.Files, seen: p.Files,
			read: func() (map[string][]byte, error) { return cfg.ReadFiles(p) },
			give: func(ctx context.Context, files map[string][]byte) error { return h.Renew(ctx, p.Name, files) },
		})
	}
	return out
}

// run looks at the files until ctx ends.
func (r *renewal) run(ctx context.Context) {
	t := time.NewTicker(renewalEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			r.look(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// look reads the files and gives the plugin what is new.
func (r *renewal) look(ctx context.Context) {
	now, err := r.read()
	if err != nil {
		if r.unread != err.Error() {
			r.unread = err.Error()
			r.log.Error("files of the options cannot be read any more, the plugin goes on with what it has", "error", err)
		}
		r.seen = nil
		return
	}
	r.unread = ""
	settled := maps.EqualFunc(now, r.seen, bytes.Equal)
	r.seen = now
	if !settled || maps.EqualFunc(now, r.given, bytes.Equal) {
		return
	}
	r.given = now
	switch err := r.give(ctx, now); {
	case err == nil:
		r.log.Info("renewed files are in use")
	case ctx.Err() != nil:
	case errors.Is(err, pluginhost.ErrNotRenewed):
		r.log.Warn("files of the options have changed; the plugin takes them when the gateway is started again")
	default:
		r.log.Error("renewed files cannot be used, the plugin goes on with what it has", "error", err)
	}
}
