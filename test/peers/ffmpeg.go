package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A MediaStream is one elementary stream of a file, as ffprobe sees it.
type MediaStream struct {
	Index      int    `json:"index"`
	Type       string `json:"codec_type"`
	Codec      string `json:"codec_name"`
	Profile    string `json:"profile"`
	Width      int    `json:"width"`
	Height     int    `json:"height"`
	SampleRate string `json:"sample_rate"`
	Channels   int    `json:"channels"`
}

// A Packet is one packet of a file. Times are absolute, as they stand in the
// file.
type Packet struct {
	Type     string
	PTS, DTS time.Duration
	Key      bool
	Bytes    int
}

// run runs a program to its end and returns its output and what it said.
func run(ctx context.Context, path string, args ...string) (stdout, stderr []byte, err error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.Bytes(), e.Bytes(), err
}

func runOrFail(t testing.TB, program string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, msg, err := run(ctx, Find(t, program), args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, tail(string(msg), 4<<10))
	}
	return out
}

// FFmpeg runs ffmpeg to its end; ends the test if it fails. For making media.
func FFmpeg(t testing.TB, args ...string) {
	t.Helper()
	runOrFail(t, "ffmpeg", append([]string{"-nostdin", "-hide_banner", "-v", "error", "-y"}, args...)...)
}

// Streams returns the elementary streams of a file.
func Streams(t testing.TB, file string) []MediaStream {
	t.Helper()
	var v struct {
		Streams []MediaStream `json:"streams"`
	}
	out := runOrFail(t, "ffprobe", "-v", "error", "-show_streams", "-of", "json", file)
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("reading what ffprobe says of %s: %v", file, err)
	}
	return v.Streams
}

// Packets returns the packets of a file in the order in which they stand in it.
func Packets(t testing.TB, file string) []Packet {
	t.Helper()
	out := runOrFail(t, "ffprobe", "-v", "error", "-show_entries", "packet=codec_type,pts_time,dts_time,size,flags", "-of", "json", file)
	var v struct {
		Packets []struct {
			Type  string `json:"codec_type"`
			PTS   string `json:"pts_time"`
			DTS   string `json:"dts_time"`
			Size  string `json:"size"`
			Flags string `json:"flags"`
		} `json:"packets"`
	}
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("reading what ffprobe says of %s: %v", file, err)
	}
	list := make([]Packet, 0, len(v.Packets))
	for _, p := range v.Packets {
		size, _ := strconv.Atoi(p.Size)
		list = append(list, Packet{Type: p.Type, PTS: seconds(p.PTS), DTS: seconds(p.DTS), Key: strings.HasPrefix(p.Flags, "K"), Bytes: size})
	}
	return list
}

func seconds(s string) time.Duration {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return -1
	}
	return time.Duration(f * float64(time.Second))
}

// CheckMonotonic returns an error for the first packet whose decoding time does
// not come after that of the packet before it in the same stream.
func CheckMonotonic(packets []Packet) error {
	last := map[string]time.Duration{}
	for i, p := range packets {
		if prev, seen := last[p.Type]; seen && p.DTS <= prev {
			return fmt.Errorf("packet %d (%s): decoding time %v after %v", i, p.Type, p.DTS, prev)
		}
		last[p.Type] = p.DTS
	}
	return nil
}

// LargestGap returns the largest step of decoding time between two packets of
// one type, and where it begins.
func LargestGap(packets []Packet, kind string) (gap, at time.Duration) {
	prev := time.Duration(-1)
	for _, p := range packets {
		if p.Type != kind {
			continue
		}
		if prev >= 0 && p.DTS-prev > gap {
			gap, at = p.DTS-prev, prev
		}
		prev = p.DTS
	}
	return gap, at
}

// Count returns how many packets are of a type.
func Count(packets []Packet, kind string) int {
	n := 0
	for _, p := range packets {
		if p.Type == kind {
			n++
		}
	}
	return n
}

