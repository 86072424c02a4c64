package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/derive"
)

// An app is what the commands share.
type app struct {
	streams
	logFormat, logLevel string
	log                 *slog.Logger
	level               slog.LevelVar
}

func newRoot(s streams) *cobra.Command {
	a := &app{streams: s, log: slog.New(slog.DiscardHandler)}
	root := &cobra.Command{
		Use:   "gateway",
		Short: "Headgate, a live media gateway: WebRTC in, every CDN out",
		Long: "Headgate takes a live stream from a browser, OBS or anything else that speaks WHIP,\n" +
			"from RTMP and SRT encoders and RTSP cameras, and sends it to as many RTMP, RTMPS and\n" +
			"SRT servers as you like.\n\n" +
			"Exit codes: 0 ended as asked, 1 something failed, 2 wrong arguments or a\n" +
			"configuration with errors. What a command finds goes to standard output, the log\n" +
			"and errors to standard error.",
		Example: `  gateway demo --test-source
  gateway run --to 'youtube:${env:YT_KEY}'
  gateway run gateway.yaml
  gateway top`,
		Args:          noSuchCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.startLog(cmd, s.err)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return failed(cmd.Help()) },
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	flags := root.PersistentFlags()
	flags.StringVar(&a.logFormat, "log-format", "", "format of the log on standard error: text or json (default text)")
	flags.StringVar(&a.logLevel, "log-level", "", "least level that is logged: debug, info, warn or error (default info)")
	root.AddGroup(&cobra.Group{ID: groupRun, Title: "Run:"}, &cobra.Group{ID: groupLook, Title: "Look and check:"})
	root.AddCommand(newRun(a), newTop(a), newDemo(a), newValidate(a), newPlugins(a), newSink(a), newSchema(a), newVersion(a))
	addCompletion(root)
	complete(root, "log-format", "text", "json")
	complete(root, "log-level", "debug", "info", "warn", "error")
	return root
}

// The groups of commands in the help.
const (
	groupRun  = "run"
	groupLook = "look"
)

// completeFile names configurations to the shell, for the first argument.
func completeFile(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

// complete names the values of a flag to the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	// It fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// noSuchCommand refuses what is no command below cmd, and says what may be meant.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q", args[0])
	cmd.SuggestionsMinimumDistance = 2 // letters that may be wrong
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("%w, did you mean %s?", err, strings.Join(near, " or "))
	}
	if ext := filepath.Ext(args[0]); !cmd.HasParent() && (ext == ".yaml" || ext == ".yml") {
		return fmt.Errorf("%w, did you mean gateway run %s?", err, args[0])
	}
	return err
}

// addCompletion adds cobra's commands for shells, with our manners.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	examples := map[string]string{
		"bash":       "  source <(gateway completion bash)",
		"zsh":        "  source <(gateway completion zsh)",
		"fish":       "  gateway completion fish | source",
		"powershell": "  gateway completion powershell | Out-String | Invoke-Expression",
	}
	for _, completion := range root.Commands() {
		if completion.Name() != "completion" {
			continue
		}
		group(completion).Example = examples["bash"]
		for _, shell := range completion.Commands() {
			shell.Example = examples[shell.Name()]
		}
	}
}

// group is a command that does nothing but hold others.
func group(cmd *cobra.Command, members ...*cobra.Command) *cobra.Command {
	cmd.Args = noSuchCommand
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return failed(cmd.Help()) }
	cmd.AddCommand(members...)
	return cmd
}

// shortPath is a command without the name of the program, which stands before
// every error.
func shortPath(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%s takes no arguments, and got %q", shortPath(cmd), args[0])
}

func atMostOneFile(cmd *cobra.Command, args []string) error {
	if len(args) < 2 {
		return nil
	}
	return fmt.Errorf("%s takes one configuration, and got %d", shortPath(cmd), len(args))
}

func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("name the configuration: %s gateway.yaml", cmd.CommandPath())
	}
	return atMostOneFile(cmd, args)
}

// startLog makes the log from flags and environment.
func (a *app) startLog(cmd *cobra.Command, to io.Writer) error {
	pick := func(flag, env, otherwise string) (value, name string) {
		if f := cmd.Flags().Lookup(flag); f != nil && f.Changed {
			return f.Value.String(), "--" + flag
		}
		if v := os.Getenv(env); v != "" {
			return v, env
		}
		return otherwise, "--" + flag
	}
	level, from := pick("log-level", "GATEWAY_LOG_LEVEL", "info")
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("%s %s: want debug, info, warn or error", from, level)
	}
	a.level.Set(l)
	format, from := pick("log-format", "GATEWAY_LOG_FORMAT", "text")
	switch format {
	case "text", "json":
	default:
		return fmt.Errorf("%s %s: want text or json", from, format)
	}
	a.logFormat = format
	a.logTo(to)
	return nil
}

