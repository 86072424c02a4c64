package api

import (
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/status"
)

// maxPatternStreams bounds the series: streams that routes name have theirs
// always, of those that matched a pattern the oldest so many.
const maxPatternStreams = 500

// promLog takes what the Prometheus handler complains about.
type promLog struct{ log *slog.Logger }

func (l promLog) Println(v ...any) { l.log.Warn("collecting metrics", "problem", fmt.Sprint(v...)) }

func (s *Server) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "gateway_build_info", Help: "The build that runs; always 1.",
		ConstLabels: prometheus.Labels{"version": s.opt.Version, "revision": s.opt.Revision, "goversion": runtime.Version()},
	})
	build.Set(1)
	r.MustRegister(
		build,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newCollector(s.opt.Gateway, configured(s.opt.Config)),
	)
	return r
}

// A collector makes series of the status at each scrape, so that they say what
// /v1 says and vanish with what they are about. Labels are names of the
// configuration and fixed words; what a publisher or a peer chooses (addresses,
// messages, sizes) is never one.
type collector struct {
	gateway    Gateway
	configured map[string]bool

	streams, streamsOmitted                                      *prometheus.Desc
	streamState, streamSince                                     *prometheus.Desc
	publisher, publisherSince, streamDropped                     *prometheus.Desc
	sourceState, sourceAttempts, sourceRetry, sourceError        *prometheus.Desc
	publisherSilent, publisherLimit, publisherRTT                *prometheus.Desc
	publisherBytes, publisherLost, publisherValue, publisherInfo *prometheus.Desc
	track, trackWidth, trackHeight, trackChannels                *prometheus.Desc
	trackValue                                                   *prometheus.Desc
	targetState, targetSince, targetAttempts, nextRetry          *prometheus.Desc
	lastError, sentBytes, sentUnits, dropped, lag                *prometheus.Desc
	videoRate, audioRate, frameRate, keyframes                   *prometheus.Desc
	onBackup, warning, leftOut                                   *prometheus.Desc
	acked, unsent, delivery, rtt, retransmits                    *prometheus.Desc
	targetValue                                                  *prometheus.Desc
	pluginState, pluginSince, pluginRestarts, sessions           *prometheus.Desc
}

