package push

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/core/session"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

const (
	// window is what rates are measured over.
	window = 5 * time.Second
	// settled is how long a session has to run, and a finding to last, before it is
	// told: the first seconds of every stream are unlike the rest.
	settled = 5 * time.Second
	// cleared is how long a finding must be gone to be taken back.
	cleared = 10 * time.Second
	// By how much a limit may be exceeded: encoders swing around what they are told.
	rateTolerance     = 1.1
	intervalTolerance = 1.2
	fpsTolerance      = 1
)

// figures are what is measured of the present session.
type figures struct {
	samples  []sample // of the last window, a second apart
	warnings []status.Warning
}

type sample struct {
	at           time.Time
	video, audio router.MediaStats
}

// add takes a sample, unless the newest one is younger than a second.
func (f *figures) add(now time.Time, s router.SubscriptionStats) bool {
	if n := len(f.samples); n > 0 && now.Sub(f.samples[n-1].at) < checkInterval*9/10 {
		return false
	}
	f.samples = append(f.samples, sample{now, s.Video, s.Audio})
	for len(f.samples) > 2 && now.Sub(f.samples[1].at) >= window {
		f.samples = f.samples[1:]
	}
	return true
}

// rates are bits and pictures per second over the window.
func (f *figures) rates() (videoBPS, audioBPS, fps float64) {
	if len(f.samples) < 2 {
		return 0, 0, 0
	}
	a, b := f.samples[0], f.samples[len(f.samples)-1]
	d := b.at.Sub(a.at).Seconds()
	return float64(8*(b.video.Bytes-a.video.Bytes)) / d, float64(8*(b.audio.Bytes-a.audio.Bytes)) / d,
		float64(b.video.Units-a.video.Units) / d
}

// fill puts what is measured, and what the plugin tells of its peer, into st.
func (f *figures) fill(st *status.Target, s router.SubscriptionStats, peer pluginhost.Stats) {
	video, audio, fps := f.rates()
	st.VideoBPS, st.AudioBPS, st.FrameRate = uint64(video), uint64(audio), fps
	st.KeyframeIntervalSeconds = s.Video.KeyframeInterval.Seconds()
	if peer.Bytes > 0 || len(peer.Values) > 0 {
		st.Peer = &status.Peer{
			BytesAcknowledged: peer.AckedBytes, BytesUnsent: peer.UnsentBytes, UnsentSeconds: peer.UnsentAge.Seconds(),
			UnackedSeconds: peer.UnackedAge.Seconds(), Retransmits: peer.Retransmits, DeliveryBPS: peer.DeliveryBPS, RTTSeconds: peer.RTT.Seconds(), Values: peer.Values,
		}
	}
}

// limits compare what is sent with what the service takes. Run's goroutine uses
// them. The zero value has found nothing.
type limits struct {
	found map[string]*finding
}

// A finding is one kind of thing beyond a limit.
type finding struct {
	warning status.Warning
	seen    time.Time // when it was there last
	told    bool
}

// measure takes the figures of the session and tells what is beyond the limits.
func (r *run) measure(st session.State, now time.Time) {
	t := r.t
	s := r.sub.Stats()
	t.mu.Lock()
	fresh := t.figures.add(now, s)
	video, audio, fps := t.figures.rates()
	t.mu.Unlock()
	if !fresh || !st.Credited || r.held {
		return
	}
	wrote := now.Sub(st.FirstCredit)
	found := append(check(r.set.Target.Preset, r.sub.Chosen(), s, video, audio, fps, wrote), idle(r.set.Target.Audio, r.sub.Chosen())...)
	warnings := t.limits.note(found, now, wrote >= settled, t.log)
	t.mu.Lock()
	t.figures.warnings = warnings
	t.mu.Unlock()
}

