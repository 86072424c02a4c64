package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/gateway/core"
	"github.com/headgate/gateway/core/api"
	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/sdk/secret"
)

// runStream is the stream of a gateway without a file.
const runStream = "live"

// endTime is how long the orderly end may take in all.
const endTime = 5 * time.Second

// addresses are the flags that override the listeners.
type addresses struct{ listen, admin string }

func (ad *addresses) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&ad.listen, "listen", "", "public address, host:port (default "+config.DefaultListen+")")
	cmd.Flags().StringVar(&ad.admin, "admin", "", "address of API and metrics, host:port (default "+config.DefaultAdmin+")")
}

func (ad *addresses) overrides(cmd *cobra.Command) []config.Override {
	var out []config.Override
	for _, key := range []string{"listen", "admin"} {
		if f := cmd.Flags().Lookup(key); f.Changed {
			out = append(out, config.Override{Flag: "--" + key, Key: key, Value: f.Value.String()})
		}
	}
	return out
}

func newRun(a *app) *cobra.Command {
	var to []string
	var ad addresses
	cmd := &cobra.Command{
		Use: "run [gateway.yaml]", GroupID: groupRun, ValidArgsFunction: completeFile,
		Short: "Run the gateway, with a configuration or with --to alone",
		Long: `Run the gateway: with a configuration, or without any file for one stream.

--to takes a URL, or the name of a service and its stream key: youtube:KEY.
docs/presets.md and gateway plugins list have the names. It prints the WHIP address for
OBS, the address of the publish page and a token made for this run. Others on this
machine can see the arguments of a command: write '${env:NAME}' or '${file:/path}' for
the key (in single quotes, so that the shell leaves it alone), or - to read URLs from
standard input, one per line.

Ctrl-C and SIGTERM end it in order within 5 seconds, a second Ctrl-C at once.`,
		Example: `  gateway run gateway.yaml
  gateway run --to rtmp://127.0.0.1/live/test
  gateway run --to 'youtube:${env:YT_KEY}' --to 'twitch:${file:twitch-key.txt}'
  gateway run --to 'rtmps://a.rtmps.youtube.com/live2/${env:YT_KEY}'
  pass show youtube-url | gateway run --to -`,
		Args: atMostOneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			switch {
			case len(args) == 1 && len(to) > 0:
				return errors.New("a file and --to exclude each other: the file has the targets")
			case len(args) == 1:
				cfg, err := a.load(ctx, args[0], ad.overrides(cmd))
				if err != nil {
					return err
				}
				return failed(a.serve(ctx, cfg, banner{file: args[0]}, nil))
			case len(to) == 0:
				return errors.New("say what to run: a file (gateway run gateway.yaml) or targets (gateway run --to URL)")
			}
			r := config.Run{Stream: runStream, Token: secret.New(rand.Text())}
			if first := slices.Index(to, "-"); first >= 0 && slices.Contains(to[first+1:], "-") {
				return errors.New("--to - can be given once: it reads all of standard input")
			}
			for _, url := range to {
				if url != "-" {
					r.Targets = append(r.Targets, config.RunTarget{URL: url})
					continue
				}
				urls, err := readURLs(a.in)
				if err != nil {
					return err
				}
				r.Targets = append(r.Targets, urls...)
			}
			cfg, err := a.checked(config.ForRun(ctx, r, a.configOptions(ad.overrides(cmd))))
			if err != nil {
				return err
			}
			return failed(a.serve(ctx, cfg, banner{token: r.Token}, nil))
		},
	}
	cmd.Flags().StringArrayVar(&to, "to", nil, "target: a URL, or PRESET:KEY; may be repeated; - reads them from standard input")
	ad.flags(cmd)
	return cmd
}

// readURLs reads one URL per line. Nothing in them is a reference.
func readURLs(in io.Reader) ([]config.RunTarget, error) {
	var out []config.RunTarget
	lines := bufio.NewScanner(io.LimitReader(in, 64<<10))
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" {
			out = append(out, config.RunTarget{URL: line, Literal: true})
		}
	}
	if lines.Err() != nil || len(out) == 0 {
		return nil, errors.New("--to -: standard input has no URL")
	}
	return out, nil
}