func newCollector(g Gateway, configured map[string]bool) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("gateway_"+name, help, labels, nil)
	}
	return &collector{
		gateway: g, configured: configured,

		streams:         d("streams", "Streams by state.", "state"),
		streamsOmitted:  d("streams_omitted", "Streams that matched a pattern and are too many to have series of their own."),
		streamState:     d("stream_state", "1 for the state in which the stream is, 0 for the others.", "stream", "state"),
		streamSince:     d("stream_state_timestamp_seconds", "Since when the stream is in its state.", "stream"),
		sourceState:     d("source_state", "1 for the state in which the source of the stream is, 0 for the others.", "stream", "plugin", "state"),
		sourceAttempts:  d("source_attempts_total", "Sessions opened to the source.", "stream", "plugin"),
		sourceRetry:     d("source_next_retry_timestamp_seconds", "When the source is tried again; absent if no try is due.", "stream", "plugin"),
		sourceError:     d("source_last_error_timestamp_seconds", "When the source last failed, and whose fault it was.", "stream", "plugin", "cause"),
		publisher:       d("stream_publisher", "1 while the stream has a publisher, by the plugin that brings it in.", "stream", "plugin"),
		publisherSince:  d("stream_publisher_timestamp_seconds", "Since when the publisher is here.", "stream"),
		publisherSilent: d("publisher_silent", "1 while the publisher is connected and sends no media.", "stream"),
		publisherLimit:  d("publisher_limit_bytes_per_second", "The rate that the targets can take and the publisher was told; 0 for none.", "stream"),
		publisherRTT:    d("publisher_rtt_seconds", "Round trip to the publisher; 0 if unknown.", "stream"),
		publisherBytes:  d("publisher_received_bytes_total", "Bytes received from the publisher.", "stream"),
		publisherLost:   d("publisher_lost_units_total", "Access units of the publisher that never arrived whole.", "stream"),
		publisherValue:  d("publisher_value", "Figures of the publisher's plugin; its page says what they mean.", "stream", "plugin", "value"),
		publisherInfo:   d("publisher_info", "1 for what the publisher's plugin tells that is no figure; its page says what it means.", "stream", "plugin", "name", "value"),
		streamDropped:   d("stream_dropped_units_total", "Access units that a publisher sent and no target was offered.", "stream", "reason"),
		track:           d("stream_track_info", "1 for each track of a stream; derived_from is 0 for an original.", "stream", "track", "codec", "derived_from"),
		trackWidth:      d("stream_track_width_pixels", "Width of the picture.", "stream", "track"),
		trackHeight:     d("stream_track_height_pixels", "Height of the picture.", "stream", "track"),
		trackValue:      d("stream_track_value", "Figures of whoever makes a derived track.", "stream", "track", "value"),
		trackChannels:   d("stream_track_channels", "Channels of the sound.", "stream", "track"),

		targetState:    d("target_state", "1 for the state in which the target is, 0 for the others.", "stream", "target", "state"),
		targetSince:    d("target_state_timestamp_seconds", "Since when the target is in its state.", "stream", "target"),
		targetAttempts: d("target_attempts_total", "Sessions opened to the target.", "stream", "target"),
		nextRetry:      d("target_next_retry_timestamp_seconds", "When the target is tried again; absent if no try is due.", "stream", "target"),
		lastError:      d("target_last_error_timestamp_seconds", "When the target last failed, and whose fault it was.", "stream", "target", "cause"),
		sentBytes:      d("target_sent_bytes_total", "Payload written to the peer.", "stream", "target"),
		sentUnits:      d("target_sent_units_total", "Access units written to the peer.", "stream", "target"),
		dropped:        d("target_dropped_units_total", "Access units left out on the way to the target.", "stream", "target", "reason"),
		lag:            d("target_lag_seconds", "Age of the oldest access unit that is not yet written to the peer.", "stream", "target"),
		videoRate:      d("target_video_bytes_per_second", "Video written to the peer in the last seconds.", "stream", "target"),
		audioRate:      d("target_audio_bytes_per_second", "Sound written to the peer in the last seconds.", "stream", "target"),
		frameRate:      d("target_frames_per_second", "Pictures written to the peer in the last seconds.", "stream", "target"),
		keyframes:      d("target_keyframe_interval_seconds", "Media time between the newest keyframes.", "stream", "target"),
		onBackup:       d("target_on_backup", "1 while the target uses its backup.", "stream", "target"),
		leftOut:        d("target_left_out_tracks", "Tracks of the stream that the target has no room for, or whose codec it does not take.", "stream", "target"),
		warning:        d("target_warning", "1 for each kind of thing that is beyond the limits of the service.", "stream", "target", "kind"),
		acked:          d("target_acknowledged_bytes", "What the peer of the present session acknowledged; absent if unknown.", "stream", "target"),
		unsent:         d("target_unsent_bytes", "In the socket and not yet sent.", "stream", "target"),
		delivery:       d("target_delivery_bytes_per_second", "What the way to the peer can take; absent if unknown.", "stream", "target"),
		retransmits:    d("target_retransmits", "Segments that were sent again to the peer of the present session.", "stream", "target"),
		rtt:            d("target_rtt_seconds", "Round trip to the peer; absent if unknown.", "stream", "target"),
		targetValue:    d("target_value", "Figures of the target's plugin; its page says what they mean.", "stream", "target", "value"),

		pluginState:    d("plugin_state", "1 for the state in which the plugin's process is, 0 for the others.", "plugin", "process", "state"),
		pluginSince:    d("plugin_state_timestamp_seconds", "Since when the process is in its state.", "plugin", "process"),
		pluginRestarts: d("plugin_restarts_total", "Restarts of the plugin's process.", "plugin", "process"),
		sessions:       d("plugin_sessions", "Sessions that the process serves.", "plugin", "process"),
	}
}