// CheckDecodes decodes all of a file with ffmpeg; every complaint is an error, and so is
// a picture that is missing though others of H.264 refer to it, over which ffmpeg itself
// goes on with the one before.
func CheckDecodes(t testing.TB, file string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, msg, err := run(ctx, Find(t, "ffmpeg"), "-nostdin", "-hide_banner", "-v", "repeat+level+debug", "-xerror", "-err_detect", "explode", "-i", file,
		// Two pictures less than a tick of the nominal rate apart are no fault.
		"-fps_mode", "passthrough", "-enc_time_base:v", "-1", "-f", "null", "-")
	complaints := complaint.FindAllString(string(msg), -1)
	switch {
	case err != nil:
		return fmt.Errorf("ffmpeg decodes %s: %w\n%s", file, err, tail(string(msg), 4<<10))
	case len(complaints) > 0:
		return fmt.Errorf("ffmpeg complains about %s:\n%s", file, tail(strings.Join(complaints, "\n"), 4<<10))
	default:
		return nil
	}
}

// complaint is a line of what ffmpeg says that is an error to it or to us.
var complaint = regexp.MustCompile(`(?m)^.*(\[(error|fatal|panic)\]|Frame num gap).*$`)

// MeanVolume returns the mean loudness of a file in dB below full scale.
func MeanVolume(t testing.TB, file string) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, msg, err := run(ctx, Find(t, "ffmpeg"), "-nostdin", "-hide_banner", "-i", file, "-vn", "-af", "volumedetect", "-f", "null", "-")
	if err != nil {
		t.Fatalf("measuring the volume of %s: %v\n%s", file, err, tail(string(msg), 4<<10))
	}
	_, after, found := strings.Cut(string(msg), "mean_volume: ")
	if !found {
		t.Fatalf("no sound in %s", file)
	}
	v, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A sample is one measured value at a time of the file.
type sample struct {
	at    time.Duration
	value float64
}

// measure decodes one stream of a file through a filter and reads the values
// that the filter leaves in the frames' metadata.
func measure(t testing.TB, file, streams, filter, key string) []sample {
	t.Helper()
	opt := "-vf"
	if streams == "a" {
		opt = "-af"
	}
	out := runOrFail(t, "ffmpeg", "-nostdin", "-hide_banner", "-v", "error", "-copyts", "-i", file, "-map", "0:"+streams, opt, filter, "-f", "null", "-")
	var list []sample
	at := time.Duration(-1)
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if _, after, found := strings.Cut(line, "pts_time:"); found {
			at = seconds(strings.Fields(after)[0])
		} else if v, found := strings.CutPrefix(line, key+"="); found {
			f, err := strconv.ParseFloat(v, 64)
			if err == nil && at >= 0 {
				list = append(list, sample{at, f})
			}
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].at < list[j].at })
	return list
}

// onsets returns when values rise over high after having been below low for at
// least quiet. Frames that are missing do not end the quiet.
func onsets(list []sample, low, high float64, quiet time.Duration) []time.Duration {
	var at []time.Duration
	since := time.Duration(-1) // begin of the low stretch; -1: not in one
	armed := false
	for _, s := range list {
		switch {
		case s.value < low:
			if since < 0 {
				since = s.at
			}
			armed = armed || s.at-since >= quiet
		case s.value > high:
			if armed {
				at = append(at, s.at)
			}
			since, armed = -1, false
		}
	}
	return at
}

// An Area is a part of a picture, in fractions of its width and height, whatever
// its size is.
type Area struct{ Left, Top, Width, Height float64 }

// Sync says how far sound and picture are apart in a recording.
type Sync struct {
	// Offsets are the times from a flash to the beep that belongs to it; positive
	// when the sound is late.
	Offsets []time.Duration
	Flashes int
	Beeps   int
}

// Median returns the median offset.
func (s Sync) Median() time.Duration {
	o := append([]time.Duration(nil), s.Offsets...)
	sort.Slice(o, func(i, j int) bool { return o[i] < o[j] })
	return o[len(o)/2]
}

