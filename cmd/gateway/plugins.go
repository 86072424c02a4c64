package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	rtmpegress "github.com/headgate/gateway/plugins/egress-rtmp"
	srtegress "github.com/headgate/gateway/plugins/egress-srt"
	clip "github.com/headgate/gateway/plugins/ingest-clip"
	rtmpingest "github.com/headgate/gateway/plugins/ingest-rtmp"
	rtspingest "github.com/headgate/gateway/plugins/ingest-rtsp"
	srtingest "github.com/headgate/gateway/plugins/ingest-srt"
	webrtc "github.com/headgate/gateway/plugins/ingest-webrtc"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/wire"
)

// pluginCommand is how the gateway starts itself as a built-in plugin.
const pluginCommand = "plugin"

// A builtIn is a first-party plugin that this file contains.
type builtIn struct {
	name   string
	plugin func() sdk.Plugin
	// doors are the ports that it opens for those who come, as far as its options say
	// so; nil: none.
	doors func(options []byte) []door
}

// builtIns is the table of them. A plugin is in the gateway because it stands
// here, for no other reason.
func builtIns() []builtIn {
	return []builtIn{
		{name: "egress-rtmp", plugin: rtmpegress.Plugin},
		{name: "egress-srt", plugin: srtegress.Plugin},
		{name: "ingest-clip", plugin: clip.Plugin},
		{name: "ingest-rtmp", plugin: rtmpingest.Plugin, doors: rtmpDoors},
		{name: "ingest-rtsp", plugin: rtspingest.Plugin, doors: rtspDoors},
		{name: "ingest-srt", plugin: srtingest.Plugin, doors: srtDoors},
		{name: webrtcPlugin, plugin: webrtc.Plugin, doors: webrtcDoors},
	}
}

// catalog is what the built-in plugins say of themselves.
func catalog() config.Catalog {
	c := config.Catalog{}
	for _, b := range builtIns() {
		c[b.name] = sdk.Describe(b.plugin())
	}
	return c
}

// self is how this executable is started again. On Linux that works even after
// the file was replaced or removed.
func self() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding the gateway's own executable: %w", err)
	}
	return exe, nil
}

// describe asks a third-party plugin what it is, for the configuration.
func describe(log *slog.Logger) func(context.Context, config.Plugin) (*wire.DescribeResponse, error) {
	return func(ctx context.Context, p config.Plugin) (*wire.DescribeResponse, error) {
		s, err := thirdParty(p)
		if err != nil {
			return nil, err
		}
		return pluginhost.Describe(ctx, s, log)
	}
}

// validate asks a plugin what is wrong with its options and targets: one that this file
// contains without a process.
func validate(log *slog.Logger) func(context.Context, config.Plugin, *wire.ValidateRequest) (*wire.ValidateResponse, error) {
	return func(ctx context.Context, p config.Plugin, r *wire.ValidateRequest) (*wire.ValidateResponse, error) {
		if i := slices.IndexFunc(builtIns(), func(b builtIn) bool { return b.name == p.Name }); i >= 0 {
			return sdk.Validate(builtIns()[i].plugin(), r), nil
		}
		s, err := thirdParty(p)
		if err != nil {
			return nil, err
		}
		return pluginhost.Validate(ctx, s, r, log)
	}
}

// thirdParty says how to reach a plugin that this file does not contain.
func thirdParty(p config.Plugin) (pluginhost.Spec, error) {
	s := specOf(p)
	started, err := startedByHand(os.Getenv(wire.ReattachEnv))
	s.Socket = started[p.Name]
	return s, err
}

// startedByHand returns the sockets of the plugins that a person started, by name, as
// the environment variable has them: NAME=SOCKET, separated by commas.
func startedByHand(variable string) (map[string]string, error) {
	sockets := map[string]string{}
	if variable == "" {
		return sockets, nil
	}
	for entry := range strings.SplitSeq(variable, ",") {
		name, socket, ok := strings.Cut(strings.TrimSpace(entry), "=")
		if !ok || name == "" || !filepath.IsAbs(socket) {
			return nil, fmt.Errorf("%s: want NAME=/path/of/the.sock, as a plugin prints it that is started by hand, got %q", wire.ReattachEnv, entry)
		}
		sockets[name] = socket
	}
	return sockets, nil
}

// specOf says how to start a plugin of which the configuration says p.
func specOf(p config.Plugin) pluginhost.Spec {
	return pluginhost.Spec{
		Name: p.Name, Command: []string{p.Path}, SHA256: p.SHA256, Options: p.Options, Files: p.Files,
		Env: p.Env, Dirs: p.Dirs, Instances: p.Instances, MemoryBytes: p.MemoryBytes,
	}
}