// Describe says nothing: which series there are depends on the streams.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	// In a set of states one is 1.
	stateSet := func(d *prometheus.Desc, is string, states []string, labels ...string) {
		for _, state := range states {
			v := 0.0
			if state == is {
				v = 1
			}
			gauge(d, v, append(slices.Clone(labels), state)...)
		}
	}
	streams, omitted := c.chosen()
	counts := map[status.StreamState]int{}
	for _, st := range streams {
		counts[st.State]++
		stateSet(c.streamState, string(st.State), streamStates, st.Name)
		gauge(c.streamSince, seconds(st.Since), st.Name)
		if s := st.Source; s != nil {
			stateSet(c.sourceState, string(s.State), sourceStates, st.Name, s.Plugin)
			counter(c.sourceAttempts, uint64(max(s.Attempt, 0)), st.Name, s.Plugin)
			if s.NextRetry != nil {
				gauge(c.sourceRetry, seconds(*s.NextRetry), st.Name, s.Plugin)
			}
			if e := s.LastError; e != nil {
				gauge(c.sourceError, seconds(e.At), st.Name, s.Plugin, e.Cause)
			}
		}
		if p := st.Publisher; p != nil {
			gauge(c.publisher, 1, st.Name, p.Plugin)
			gauge(c.publisherSince, seconds(p.Since), st.Name)
			c.publisherFigures(p, st.Name, gauge, counter)
		}
		for reason, n := range st.UnitsDropped {
			counter(c.streamDropped, n, st.Name, reason)
		}
		for _, t := range st.Tracks {
			id := strconv.FormatUint(uint64(t.ID), 10)
			gauge(c.track, 1, st.Name, id, t.Codec, strconv.FormatUint(uint64(t.DerivedFrom), 10))
			if t.Width > 0 {
				gauge(c.trackWidth, float64(t.Width), st.Name, id)
				gauge(c.trackHeight, float64(t.Height), st.Name, id)
			}
			if t.Channels > 0 {
				gauge(c.trackChannels, float64(t.Channels), st.Name, id)
			}
			values(t.Values, func(name string, v float64) { gauge(c.trackValue, v, st.Name, id, name) })
		}
		for _, t := range st.Targets {
			if t.Disabled {
				continue // not live, and nobody wants to hear of it
			}
			stateSet(c.targetState, string(t.State), targetStates, st.Name, t.Name)
			gauge(c.targetSince, seconds(t.Since), st.Name, t.Name)
			counter(c.targetAttempts, uint64(max(t.Attempt, 0)), st.Name, t.Name)
			if t.NextRetry != nil {
				gauge(c.nextRetry, seconds(*t.NextRetry), st.Name, t.Name)
			}
			if e := t.LastError; e != nil {
				gauge(c.lastError, seconds(e.At), st.Name, t.Name, e.Cause)
			}
			counter(c.sentBytes, t.BytesSent, st.Name, t.Name)
			counter(c.sentUnits, t.UnitsSent, st.Name, t.Name)
			for reason, n := range t.UnitsDropped {
				counter(c.dropped, n, st.Name, t.Name, reason)
			}
			gauge(c.lag, t.LagSeconds, st.Name, t.Name)
			gauge(c.videoRate, float64(t.VideoBPS)/8, st.Name, t.Name)
			gauge(c.audioRate, float64(t.AudioBPS)/8, st.Name, t.Name)
			gauge(c.frameRate, t.FrameRate, st.Name, t.Name)
			gauge(c.keyframes, t.KeyframeIntervalSeconds, st.Name, t.Name)
			backup := 0.0
			if t.OnBackup {
				backup = 1
			}
			gauge(c.onBackup, backup, st.Name, t.Name)
			gauge(c.leftOut, float64(t.TracksLeftOut), st.Name, t.Name)
			for _, w := range t.Warnings {
				gauge(c.warning, 1, st.Name, t.Name, w.Kind)
			}
			if p := t.Peer; p != nil {
				gauge(c.unsent, float64(p.BytesUnsent), st.Name, t.Name)
				gauge(c.retransmits, float64(p.Retransmits), st.Name, t.Name)
				for name, v := range p.Values {
					gauge(c.targetValue, v, st.Name, t.Name, name)
				}
				for _, known := range []struct {
					desc  *prometheus.Desc
					value float64
				}{{c.acked, float64(p.BytesAcknowledged)}, {c.delivery, float64(p.DeliveryBPS) / 8}, {c.rtt, p.RTTSeconds}} {
					if known.value > 0 {
						gauge(known.desc, known.value, st.Name, t.Name)
					}
				}
			}
		}
	}
	for _, st := range omitted {
		counts[st.State]++
	}
	for _, state := range streamStates {
		gauge(c.streams, float64(counts[status.StreamState(state)]), state)
	}
	gauge(c.streamsOmitted, float64(len(omitted)))
	for _, p := range c.gateway.Plugins() {
		stateSet(c.pluginState, p.State, pluginStates, p.Name, p.Process)
		gauge(c.pluginSince, seconds(p.Since), p.Name, p.Process)
		counter(c.pluginRestarts, uint64(max(p.Restarts, 0)), p.Name, p.Process)
		gauge(c.sessions, float64(p.Sessions), p.Name, p.Process)
	}
}