// logTo sends the log somewhere else.
func (a *app) logTo(to io.Writer) {
	o := &slog.HandlerOptions{Level: &a.level}
	if a.logFormat == "json" {
		a.log = slog.New(slog.NewJSONHandler(to, o))
		return
	}
	a.log = slog.New(slog.NewTextHandler(to, o))
}

// load reads a configuration; warnings go to the log, errors to standard error.
func (a *app) load(ctx context.Context, file string, overrides []config.Override) (*config.Config, error) {
	return a.checked(config.Load(ctx, file, a.configOptions(overrides)))
}

func (a *app) configOptions(overrides []config.Override) config.Options {
	return config.Options{Catalog: catalog(), Describe: describe(a.log), Validate: validate(a.log), Lost: derive.LostOf, Made: derive.MadeOf, Overrides: overrides}
}

func (a *app) checked(cfg *config.Config, ds config.Diagnostics) (*config.Config, error) {
	if cfg == nil {
		fmt.Fprint(a.err, ds)
		return nil, coded{exitUsage, errReported}
	}
	for _, d := range ds {
		at := d.File
		if d.Line > 0 {
			at = fmt.Sprintf("%s:%d:%d", d.File, d.Line, d.Col)
		}
		a.log.Warn("configuration", "at", at, "key", d.Path, "finding", d.Finding, "remedy", d.Remedy)
	}
	return cfg, nil
}

func newValidate(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "validate gateway.yaml", GroupID: groupLook, ValidArgsFunction: completeFile, SuggestFor: []string{"check", "lint", "test"},
		Short: "Check a configuration and report every mistake at once",
		Long: "Check a configuration: every mistake is reported at once, with its place, what is\n" +
			"wrong and what to do. The exit code is 0 if it can be used and 2 if not. Nothing is\n" +
			"started, except third-party plugins, which are asked what they are.",
		Example: "  gateway validate gateway.yaml\n  gateway validate -o json gateway.yaml",
		Args:    oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: want text or json", output)
			}
			cfg, ds := config.Load(cmd.Context(), args[0], a.configOptions(nil))
			if output == "json" {
				if err := writeJSON(a.out, map[string]any{"valid": cfg != nil, "diagnostics": ds}); err != nil {
					return failed(err)
				}
			} else {
				fmt.Fprint(a.err, ds)
			}
			if cfg == nil {
				return coded{exitUsage, errReported}
			}
			if output == "text" {
				targets := 0
				for _, r := range cfg.Routes {
					targets += len(r.To)
				}
				fmt.Fprintf(a.out, "%s is valid: %s, %s\n", args[0], count(len(cfg.Routes), "route"), count(targets, "target"))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	complete(cmd, "output", "text", "json")
	return cmd
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func newSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "schema", GroupID: groupLook, ValidArgsFunction: cobra.NoFileCompletions,
		Short: "Print the JSON Schema of the configuration, for editors",
		Example: "  gateway schema > gateway.schema.json\n" +
			"  # first line of gateway.yaml: # yaml-language-server: $schema=gateway.schema.json",
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := config.Schema(catalog())
			if err == nil {
				_, err = a.out.Write(b)
			}
			return failed(err)
		},
	}
}

// build says which build this is.
func build() (v, revision string) {
	v = version
	bi, ok := debug.ReadBuildInfo()
	if ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
		if v == "" {
			v = strings.TrimPrefix(bi.Main.Version, "(devel)")
		}
	}
	if v == "" {
		v = "devel"
	}
	return v, revision
}

func newVersion(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  gateway version\n  gateway version -o json", Args: noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			v, revision := build()
			switch output {
			case "json":
				return failed(writeJSON(a.out, map[string]string{
					"version": v, "revision": revision, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
				}))
			case "text":
			default:
				return fmt.Errorf("-o %s: want text or json", output)
			}
			if len(revision) > 12 {
				revision = revision[:12]
			}
			if revision != "" {
				revision += ", "
			}
			fmt.Fprintf(a.out, "gateway %s (%s%s, %s/%s)\n", v, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	complete(cmd, "output", "text", "json")
	return cmd
}
