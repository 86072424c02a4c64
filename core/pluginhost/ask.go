package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/headgate/gateway/sdk/wire"
)

// Describe starts the plugin of spec, asks it what it is and ends it again.
func Describe(ctx context.Context, spec Spec, log *slog.Logger) (info *wire.DescribeResponse, err error) {
	err = ask(ctx, spec, log, func(ctx context.Context, c wire.PluginClient) error {
		if info, err = c.Describe(ctx, &wire.DescribeRequest{}); err != nil {
			return fmt.Errorf("asking what it is: %w", told(err))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// Validate starts the plugin of spec, asks it what is wrong with options and targets
// and ends it again. A plugin that has no answer to that finds nothing.
func Validate(ctx context.Context, spec Spec, r *wire.ValidateRequest, log *slog.Logger) (*wire.ValidateResponse, error) {
	var answer *wire.ValidateResponse
	err := ask(ctx, spec, log, func(ctx context.Context, c wire.PluginClient) (err error) {
		answer, err = c.Validate(ctx, r)
		if status.Code(err) == codes.Unimplemented {
			answer, err = &wire.ValidateResponse{}, nil
		}
		if err != nil {
			return fmt.Errorf("asking what is wrong with its options: %w", told(err))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// ask starts the plugin of spec for a question. All of it takes no longer than a start
// and an answer may.
func ask(ctx context.Context, spec Spec, log *slog.Logger, question func(context.Context, wire.PluginClient) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("plugin %s: %w", spec.Name, err)
		}
	}()
	dir, err := newRunDir("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.remove()) }()
	t := defaultTimings()
	l := launcher{spawn: newSpawner(), dir: dir.path, log: log.With("plugin", spec.Name), veil: &veil{}, startTimeout: t.start}
	spawnCtx, stop := context.WithCancel(context.Background())
	var spawning sync.WaitGroup
	spawning.Go(func() { l.spawn.run(spawnCtx) })
	defer spawning.Wait()
	defer stop()

	p, err := l.launch(ctx, spec)
	if err != nil {
		return err
	}
	defer p.stop(t.stopGrace)
	ctx, cancel := context.WithTimeout(ctx, t.start)
	defer cancel()
	if err := question(ctx, wire.NewPluginClient(p.conn)); err != nil {
		return explain(err, p)
	}
	return nil
}