// maxValues bounds the series that a plugin makes of one publisher or track.
const maxValues = 64

// values calls f for the figures of a plugin, in order, up to maxValues.
func values(figures map[string]float64, f func(name string, v float64)) {
	for i, name := range slices.Sorted(maps.Keys(figures)) {
		if i == maxValues {
			break
		}
		f(strings.ToValidUTF8(name, "?"), figures[name])
	}
}

// publisherFigures are what a publisher's plugin tells of him.
func (c *collector) publisherFigures(p *status.Publisher, stream string, gauge func(*prometheus.Desc, float64, ...string),
	counter func(*prometheus.Desc, uint64, ...string)) {
	silent := 0.0
	if p.Silent != nil {
		silent = 1
	}
	gauge(c.publisherSilent, silent, stream)
	gauge(c.publisherLimit, float64(p.LimitBPS)/8, stream)
	gauge(c.publisherRTT, p.RTTSeconds, stream)
	counter(c.publisherBytes, p.BytesReceived, stream)
	counter(c.publisherLost, p.UnitsLost, stream)
	values(p.Values, func(name string, v float64) { gauge(c.publisherValue, v, stream, p.Plugin, name) })
	for name, v := range p.Info {
		gauge(c.publisherInfo, 1, stream, p.Plugin, name, v)
	}
}

// chosen are the streams that have series, and the others.
func (c *collector) chosen() (with, without []status.Stream) {
	var matched []status.Stream
	for _, st := range c.gateway.Streams() {
		if c.configured[st.Name] {
			with = append(with, st)
		} else {
			matched = append(matched, st)
		}
	}
	if len(matched) > maxPatternStreams {
		slices.SortStableFunc(matched, func(a, b status.Stream) int { return a.Since.Compare(b.Since) })
		matched, without = matched[:maxPatternStreams], matched[maxPatternStreams:]
	}
	return append(with, matched...), without
}

var (
	streamStates = []string{string(status.StreamIdle), string(status.StreamLive), string(status.StreamHolding)}
	sourceStates = []string{string(status.SourceIdle), string(status.SourceConnecting), string(status.SourceLive),
		string(status.SourceWaiting), string(status.SourceFailed)}
	targetStates = []string{string(status.TargetIdle), string(status.TargetConnecting), string(status.TargetLive),
		string(status.TargetWaiting), string(status.TargetFailed)}
	pluginStates = []string{string(pluginhost.Stopped), string(pluginhost.Starting), string(pluginhost.Ready),
		string(pluginhost.Backoff), string(pluginhost.Broken)}
)

// seconds is a time as Prometheus has it; 0 for none.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}
