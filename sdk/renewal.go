package sdk

import (
	"bytes"
	"context"
	"sync"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// A renewal keeps the options of the plugin and the files that they name, which the
// gateway reads again when they change.
type renewal struct {
	declared any    // Plugin.Options
	raw      []byte // the options, JSON
	hide     secret.Redaction
	changes  chan *wire.Configure // at most one: the gateway waits for the answer

	// one is held while use is called, which may take long, and guards it; nil: nobody
	// asked for it.
	one sync.Mutex
	use func() error

	mu    sync.Mutex // guards the fields below
	files map[string][]byte
	kept  bool // the ingest has read them, and may go on with what it read
}

func newRenewal(declared any, hello *wire.Hello, hide secret.Redaction) *renewal {
	return &renewal{
		declared: declared, raw: hello.GetOptionsJson(), files: hello.GetFiles(), hide: hide,
		changes: make(chan *wire.Configure, 1),
	}
}

// options decodes into v what there is now. kept says that the reader may go on with it.
func (r *renewal) options(v any, kept bool) error {
	r.mu.Lock()
	files := r.files
	r.kept = r.kept || kept
	r.mu.Unlock()
	return decodeOptions(r.raw, files, v)
}

// check is what is wrong with the options and these files.
func (r *renewal) check(files map[string][]byte) error {
	return guard(context.Background(), 0, r.hide, func() error { return checkOptions(r.raw, files, r.declared) })
}

func (r *renewal) follow(use func() error) error {
	r.one.Lock()
	defer r.one.Unlock()
	r.use = use
	return use()
}

// run answers the gateway's changes until ctx ends.
func (r *renewal) run(ctx context.Context, answer func(*wire.Configured)) {
	for {
		select {
		case m := <-r.changes:
			answer(r.apply(m))
		case <-ctx.Done():
			return
		}
	}
}

// apply takes new contents over.
func (r *renewal) apply(m *wire.Configure) *wire.Configured {
	if !bytes.Equal(m.GetOptionsJson(), r.raw) {
		return &wire.Configured{} // options are read once
	}
	if err := r.check(m.GetFiles()); err != nil {
		return &wire.Configured{Error: r.hide.Text(err.Error())}
	}
	r.one.Lock()
	defer r.one.Unlock()
	r.mu.Lock()
	before := r.files
	if r.use == nil && r.kept {
		r.mu.Unlock()
		return &wire.Configured{}
	}
	r.files = m.GetFiles()
	r.mu.Unlock()
	if r.use == nil {
		return &wire.Configured{Applied: true} // whoever reads them will read these
	}
	if err := guard(context.Background(), 0, r.hide, r.use); err != nil {
		r.mu.Lock()
		r.files = before
		r.mu.Unlock()
		return &wire.Configured{Error: r.hide.Text(err.Error())}
	}
	return &wire.Configured{Applied: true}
}