// Worst returns the offset that is farthest from 0.
func (s Sync) Worst() time.Duration {
	var w time.Duration
	for _, o := range s.Offsets {
		if o.Abs() > w.Abs() {
			w = o
		}
	}
	return w
}

// String describes s for a message.
func (s Sync) String() string {
	if len(s.Offsets) == 0 {
		return fmt.Sprintf("%d flashes and %d beeps, no pairs", s.Flashes, s.Beeps)
	}
	return fmt.Sprintf("%d flashes, %d beeps, %d pairs, median %v, worst %v", s.Flashes, s.Beeps, len(s.Offsets),
		s.Median().Round(time.Millisecond), s.Worst().Round(time.Millisecond))
}

// MeasureSync decodes a recording of flashes (white pictures on dark ones) and
// beeps (sound in silence), one of each per second at the same instant, and
// pairs them. The flash is looked for in area alone.
func MeasureSync(t testing.TB, file string, area Area) Sync {
	t.Helper()
	crop := fmt.Sprintf("crop=iw*%f:ih*%f:iw*%f:ih*%f,", area.Width, area.Height, area.Left, area.Top)
	luma := measure(t, file, "v", crop+"scale=32:18:flags=area,signalstats,metadata=print:key=lavfi.signalstats.YAVG:file=-", "lavfi.signalstats.YAVG")
	// Blocks of 2.5 ms: the resolution of a beep's begin.
	sound := measure(t, file, "a", "asetnsamples=n=120:p=0,astats=metadata=1:reset=1,ametadata=print:key=lavfi.astats.Overall.Peak_level:file=-", "lavfi.astats.Overall.Peak_level")
	flashes := onsets(luma, 90, 160, 200*time.Millisecond)
	beeps := onsets(sound, -36, -24, 200*time.Millisecond)
	s := Sync{Flashes: len(flashes), Beeps: len(beeps)}
	for _, f := range flashes {
		best := time.Duration(-1)
		for _, b := range beeps {
			if best < 0 || (b-f).Abs() < (best-f).Abs() {
				best = b
			}
		}
		if best >= 0 && (best-f).Abs() < 500*time.Millisecond {
			s.Offsets = append(s.Offsets, best-f)
		}
	}
	return s
}

// CheckSync returns an error unless at least pairs flashes have their beeps, the
// median offset is within limit, and so is the given share of all.
func CheckSync(s Sync, pairs int, limit time.Duration, share float64) error {
	if len(s.Offsets) < pairs {
		return fmt.Errorf("want at least %d pairs of flash and beep: %v", pairs, s)
	}
	if s.Median().Abs() > limit {
		return fmt.Errorf("sound and picture are apart by more than %v: %v", limit, s)
	}
	far := 0
	for _, o := range s.Offsets {
		if o.Abs() > limit {
			far++
		}
	}
	if float64(far) > (1-share)*float64(len(s.Offsets)) {
		return fmt.Errorf("sound and picture are apart by more than %v in %d of %d pairs: %v", limit, far, len(s.Offsets), s)
	}
	return nil
}

// Sizes returns the sizes of the decoded pictures of a file, in the order of
// their first appearance: 640x360.
func Sizes(t testing.TB, file string) []string {
	t.Helper()
	out := runOrFail(t, "ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "frame=width,height", "-of", "csv=p=0:s=x", file)
	var sizes []string
	for line := range strings.Lines(string(out)) {
		size := strings.Trim(strings.TrimSpace(line), "x")
		if size != "" && !slices.Contains(sizes, size) {
			sizes = append(sizes, size)
		}
	}
	return sizes
}

// Pictures are the sums of the decoded pictures of a file, in the order of output:
// those of two files are the same where the pictures are.
func Pictures(t testing.TB, file string) []string {
	t.Helper()
	var list []string
	for line := range strings.Lines(string(runOrFail(t, "ffmpeg", "-nostdin", "-v", "error", "-i", file, "-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-"))) {
		if !strings.HasPrefix(line, "#") {
			list = append(list, strings.TrimSpace(line[strings.LastIndexByte(line, ',')+1:]))
		}
	}
	return list
}
