// Command publisher publishes over WHIP or RTMP until it is ended: the test card, or
// files of H.264, H.265, AV1 or VP9, and of Opus. It is a process of its own so that tests can kill it
// and benchmarks can leave its work out of the gateway's. It writes one JSON
// object per line about what happens; SIGTERM says goodbye to the server first.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pion/webrtc/v4/pkg/media/h264reader"
	"github.com/pion/webrtc/v4/pkg/media/oggreader"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/whipclient"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/opus"
	"github.com/headgate/gateway/sdk/secret"
)

// An Event is one line of the output.
type Event struct {
	// Event is published, stats, lost, refused or ended.
	Event    string    `json:"event"`
	Stream   int       `json:"stream"`
	At       time.Time `json:"at"`
	Location string    `json:"location,omitempty"`
	Status   int       `json:"status,omitempty"`
	Error    string    `json:"error,omitempty"`
	Pictures uint64    `json:"pictures,omitempty"`
	Packets  uint64    `json:"packets,omitempty"`
	Requests uint64    `json:"keyframe_requests,omitempty"`
	Late     uint64    `json:"late,omitempty"`
}

func main() {
	var o options
	flag.StringVar(&o.url, "url", "", "WHIP endpoint, or a URL of rtmp; %d in it becomes the number of the stream")
	flag.StringVar(&o.tokenEnv, "token-env", "", "environment variable that holds the bearer token, or the stream key")
	flag.IntVar(&o.streams, "n", 1, "number of streams")
	flag.DurationVar(&o.stagger, "stagger", 40*time.Millisecond, "pause between the starts of two streams")
	flag.DurationVar(&o.shift, "audio-shift", 0, "delay of the sound against the picture")
	flag.BoolVar(&o.timing, "timing", false, "put the time of sending in front of each picture")
	flag.StringVar(&o.video, "video", "", "byte stream of H.264 or (.h265) H.265, or an IVF file of AV1 or VP9, with 30 pictures per second; the test card if empty")
	flag.StringVar(&o.audio, "audio", "", "Ogg file with one Opus packet of 20 ms per page; without it, and with -video, there is no sound")
	flag.BoolVar(&o.deaf, "ignore-keyframe-requests", false, "send keyframes where the file has them and nowhere else, as OBS does")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := o.run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "publisher:", err)
		os.Exit(1)
	}
}

type options struct {
	url, tokenEnv, video, audio string
	streams                     int
	stagger, shift              time.Duration
	timing, deaf                bool
}

func (o options) run(ctx context.Context, out io.Writer) error {
	cfg := whipclient.Config{Token: secret.New(os.Getenv(o.tokenEnv)), AudioShift: o.shift, Timing: o.timing, IgnoreKeyframeRequests: o.deaf}
	var err error
	if o.video == "" {
		err = loadCard(&cfg)
	} else {
		err = loadFiles(&cfg, o.video, o.audio)
	}
	if err != nil {
		return err
	}
	log := &events{out: json.NewEncoder(out)}
	var wg sync.WaitGroup
	failures := make(chan error, o.streams)
	for i := range o.streams {
		c := cfg
		c.URL = strings.ReplaceAll(o.url, "%d", fmt.Sprint(i))
		wg.Go(func() {
			how := publish
			if overRTMP(c.URL) {
				how = publishRTMP
			}
			if err := how(ctx, c, i, log); err != nil {
				failures <- fmt.Errorf("stream %d: %w", i, err)
			}
		})
		if !pause(ctx, o.stagger) {
			break
		}
	}
	wg.Wait()
	close(failures)
	var all []error
	for err := range failures {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// pause waits for d and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func publish(ctx context.Context, cfg whipclient.Config, stream int, log *events) error {
	p, err := whipclient.Publish(ctx, cfg)
	if err != nil {
		var refused *whipclient.StatusError
		status := 0
		if errors.As(err, &refused) {
			status = refused.Status
		}
		log.say(Event{Event: "refused", Stream: stream, Status: status, Error: err.Error()})
		return err
	}
	log.say(Event{Event: "published", Stream: stream, At: p.Posted(), Location: p.Location(), Status: 201})
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s := p.Stats()
				log.say(Event{Event: "stats", Stream: stream, Pictures: s.VideoUnits, Packets: s.AudioUnits, Requests: s.KeyframeRequests, Late: s.LateUnits})
			case <-over:
				return
			}
		}
	})
	err = p.Run(ctx)
	close(over)
	wg.Wait()
	if err != nil {
		log.say(Event{Event: "lost", Stream: stream, Error: err.Error()})
		p.Close()
		return err
	}
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := p.Delete(bye); err != nil {
		return err
	}
	log.say(Event{Event: "ended", Stream: stream})
	return nil
}

// events writes one at a time.
type events struct {
	mu  sync.Mutex // guards the field below
	out *json.Encoder
}