// check is what of a session that wrote for so long is beyond the limits of p.
func check(p *wire.Preset, tracks []media.Track, s router.SubscriptionStats, videoBPS, audioBPS, fps float64, wrote time.Duration) []status.Warning {
	l := p.GetLimits()
	if l == nil {
		return nil
	}
	var out []status.Warning
	add := func(is bool, kind, finding, remedy string) {
		if is {
			out = append(out, status.Warning{Kind: kind, Finding: p.GetName() + ": " + finding, Remedy: remedy})
		}
	}
	has := func(k media.Kind) bool {
		for _, t := range tracks {
			if t.Codec.Kind() == k {
				return true
			}
		}
		return false
	}
	interval, most := s.Video.KeyframeInterval, time.Duration(l.GetKeyframeIntervalNs())
	add(most > 0 && float64(interval) > intervalTolerance*float64(most), "keyframe_interval",
		fmt.Sprintf("keyframe interval %.1f s, limit %g s", interval.Seconds(), most.Seconds()),
		fmt.Sprintf("set the keyframe interval of the publisher's encoder to %g s", min(2, most.Seconds())))
	rate := func(kind, what string, is float64, most uint64) {
		add(most > 0 && is > rateTolerance*float64(most), kind,
			fmt.Sprintf("%s bitrate %.1f Mb/s, limit %g Mb/s", what, is/1e6, float64(most)/1e6),
			fmt.Sprintf("lower the publisher's %s bitrate", what))
	}
	rate("video_bitrate", "video", videoBPS, l.GetVideoBps())
	rate("audio_bitrate", "audio", audioBPS, l.GetAudioBps())
	add(l.GetFrameRate() > 0 && fps > l.GetFrameRate()+fpsTolerance, "frame_rate",
		fmt.Sprintf("%.0f pictures per second, limit %g", fps, l.GetFrameRate()), "lower the frame rate of the publisher")
	for _, t := range tracks {
		// A picture that stands upright has its lines across.
		lines := min(t.Height, t.Width)
		add(l.GetHeight() > 0 && lines > int(l.GetHeight()), "size",
			fmt.Sprintf("picture %dx%d, limit %d lines", t.Width, t.Height, l.GetHeight()), "lower the resolution of the publisher")
	}
	add(l.GetNoBFrames() && s.Video.Reordered > 0, "b_frames",
		"the stream has B-frames, which it does not take", "switch B-frames off in the publisher's encoder")
	add(l.GetNeedsAudio() && !has(media.Audio), "no_audio",
		"the stream has no sound, without which it does not go on air", "publish with sound, even if it is silence")
	add(l.GetNeedsVideo() && !has(media.Video), "no_video",
		"the stream has no picture, without which it does not go on air", "publish with a picture")
	longest := time.Duration(l.GetDurationNs())
	add(longest > 0 && wrote > longest-longest/48, "duration",
		fmt.Sprintf("live for %s, limit %s", brief(wrote), brief(longest)), "plan to begin another broadcast there")
	return out
}

// idle is what of the settings of a target's sound has no effect, because the sound
// passes as it comes.
func idle(a config.Audio, tracks []media.Track) []status.Warning {
	set := a.ForMade()
	i := slices.IndexFunc(tracks, func(t media.Track) bool { return t.Codec.Kind() == media.Audio && t.DerivedFrom == 0 })
	if len(set) == 0 || i < 0 || slices.ContainsFunc(tracks, func(t media.Track) bool { return t.Codec.Kind() == media.Audio && t.DerivedFrom != 0 }) {
		return nil
	}
	return []status.Warning{{
		Kind:    audioSettings,
		Finding: fmt.Sprintf("audio: %s without effect: the sound is %s as it comes, and is not made", strings.Join(set, ", "), tracks[i].Codec),
		Remedy:  "remove them, and set the publisher's encoder",
	}}
}

// brief is a duration in hours and minutes.
func brief(d time.Duration) string {
	text := d.Truncate(time.Minute).String()
	return strings.TrimSuffix(strings.TrimSuffix(text, "0s"), "0m")
}

// note keeps book of what was found at now, logs what comes and goes, and returns
// what is to be shown.
func (l *limits) note(found []status.Warning, now time.Time, ripe bool, log *slog.Logger) []status.Warning {
	if l.found == nil {
		l.found = make(map[string]*finding)
	}
	var order []string
	for _, w := range found {
		f := l.found[w.Kind]
		if f == nil {
			f = &finding{}
			f.warning.Since = now.UTC()
			l.found[w.Kind] = f
		}
		w.Since = f.warning.Since
		f.warning, f.seen = w, now
	}
	for _, kind := range kinds {
		f := l.found[kind]
		if f == nil {
			continue
		}
		gone := now.Sub(f.seen)
		switch {
		case gone > cleared || gone > 0 && !f.told:
			if f.told {
				log.Info("what was warned of is over", "was", f.warning.Finding)
			}
			delete(l.found, kind)
			continue
		case !f.told && ripe && (kind == "keyframe_interval" || now.Sub(f.warning.Since) >= settled):
			f.told = true
			said := log.With("finding", f.warning.Finding, "remedy", f.warning.Remedy)
			if kind == audioSettings {
				said.Warn("settings without effect")
			} else {
				said.Warn("beyond the limits of the service")
			}
		}
		if f.told {
			order = append(order, kind)
		}
	}
	var out []status.Warning
	for _, kind := range order {
		out = append(out, l.found[kind].warning)
	}
	return out
}

// audioSettings is the kind of a warning that is not about a service.
const audioSettings = "audio_settings"

// kinds of warnings, in the order in which they are shown.
var kinds = []string{"no_video", "no_audio", "keyframe_interval", "b_frames", "video_bitrate", "audio_bitrate", "frame_rate", "size", "duration", audioSettings}
