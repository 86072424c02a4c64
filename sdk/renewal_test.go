package sdk_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/wire"
)

type paperOptions struct {
	Paper sdk.File `json:"paper,omitzero"`
}

func (o paperOptions) Check() error {
	if string(o.Paper.Content) == "blank" {
		return errors.New("paper: there is nothing on it")
	}
	return nil
}

// reader is an ingest that says what it has read.
type reader struct {
	follows bool // it asks for what is renewed
	has     chan string
	host    chan *sdk.IngestHost
}

func (r reader) Serve(ctx context.Context, host *sdk.IngestHost) error {
	read := func() error {
		var o paperOptions
		if err := host.Options(&o); err != nil {
			return err
		}
		if string(o.Paper.Content) == "torn" {
			return errors.New("it is torn")
		}
		r.has <- string(o.Paper.Content)
		return nil
	}
	if r.follows {
		if err := host.OnRenewal(read); err != nil {
			return err
		}
	} else if err := read(); err != nil {
		return err
	}
	r.host <- host
	<-ctx.Done()
	return nil
}

// TestOnRenewal: what the gateway renews reaches an ingest that asks for it, and only what
// it can use.
func TestOnRenewal(t *testing.T) {
	const options = `{"paper": "paper.txt"}`
	for _, follows := range []bool{true, false} {
		r := reader{follows: follows, has: make(chan string, 10), host: make(chan *sdk.IngestHost, 1)}
		p := sdk.Plugin{Name: "reader", Version: "1", Options: &paperOptions{}, Ingest: &sdk.IngestPlugin{Ingest: r, Codecs: []media.Codec{media.H264}}}
		g := plugintest.Attach(t, plugintest.Connect(t, p), []byte(options))
		if text := <-r.has; text != "" {
			t.Errorf("it has %q of a file that nobody gave it", text)
		}
		host := <-r.host
		has := ""
		f := func(options, text string, applied bool, refusal string) {
			t.Helper()
			g.Send(&wire.HostMsg{M: &wire.HostMsg_Configure{Configure: &wire.Configure{
				OptionsJson: []byte(options), Files: map[string][]byte{"paper": []byte(text)},
			}}})
			c := g.Recv().GetConfigured()
			if c == nil || c.GetApplied() != applied || (c.GetError() != "") != (refusal != "") || !strings.Contains(c.GetError(), refusal) {
				t.Errorf("follows %v, %s: %v, want applied %v, error %q", follows, text, c, applied, refusal)
			}
			if applied {
				has = text
				if got := <-r.has; got != text {
					t.Errorf("it has %q, want %q", got, text)
				}
			}
			var o paperOptions
			if err := host.Options(&o); err != nil || string(o.Paper.Content) != has {
				t.Errorf("follows %v, %s: its options have %q, want %q; %v", follows, text, o.Paper.Content, has, err)
			}
		}
		f(options, "first", follows, "")
		f(options, "blank", false, "there is nothing on it")
		f(`{"paper": "another.txt"}`, "second", false, "")
		if follows {
			f(options, "torn", false, "it is torn")
		}
		f(options, "second", follows, "")
	}
}
