package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/wire"
)

// A checkRequest is what `gateway plugins check` is asked.
type checkRequest struct {
	command               []string
	target, key           string
	stalled, bad          string
	source, badSource     string
	options, targetOption string
	permanent             bool
	files                 []string
}

func newCheck(a *app) *cobra.Command {
	var r checkRequest
	var output string
	cmd := &cobra.Command{
		Use:   "check ./binary [argument...]",
		Short: "Check that a plugin keeps the contract, whatever language it is written in",
		Long: "Start a plugin as the gateway would and run the conformance suite of the SDK against\n" +
			"it: every sentence of the contract in docs/wire.md that can be checked from outside.\n" +
			"An egress needs a target that takes a stream, an ingest a source that can be pulled.\n" +
			"The exit code is 0 if it keeps the contract and 1 if not.",
		Example: "  gateway plugins check ./egress-file --files /tmp --target file:///tmp --bad-target file:///nowhere\n" +
			"  gateway plugins check ./ingest-cam --source cam://1 -o json",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: want text or json", output)
			}
			path, err := exec.LookPath(args[0])
			if err != nil {
				return fmt.Errorf("finding the plugin: %w", err)
			}
			r.command = append([]string{path}, args[1:]...)
			for i, dir := range r.files {
				if r.files[i], err = filepath.Abs(dir); err != nil {
					return fmt.Errorf("--files: %w", err)
				}
			}
			return a.check(cmd.Context(), r, output)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(true)
	f.StringVar(&r.target, "target", "", "URL of a target that takes a stream (egress)")
	f.StringVar(&r.key, "key", "", "stream key of that target, where it is apart from the URL")
	f.StringVar(&r.targetOption, "target-options", "", "options of that target, as JSON")
	f.StringVar(&r.stalled, "stalled-target", "", "URL of a target that opens and then reads nothing (egress)")
	f.StringVar(&r.bad, "bad-target", "", "URL of a target that cannot work (egress)")
	f.BoolVar(&r.permanent, "bad-is-permanent", false, "trying the bad target again soon is of no use")
	f.StringVar(&r.source, "source", "", "URL of a source that delivers media (ingest)")
	f.StringVar(&r.badSource, "bad-source", "", "URL of a source that cannot be pulled (ingest)")
	f.StringVar(&r.options, "options", "", "options of the plugin, as JSON")
	f.StringArrayVar(&r.files, "files", nil, "directory in which the plugin may read and write files, may be repeated")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	complete(cmd, "output", "text", "json")
	return cmd
}

// check runs the suites that apply to the plugin and reports.
func (a *app) check(ctx context.Context, r checkRequest, output string) error {
	info, err := pluginhost.Describe(ctx, pluginhost.Spec{Name: r.command[0], Command: r.command}, a.log)
	if err != nil {
		return failed(err)
	}
	suites, notes := r.suites(info)
	if len(suites) == 0 {
		return fmt.Errorf("nothing of %s %s can be checked: %s", info.GetName(), info.GetVersion(), strings.Join(notes, "; "))
	}
	report := checkReport{Plugin: info.GetName(), Version: info.GetVersion(), Notes: notes, Checks: []plugintest.Result{}}
	if output == "text" {
		fmt.Fprintf(a.out, "%s %s\n", report.Plugin, report.Version)
	}
	for _, s := range suites {
		s.Report(ctx, func(res plugintest.Result) {
			report.add(res)
			if output == "text" {
				writeResult(a.out, res)
			}
		})
	}
	if err := ctx.Err(); err != nil {
		return failed(errors.New("stopped before all was checked"))
	}
	if output == "json" {
		if err := writeJSON(a.out, report); err != nil {
			return failed(err)
		}
	} else {
		for _, n := range notes {
			fmt.Fprintf(a.out, "note  %s\n", n)
		}
		fmt.Fprintf(a.out, "%s passed, %d failed, %d left out\n", count(report.Passed, "check"), report.Failed, report.LeftOut)
	}
	if report.Failed > 0 {
		return coded{exitFailure, errReported}
	}
	return nil
}

// checkReport is the whole of `gateway plugins check -o json`.
type checkReport struct {
	Plugin  string              `json:"plugin"`
	Version string              `json:"version"`
	Passed  int                 `json:"passed"`
	Failed  int                 `json:"failed"`
	LeftOut int                 `json:"left_out"`
	Checks  []plugintest.Result `json:"checks"`
	Notes   []string            `json:"notes,omitempty"`
}