// listeners are opened before anything is started, so that a busy port is the
// first thing that is said.
type listeners struct{ public, admin net.Listener }

func open(ctx context.Context, cfg *config.Config) (listeners, error) {
	public, err := listenFor(ctx, "listen", cfg.Listen)
	if err != nil {
		return listeners{}, err
	}
	admin, err := listenFor(ctx, "admin", cfg.Admin)
	if err != nil {
		_ = public.Close() // nothing was served on it
		return listeners{}, err
	}
	return listeners{public, admin}, nil
}

// close is for when nothing was served on them.
func (l listeners) close() {
	_ = l.public.Close() // there is nothing that could be lost
	_ = l.admin.Close()
}

// listenFor listens for a key of the configuration.
func listenFor(ctx context.Context, key, addr string) (net.Listener, error) {
	return listenOn(ctx, key, addr,
		fmt.Sprintf("choose another with the key %s of the configuration, with --%s or with GATEWAY_%s", key, key, strings.ToUpper(key)))
}

func listenOn(ctx context.Context, what, addr, remedy string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, listenError(what, addr, remedy, err)
	}
	return l, nil
}

// A companion runs beside the gateway from when it is ready until it ends.
type companion func(ctx context.Context, g *core.Gateway) error

// serve runs cfg until ctx ends or something fails.
func (a *app) serve(ctx context.Context, cfg *config.Config, b banner, beside companion) error {
	l, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	plugins, err := specs(cfg, l.public.Addr())
	if err != nil {
		l.close()
		return err
	}
	if err := probe(ctx, cfg, plugins); err != nil {
		l.close()
		return err
	}
	v, revision := build()
	g := core.New(core.Options{Log: a.log, Version: v, Plugins: plugins})
	server := api.New(api.Options{Config: cfg, Gateway: g, Mounts: g.Mounts, Ready: g.Ready(), Version: v, Revision: revision, Log: a.log})

	// The HTTP server outlives the gateway: publishers say goodbye through it
	// while the gateway ends.
	httpCtx, stopHTTP := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHTTP()
	coreCtx, stopCore := context.WithCancel(ctx)
	defer stopCore()
	httpDone, coreDone := make(chan error, 1), make(chan error, 1)
	go func() { httpDone <- server.Run(httpCtx, l.public, l.admin) }()
	go func() { coreDone <- g.Run(coreCtx, cfg) }()

	besideDone := make(chan error, 1)
	go func() {
		defer close(besideDone)
		select {
		case <-g.Ready():
		case <-coreCtx.Done():
			return
		}
		at := placesOf(cfg, l)
		b.print(a.out, cfg, at)
		if beside != nil {
			besideDone <- beside(coreCtx, g)
			return
		}
		<-coreCtx.Done()
	}()

	var failure error
	var coreEnded, httpEnded, besideEnded bool
	select {
	case <-ctx.Done():
		a.log.Info("ending: targets are drained, a second signal ends at once")
	case failure = <-coreDone:
		coreEnded = true
		if failure == nil && ctx.Err() == nil {
			failure = errors.New("the gateway ended by itself; its log says why")
		}
	case failure = <-httpDone:
		httpEnded = true
	case failure = <-besideDone:
		besideEnded = true
	}
	server.Drain()
	stopCore()
	late := time.NewTimer(endTime)
	defer late.Stop()
	wait := func(done <-chan error, ended bool, what string) {
		if ended {
			return
		}
		select {
		case err := <-done:
			if failure == nil {
				failure = err
			}
		case <-late.C:
			late.Reset(0)
			if failure == nil {
				failure = fmt.Errorf("%s did not end within %v", what, endTime)
			}
		}
	}
	wait(besideDone, besideEnded, "the display")
	wait(coreDone, coreEnded, "the gateway")
	stopHTTP()
	wait(httpDone, httpEnded, "the HTTP server")
	return failure
}

