package sdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/headgate/gateway/sdk/wire"
)

// A Preset is what a plugin knows of one service that streams are sent to: what
// `preset: NAME` in a target stands for. The gateway fills in what the target
// leaves out, compares what it sends with the limits and warns; it refuses nothing.
type Preset struct {
	// Name as in the configuration: lower-case letters, digits and dashes. "none"
	// is taken: it switches presets off.
	Name string
	// Title is the name of the service for people.
	Title string
	// URL is where to send, and BackupURL where to send when that fails. Both are
	// empty if every user of the service has an address of their own.
	URL, BackupURL string
	// Hosts are ends of the service's host names. A target without preset whose
	// host is one of them, or ends in a dot and one of them, has the preset by that.
	Hosts []string
	// Schemes are those by which the service is reached as it should be; another is
	// a warning. None: all of the plugin's.
	Schemes []string
	// Options are those of a target unless it has its own; nil or a value that
	// marshals into an object of JSON that fits [EgressPlugin.TargetOptions].
	Options any
	Limits  Limits
	// Source is the address of the page that says this, and Checked the day when
	// somebody looked, as 2006-01-02.
	Source, Checked string
	// Unverified: nobody found it on a page of the service itself. Users are told.
	Unverified bool
	// Note is one sentence for people; empty if there is nothing to say.
	Note string
}

// Limits are what a service takes. The zero value of a field says that nothing is
// known.
type Limits struct {
	KeyframeInterval time.Duration
	VideoBPS         uint64 // bits per second
	AudioBPS         uint64
	FrameRate        float64
	Height           int
	Duration         time.Duration // of one session
	NoBFrames        bool          // pictures must come in the order in which they are shown
	NeedsVideo       bool
	NeedsAudio       bool
}

var presetName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// check returns what is wrong with the preset, for its author.
func (p Preset) check() error {
	var errs []error
	if !presetName.MatchString(p.Name) || p.Name == "none" {
		errs = append(errs, fmt.Errorf("preset %q: the name has lower-case letters, digits and dashes, and is not none", p.Name))
	}
	if _, err := p.options(); err != nil {
		errs = append(errs, fmt.Errorf("preset %s: Options: %w", p.Name, err))
	}
	if p.URL == "" && p.BackupURL != "" {
		errs = append(errs, fmt.Errorf("preset %s: BackupURL without URL", p.Name))
	}
	if _, err := time.Parse(time.DateOnly, p.Checked); err != nil {
		errs = append(errs, fmt.Errorf("preset %s: Checked: want a day such as 2026-11-28", p.Name))
	}
	return errors.Join(errs...)
}

func (p Preset) options() ([]byte, error) {
	if p.Options == nil {
		return nil, nil
	}
	b, err := json.Marshal(p.Options)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	if err := json.Unmarshal(b, &object); err != nil {
		return nil, errors.New("want an object")
	}
	return b, nil
}

func (p Preset) message() *wire.Preset {
	options, _ := p.options() // checked when the plugin starts
	l := p.Limits
	return &wire.Preset{
		Name: p.Name, Title: p.Title, Url: p.URL, BackupUrl: p.BackupURL, Hosts: p.Hosts, Schemes: p.Schemes,
		OptionsJson: options, Source: p.Source, Checked: p.Checked, Unverified: p.Unverified, Note: p.Note,
		Limits: &wire.Limits{
			KeyframeIntervalNs: uint64(max(l.KeyframeInterval, 0)), VideoBps: l.VideoBPS, AudioBps: l.AudioBPS,
			FrameRate: l.FrameRate, Height: uint32(max(l.Height, 0)), DurationNs: uint64(max(l.Duration, 0)),
			NoBFrames: l.NoBFrames, NeedsVideo: l.NeedsVideo, NeedsAudio: l.NeedsAudio,
		},
	}
}
