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

const (
	// renewalEvery is how often files are looked at that options of plugins name. What is
	// new counts when it is the same twice: certificate and key are two files.
	renewalEvery = 5 * time.Second
	// renewalTries is how often a plugin is given files of which it dies, or does not
	// answer.
	renewalTries = 3
)

// A renewal watches the files that the options of one plugin name, such as a certificate,
// and gives the plugin what is new in them.
type renewal struct {
	log  *slog.Logger
	read func() (map[string][]byte, error)
	give func(ctx context.Context, files map[string][]byte) error

	given  map[string][]byte // last, for good or bad
	seen   map[string][]byte // at the last look; nil if they could not be read
	unread int               // looks in a row at which they could not be
	failed int               // tries to give what was seen
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
	type content struct {
		files map[string][]byte
		err   error
	}
	t := time.NewTicker(renewalEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		// A network file system may never answer, and holds up nobody but this.
		read := make(chan content, 1)
		go func() {
			files, err := r.read()
			read <- content{files, err}
		}()
		select {
		case c := <-read:
			r.look(ctx, c.files, c.err)
		case <-ctx.Done():
			return
		}
	}
}

// look takes what the files hold now, or why they cannot be read, and gives the plugin
// what is new.
func (r *renewal) look(ctx context.Context, now map[string][]byte, err error) {
	if err != nil {
		r.seen = nil
		if r.unread++; r.unread == 2 {
			r.log.Error("files of the options cannot be read any more, the plugin goes on with what it has", "error", err)
		}
		return
	}
	if r.unread >= 2 {
		r.log.Info("files of the options can be read again")
	}
	r.unread = 0
	settled := r.seen != nil && maps.EqualFunc(now, r.seen, bytes.Equal)
	r.seen = now
	if !settled {
		r.failed = 0
		return
	}
	if maps.EqualFunc(now, r.given, bytes.Equal) {
		return
	}
	switch err := r.give(ctx, now); {
	case ctx.Err() != nil:
	case err == nil:
		r.given = now
		r.log.Info("renewed files are in use")
	case errors.Is(err, pluginhost.ErrNoProcess):
		// At the next look, perhaps.
	case errors.Is(err, pluginhost.ErrNotRenewed):
		r.given = now
		r.log.Warn("files of the options have changed; they count when the gateway is started again")
	case errors.Is(err, pluginhost.ErrNoAnswer) && r.failed+1 < renewalTries:
		r.failed++
	default:
		r.given = now
		r.log.Error("renewed files cannot be used, the plugin goes on with what it has", "error", err)
	}
}