func (r *checkReport) add(res plugintest.Result) {
	r.Checks = append(r.Checks, res)
	switch res.Outcome {
	case plugintest.Passed:
		r.Passed++
	case plugintest.Failed:
		r.Failed++
	case plugintest.Skipped:
		r.LeftOut++
	}
}

// writeResult writes one line, and below a failure the sentence of the contract and
// what was found.
func writeResult(out io.Writer, r plugintest.Result) {
	fmt.Fprintf(out, "%-4s  %s: %s  (%v)\n", r.Outcome, r.Kind, r.Check, r.Took.Round(10*time.Millisecond))
	if r.Outcome == plugintest.Failed {
		fmt.Fprintf(out, "      the contract: %s\n", r.Contract)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(out, "      %s\n", strings.ReplaceAll(f, "\n", "\n      "))
	}
}

// suites returns those that apply to the plugin, and says which do not for want of
// something.
func (r checkRequest) suites(info *wire.DescribeResponse) (suites []plugintest.Suite, notes []string) {
	p := plugintest.Program(r.command[0], r.command[1:]...).Allow(r.files...)
	if info.GetEgress() != nil {
		if r.target == "" {
			notes = append(notes, "the egress is not checked without --target URL, a target that takes a stream")
		} else {
			suites = append(suites, plugintest.EgressSuite(p, r.egress()))
		}
	}
	if info.GetIngest() != nil {
		if r.source == "" {
			notes = append(notes, "the ingest is not checked without --source URL, a source that can be pulled; "+
				"one that publishers come to is checked in Go, with plugintest.TestIngest")
		} else {
			suites = append(suites, plugintest.IngestSuite(p, plugintest.IngestOptions{
				PullURL: r.source, BadURL: r.badSource, Options: []byte(r.options),
			}))
		}
	}
	for _, t := range info.GetTransforms() {
		switch from := media.Codec(t.GetFrom()); from {
		case media.PCMA, media.PCMU:
			suites = append(suites, plugintest.TransformSuite(p, plugintest.TransformOptions{
				In: media.Track{ID: 2, Codec: from, SampleRateHz: 8000, Channels: 1}, To: media.Codec(t.GetTo()), Options: []byte(r.options),
			}))
		case media.Opus:
			suites = append(suites, plugintest.TransformSuite(p, plugintest.TransformOptions{
				In: opusTrack(), To: media.Codec(t.GetTo()), Options: []byte(r.options),
				// A packet of 20 ms of silence, as RFC 6716 has it.
				Payload: func(int) []byte { return []byte{0xfc, 0xff, 0xfe} },
			}))
		case media.MP2, media.MP3:
			// A frame of 48 kHz, mono, 32 kb/s, with nothing in it.
			frame := make([]byte, 96)
			copy(frame, []byte{0xff, 0xfd, 0x14, 0xc0})
			if from == media.MP3 {
				frame[1] = 0xfb
			}
			suites = append(suites, plugintest.TransformSuite(p, plugintest.TransformOptions{
				In: media.Track{ID: 2, Codec: from, SampleRateHz: 48000, Channels: 1}, To: media.Codec(t.GetTo()), Options: []byte(r.options),
				Payload: func(int) []byte { return frame },
			}))
		case "":
			suites = append(suites, plugintest.TransformSuite(p, plugintest.TransformOptions{
				In: media.Track{ID: 2, Codec: media.VP8}, To: media.Codec(t.GetTo()), Options: []byte(r.options),
			}))
		default:
			notes = append(notes, fmt.Sprintf("the transform from %s to %s is checked in Go, with plugintest.TestTransform and media of yours", from, t.GetTo()))
		}
	}
	return suites, notes
}

func opusTrack() media.Track {
	return media.Track{ID: 2, Codec: media.Opus, SampleRateHz: 48000, Channels: 2, DecoderConfig: []byte{
		'O', 'p', 'u', 's', 'H', 'e', 'a', 'd', 1, 2, 0x38, 1, 0x80, 0xbb, 0, 0, 0, 0, 0,
	}}
}

func (r checkRequest) egress() plugintest.EgressOptions {
	target := func(url string) *wire.Target {
		return &wire.Target{Name: "check", Url: url, Key: r.key, OptionsJson: []byte(r.targetOption)}
	}
	o := plugintest.EgressOptions{
		NewTarget:      func(plugintest.T) *wire.Target { return target(r.target) },
		BadIsPermanent: r.permanent,
		Options:        []byte(r.options),
	}
	if r.stalled != "" {
		o.StalledTarget = func(plugintest.T) *wire.Target { return target(r.stalled) }
	}
	if r.bad != "" {
		o.BadTarget = target(r.bad)
	}
	return o
}