// places are the addresses as a person uses them.
type places struct{ public, admin string }

func placesOf(cfg *config.Config, l listeners) places {
	scheme := "http"
	if cfg.TLS != nil {
		scheme = "https"
	}
	return places{public: scheme + "://" + reachable(cfg.Listen, l.public), admin: "http://" + reachable(cfg.Admin, l.admin)}
}

// reachable is the address of a listener for a browser on this machine, where a
// loopback address is called localhost: the camera is allowed there.
func reachable(configured string, l net.Listener) string {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	name, _, err := net.SplitHostPort(configured)
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() || err != nil || ip != nil && ip.Equal(net.IPv4(127, 0, 0, 1)) {
		name = "localhost"
	}
	return net.JoinHostPort(name, port)
}

// A banner is what is said once the gateway runs.
type banner struct {
	file  string        // the configuration, if there is one
	token secret.String // shown: it was made for this run and nobody else knows it
	demo  bool
}

func (b banner) print(out io.Writer, cfg *config.Config, at places) {
	var w strings.Builder
	fmt.Fprintf(&w, "\nHeadgate is running.\n")
	for _, r := range cfg.Routes {
		fmt.Fprintf(&w, "\n  %s\n", r.Name)
		name := r.Name
		if config.IsPattern(name) {
			name = strings.ReplaceAll(name, "*", "NAME")
		}
		line := func(what, is string) { fmt.Fprintf(&w, "    %-9s %s\n", what, is) }
		switch {
		case r.From != nil:
			line("from", config.Address(r.From.URL))
		default:
			token, fragment := "", ""
			switch {
			case !b.token.Empty():
				token = b.token.Reveal()
			case !r.Publish.Token.Empty():
				token = "TOKEN"
			}
			if token != "" {
				fragment = "#token=" + token
			}
			line("browser", at.public+"/publish/"+name+fragment)
			line("WHIP", at.public+"/whip/"+name)
			for _, d := range opened(cfg) {
				if d.publish != nil {
					line(d.protocol, d.publish(local(d.addr), name, token))
				}
			}
			if !b.token.Empty() {
				line("token", b.token.Reveal())
			} else if !r.Publish.Token.Empty() {
				line("token", "publish.token of the configuration")
			}
		}
		widest := 0
		for _, t := range r.To {
			widest = max(widest, len(t.Name))
		}
		for i, t := range r.To {
			what := "to"
			if i > 0 {
				what = ""
			}
			note := ""
			if !t.Enabled {
				note = " (switched off)"
			}
			line(what, fmt.Sprintf("%-*s  %s%s", widest, t.Name, config.Address(t.URL), note))
		}
		if len(r.To) == 0 {
			line("to", "no target")
		}
	}
	fmt.Fprintf(&w, "\n  status    %s/\n", at.admin)
	if next := b.next(cfg, at); next != "" {
		fmt.Fprintf(&w, "\n%s\n", next)
	}
	fmt.Fprintln(&w)
	_, _ = io.WriteString(out, w.String()) // a closed standard output is no reason to end
}

// next is what to do now.
func (b banner) next(cfg *config.Config, at places) string {
	var out []string
	if b.demo && cfg.Routes[0].From != nil {
		return "The built-in test card plays. Below stands what arrives at the targets. Ctrl-C ends."
	}
	if b.demo {
		return "Open the browser address and press Start. Ctrl-C ends."
	}
	for _, r := range cfg.Routes {
		if r.From == nil {
			out = append(out, "Open the browser address, or in OBS choose Settings, Stream, service WHIP, and enter\nthe WHIP address as server and the token as bearer token. Ctrl-C ends.")
			break
		}
	}
	if !config.Loopback(cfg.Listen) && cfg.TLS == nil && strings.HasPrefix(at.public, "http://") {
		out = append(out, "Browsers allow the camera on localhost and over HTTPS only: publishing from another\nmachine needs the key tls, or a proxy in front.")
	}
	return strings.Join(out, "\n\n")
}