func (l *events) say(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.At.IsZero() {
		e.At = time.Now()
	}
	_ = l.out.Encode(e) // nobody reads any more: the process is about to end
}

func loadCard(cfg *whipclient.Config) error {
	card, err := clip.Load()
	if err != nil {
		return err
	}
	cfg.Video = &whipclient.Media{Track: card.Tracks[0], Units: card.Units(clip.VideoTrack)}
	cfg.Audio = &whipclient.Media{Track: card.Tracks[1], Units: card.Units(clip.AudioTrack)}
	cfg.Length = clip.Duration
	return nil
}

const (
	pictureRate  = 30 // per second, of a file
	opusDuration = 20 * time.Millisecond
)

// loadFiles reads a byte stream with one slice per picture, and an Ogg file unless
// audio is empty. The length is that of the shorter one, in whole seconds.
func loadFiles(cfg *whipclient.Config, video, audio string) error {
	v, err := loadVideo(video)
	if err != nil {
		return fmt.Errorf("loading video %s: %w", video, err)
	}
	if audio == "" {
		seconds := len(v.Units) / pictureRate
		if seconds == 0 {
			return errors.New("loading media: less than a second of it")
		}
		v.Units = v.Units[:seconds*pictureRate]
		cfg.Video, cfg.Length = v, time.Duration(seconds)*time.Second
		return nil
	}
	packets, err := opusPackets(audio)
	if err != nil {
		return fmt.Errorf("loading audio %s: %w", audio, err)
	}
	seconds := min(len(v.Units)/pictureRate, len(packets)*int(opusDuration/time.Millisecond)/1000)
	if seconds == 0 {
		return errors.New("loading media: less than a second of them")
	}
	v.Units = v.Units[:seconds*pictureRate]
	head, err := opus.Head{Channels: 2, InputSampleRateHz: opus.SampleRateHz}.Marshal()
	if err != nil {
		return err
	}
	a := &whipclient.Media{Track: media.Track{ID: 2, Codec: media.Opus, DecoderConfig: head, SampleRateHz: 48000, Channels: 2}}
	for i, b := range packets[:seconds*1000/int(opusDuration/time.Millisecond)] {
		at := time.Duration(i) * opusDuration
		a.Units = append(a.Units, &media.AccessUnit{Track: 2, Seq: uint32(i), PTS: at, DTS: at, Duration: opusDuration, RandomAccess: true, Payload: b})
	}
	cfg.Video, cfg.Audio, cfg.Length = v, a, time.Duration(seconds)*time.Second
	return nil
}

func loadVideo(name string) (*whipclient.Media, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	switch filepath.Ext(name) {
	case ".ivf":
		return frames(b)
	case ".h265":
		return pictures265(b)
	default:
		return pictures(b)
	}
}

func pictures(stream []byte) (*whipclient.Media, error) {
	r, err := h264reader.NewReader(bytes.NewReader(stream))
	if err != nil {
		return nil, err
	}
	m := &whipclient.Media{}
	var sets h264.ParameterSets
	var picture h264.Picture
	var waiting [][]byte
	for {
		n, err := r.NextNAL()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		waiting = append(waiting, n.Data)
		if t := n.UnitType; t != h264reader.NalUnitTypeCodedSliceNonIdr && t != h264reader.NalUnitTypeCodedSliceIdr {
			continue
		}
		if err := picture.Normalize(waiting); err != nil {
			return nil, err
		}
		waiting = waiting[:0]
		if _, err := sets.Update(picture.SPS, picture.PPS); err != nil {
			return nil, err
		}
		// SEI of the encoder is left out: it stands in front of our own.
		var slices [][]byte
		for _, s := range picture.NALUs {
			if h264reader.NalUnitType(s[0]&0x1f) != h264reader.NalUnitTypeSEI {
				slices = append(slices, s)
			}
		}
		i := len(m.Units)
		at := time.Duration(i) * time.Second / pictureRate
		m.Units = append(m.Units, &media.AccessUnit{
			Track: 1, Seq: uint32(i), PTS: at, DTS: at, RandomAccess: picture.RandomAccess,
			Payload: h264.AppendLengthPrefixed(nil, slices...),
		})
	}
	config, ok := sets.Config()
	if !ok {
		return nil, errors.New("no parameter sets")
	}
	avcC, err := config.Marshal()
	if err != nil {
		return nil, err
	}
	m.Track = media.Track{ID: 1, Codec: media.H264, DecoderConfig: avcC, FrameRate: pictureRate}
	return m, nil
}

func opusPackets(name string) ([][]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	r, _, err := oggreader.NewWith(f)
	if err != nil {
		return nil, err
	}
	var list [][]byte
	for {
		page, _, err := r.ParseNextPage()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		list = append(list, page)
	}
	if len(list) < 2 {
		return nil, errors.New("no packets")
	}
	return list[1:], nil // without OpusTags
}