// specs say how to start every plugin that cfg may use. public is the address of
// the public listener.
func specs(cfg *config.Config, public net.Addr) ([]pluginhost.Spec, error) {
	exe, err := self()
	if err != nil {
		return nil, err
	}
	started, err := startedByHand(os.Getenv(wire.ReattachEnv))
	if err != nil {
		return nil, err
	}
	for name := range started {
		if _, ok := cfg.Catalog[name]; !ok {
			return nil, fmt.Errorf("%s names %q, which is no plugin of this gateway", wire.ReattachEnv, name)
		}
	}
	entries := map[string]config.Plugin{}
	for _, p := range cfg.Plugins {
		entries[p.Name] = p
	}
	var out []pluginhost.Spec
	for _, name := range slices.Sorted(maps.Keys(cfg.Catalog)) {
		p := entries[name]
		s := specOf(p)
		s.Name, s.Info, s.Socket = name, cfg.Catalog[name], started[name]
		if p.Path == "" {
			s.Command = []string{exe, pluginCommand, name}
		}
		if name == webrtcPlugin {
			if s.Options, err = withUDP(s.Options, public); err != nil {
				return nil, err
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// webrtcPlugin receives its media on a UDP port that by default is 8189 of the
// host of the public listener.
const (
	webrtcPlugin = "ingest-webrtc"
	udpPort      = "8189"
)

func withUDP(options []byte, public net.Addr) ([]byte, error) {
	m := map[string]any{}
	if len(options) > 0 {
		if err := json.Unmarshal(options, &m); err != nil {
			return nil, fmt.Errorf("reading the options of %s: %w", webrtcPlugin, err)
		}
	}
	if _, ok := m["udp"]; ok {
		return options, nil
	}
	host, _, err := net.SplitHostPort(public.String())
	if err != nil {
		return nil, fmt.Errorf("reading the public address: %w", err)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = ""
	}
	m["udp"] = net.JoinHostPort(host, udpPort)
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing the options of %s: %w", webrtcPlugin, err)
	}
	return b, nil
}

func newPlugins(a *app) *cobra.Command {
	var output string
	list := &cobra.Command{
		Use: "list [gateway.yaml]", ValidArgsFunction: completeFile,
		Short: "List the plugins, what they serve and their options",
		Long: "List the built-in plugins, and with a configuration also those that it adds:\n" +
			"what they are, the URLs they serve, and the options they take.",
		Example: "  gateway plugins list\n  gateway plugins list -o json gateway.yaml",
		Args:    atMostOneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			c := catalog()
			if len(args) == 1 {
				cfg, err := a.load(cmd.Context(), args[0], nil)
				if err != nil {
					return err
				}
				c = cfg.Catalog
			}
			switch output {
			case "json":
				return failed(writePluginsJSON(a.out, c))
			case "text":
				return failed(writePlugins(a.out, c))
			default:
				return fmt.Errorf("-o %s: want text or json", output)
			}
		},
	}
	list.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	complete(list, "output", "text", "json")
	return group(&cobra.Command{Use: "plugins", GroupID: groupLook, Short: "Look at plugins", Example: "  gateway plugins list"}, list, newCheck(a), newPin(a))
}

// pluginInfo is one plugin in `gateway plugins list -o json`.
type pluginInfo struct {
	Name          string          `json:"name"`
	Version       string          `json:"version"`
	Kinds         []string        `json:"kinds"`
	Sends         []string        `json:"sends,omitempty"`
	Fetches       []string        `json:"fetches,omitempty"`
	Mounts        []string        `json:"mounts,omitempty"`
	Transforms    []string        `json:"transforms,omitempty"`
	Options       json.RawMessage `json:"options_schema,omitempty"`
	TargetOptions json.RawMessage `json:"target_schema,omitempty"`
	Presets       []string        `json:"presets,omitempty"`
}

func info(name string, d *wire.DescribeResponse) pluginInfo {
	p := pluginInfo{Name: name, Version: d.GetVersion(), Mounts: d.GetMounts(), Kinds: []string{},
		Sends: d.GetEgress().GetSchemes(), Fetches: d.GetIngest().GetSchemes(),
		Options: d.GetOptionsSchema(), TargetOptions: d.GetEgress().GetTargetSchema()}
	if d.GetIngest() != nil {
		p.Kinds = append(p.Kinds, "ingest")
	}
	if d.GetEgress() != nil {
		p.Kinds = append(p.Kinds, "egress")
	}
	for _, pr := range d.GetEgress().GetPresets() {
		p.Presets = append(p.Presets, pr.GetName())
	}
	for _, t := range d.GetTransforms() {
		p.Transforms = append(p.Transforms, cmp.Or(t.GetFrom(), "silence")+"->"+t.GetTo())
	}
	if len(p.Transforms) > 0 {
		p.Kinds = append(p.Kinds, "transform")
	}
	return p
}

func writePluginsJSON(out io.Writer, c config.Catalog) error {
	list := []pluginInfo{}
	for _, name := range slices.Sorted(maps.Keys(c)) {
		list = append(list, info(name, c[name]))
	}
	return writeJSON(out, map[string]any{"plugins": list})
}

// writePlugins writes a paragraph per plugin: its lists are longer than a line of a
// table.
func writePlugins(out io.Writer, c config.Catalog) error {
	var b strings.Builder
	for i, name := range slices.Sorted(maps.Keys(c)) {
		p := info(name, c[name])
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s %s (%s)\n", p.Name, p.Version, strings.Join(p.Kinds, ", "))
		list := func(what string, items []string) {
			if len(items) == 0 {
				return
			}
			for n, l := range wrapped(strings.Join(items, " "), "                  ", 80) {
				if n == 0 {
					l = fmt.Sprintf("  %-16s", what) + strings.TrimSpace(l)
				}
				b.WriteString(l + "\n")
			}
		}
		var urls []string
		for _, s := range append(slices.Clone(p.Sends), p.Fetches...) {
			urls = append(urls, s+":")
		}
		list("URLs", urls)
		list("HTTP", p.Mounts)
		list("makes", p.Transforms)
		list("options", keysOf(p.Options))
		list("of a target", keysOf(p.TargetOptions))
		list("presets", p.Presets)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// keysOf are the keys of a JSON Schema.
func keysOf(schema []byte) []string {
	var s struct {
		Properties map[string]json.RawMessage `json:"properties"`
	}
	if json.Unmarshal(schema, &s) != nil {
		return nil // no schema: no keys
	}
	return slices.Sorted(maps.Keys(s.Properties))
}

func writeJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
