package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// A cell of docs/routes.md: what becomes of a codec on its way to an egress.
type cell struct {
	passes  bool   // as it is
	made    string // the codec that is made of it
	ask     bool   // passes where the peer takes it
	refused string // the message, where it does not pass
}

// A routesPage is docs/routes.md, read as its readers do.
type routesPage struct {
	ingests []string
	codecs  map[string][]string                   // of each ingest
	cells   map[string]map[string]map[string]cell // by ingest, codec, egress
}

var (
	linkText = regexp.MustCompile(`^\[([a-z0-9-]+)\]`)
	message  = regexp.MustCompile(`(?m)^(\d+)\. \*(.*)\*$`)
	cellText = regexp.MustCompile(`^(?:(as it is)|(if taken|refused) \((\d+)\)|([a-z0-9]+)(, or as it is)?)$`)
)

func readRoutesPage(t *testing.T) routesPage {
	t.Helper()
	b, err := os.ReadFile("../../docs/routes.md")
	if err != nil {
		t.Fatal(err)
	}
	messages := map[string]string{}
	for _, m := range message.FindAllStringSubmatch(string(b), -1) {
		messages[m[1]] = m[2]
	}
	page := routesPage{codecs: map[string][]string{}, cells: map[string]map[string]map[string]cell{}}
	var egresses []string
	ingest := ""
	for line := range strings.Lines(string(b)) {
		fields := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		switch {
		case fields[0] == "from" && egresses == nil:
			for _, f := range fields[2:] {
				egresses = append(egresses, linkText.FindStringSubmatch(strings.TrimPrefix(f, "to "))[1])
			}
			continue
		case egresses == nil || strings.HasPrefix(fields[0], "---"):
			continue
		case len(fields) != 2+len(egresses):
			return page // the end of the table
		}
		if m := linkText.FindStringSubmatch(fields[0]); m != nil {
			ingest = m[1]
			page.ingests = append(page.ingests, ingest)
			page.cells[ingest] = map[string]map[string]cell{}
		}
		codec := fields[1]
		page.codecs[ingest] = append(page.codecs[ingest], codec)
		page.cells[ingest][codec] = map[string]cell{}
		for i, f := range fields[2:] {
			m := cellText.FindStringSubmatch(f)
			if m == nil {
				t.Fatalf("%s, %s to %s: the page says %q", ingest, codec, egresses[i], f)
			}
			page.cells[ingest][codec][egresses[i]] = cell{passes: m[1] != "", ask: m[2] == "if taken" || m[5] != "", refused: messages[m[3]], made: m[4]}
		}
	}
	t.Fatal("docs/routes.md has no table")
	return page
}

func isVideo(codec string) bool {
	return slices.Contains([]string{"h264", "h265", "av1", "vp8", "vp9"}, codec)
}

// A walk is one gateway, the sources and receivers around it, and what was promised.
type walk struct {
	g     *gateway
	page  routesPage
	nginx *peers.Nginx
	mtx   *peers.MediaMTX
	addr  map[string]string // where ingests listen
	dir   string

	mu    sync.Mutex // guards the field below
	files map[string]*sync.Once
}

// A stream is one ingest with a picture and a sound, and the targets that it goes to.
type routedStream struct {
	ingest, video, audio string
	targets              []*routed
}

func (s *routedStream) name() string {
	return strings.Join([]string{strings.TrimPrefix(s.ingest, "ingest-"), s.video, s.audio}, "-")
}

// A routed is one target of a stream: how the file says it, and where it records.
type routed struct {
	name, yaml   string
	video, audio string // what arrives
	refused      string // or why nothing does
	file         func(t *testing.T) string
	recorder     *peers.Process
}

// A source says how an ingest is fed: the line of the route, and what makes the media
// and returns what to start once the gateway runs.
type source struct {
	route string
	feed  func(t *testing.T, w *walk, s *routedStream) (start func())
}

func sources() map[string]source {
	return map[string]source{
		"ingest-clip": {route: `from: {url: "clip:"}`},
		"ingest-webrtc": {feed: func(t *testing.T, w *walk, s *routedStream) func() {
			if s.video == "h264" {
				return func() { w.g.publish(t, s.name()) }
			}
			flags := []string{"-video", w.elementary(t, s.video), "-audio", w.elementary(t, s.audio)}
			return func() { w.g.publish(t, s.name(), flags...) }
		}},
		"ingest-rtmp": {feed: func(t *testing.T, w *walk, s *routedStream) func() {
			if s.video == "h264" && (s.audio == "aac" || s.audio == "mp3") {
				return w.ffmpeg(t, s, "rtmp://"+w.addr["ingest-rtmp"]+"/"+s.name()+"/"+token, "-f", "flv")
			}
			// What Enhanced RTMP is needed for ffmpeg does not know.
			file := w.file(t, s, ".mp4")
			return func() { peers.PublishRTMP(t, "rtmp://"+w.addr["ingest-rtmp"]+"/"+s.name()+"#"+token, file, 0) }
		}},
		"ingest-srt": {feed: func(t *testing.T, w *walk, s *routedStream) func() {
			return w.ffmpeg(t, s, "srt://"+w.addr["ingest-srt"]+"?streamid=publish:"+s.name()+"?token="+token, "-f", "mpegts")
		}},
		"ingest-rtsp": {feed: func(t *testing.T, w *walk, s *routedStream) func() {
			return w.ffmpeg(t, s, "rtsp://"+w.addr["ingest-rtsp"]+"/"+s.name()+"?token="+token, "-f", "rtsp", "-rtsp_transport", "tcp")
		}},
	}
}

// encoders make each codec with little work.
var encoders = map[string][]string{
	"h264": {"-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "30", "-pix_fmt", "yuv420p"},
	"h265": {"-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "bframes=0:keyint=30:slices=1:frame-threads=1:log-level=none", "-pix_fmt", "yuv420p"},
	"av1":  {"-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-g", "30", "-lag-in-frames", "0", "-b:v", "100k", "-pix_fmt", "yuv420p"},
	"vp9":  {"-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "30", "-lag-in-frames", "0", "-b:v", "100k", "-pix_fmt", "yuv420p"},
	"aac":  {"-c:a", "aac", "-ac", "2"},
	"opus": {"-c:a", "libopus", "-ac", "2"},
	"mp2":  {"-c:a", "mp2", "-ar", "44100", "-ac", "2"},
	"mp3":  {"-c:a", "libmp3lame", "-ar", "44100", "-ac", "2"},
	"pcma": {"-c:a", "pcm_alaw", "-ar", "8000", "-ac", "1"},
	"pcmu": {"-c:a", "pcm_mulaw", "-ar", "8000", "-ac", "1"},
}

// once makes a file, unless it is there.
func (w *walk) once(t *testing.T, name string, encode func(file string)) string {
	t.Helper()
	file := filepath.Join(w.dir, name)
	w.mu.Lock()
	once := w.files[name]
	if once == nil {
		once = new(sync.Once)
		w.files[name] = once
	}
	w.mu.Unlock()
	once.Do(func() { encode(file) })
	return file
}

// elementary is a file of one codec, for the publisher over WHIP.
func (w *walk) elementary(t *testing.T, codec string) string {
	t.Helper()
	name, input := codec+".ivf", "testsrc2=size=160x90:rate=30"
	more := []string{"-t", "3"}
	switch codec {
	case "h265":
		name, more = codec+".h265", append(more, "-f", "hevc")
	case "opus":
		name, input, more = codec+".ogg", "sine=sample_rate=48000", append(more, "-frame_duration", "20", "-page_duration", "20000")
	}
	return w.once(t, name, func(file string) {
		peers.FFmpeg(t, slices.Concat([]string{"-f", "lavfi", "-i", input}, encoders[codec], more, []string{file})...)
	})
}

// file is a picture and a sound for s, of more time than the walk takes: where it begins
// anew the times of its sound overlap.
func (w *walk) file(t *testing.T, s *routedStream, format string) string {
	t.Helper()
	return w.once(t, s.video+"-"+s.audio+format, func(file string) {
		peers.FFmpeg(t, slices.Concat([]string{"-f", "lavfi", "-i", "testsrc2=size=160x90:rate=30", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", "40"},
			encoders[s.video], encoders[s.audio], []string{file})...)
	})
}

// ffmpeg sends a stream in real time until the test ends.
func (w *walk) ffmpeg(t *testing.T, s *routedStream, url string, format ...string) (start func()) {
	t.Helper()
	file := w.file(t, s, ".mkv")
	command := peers.Command{Path: peers.Find(t, "ffmpeg"), Args: slices.Concat([]string{
		"-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", file, "-c", "copy"}, format, []string{url})}
	return func() { peers.Start(t, command) }
}

// target is what the page promises of a stream at a peer: one that takes everything
// that is carried, or what every peer of its kind takes. opus: the target asks for it.
func (w *walk) target(s *routedStream, egress string, modern, opus bool) *routed {
	r := &routed{name: strings.TrimPrefix(egress, "egress-")}
	arrives := func(codec string) string {
		switch c := w.page.cells[s.ingest][codec][egress]; {
		case c.passes, c.ask && (modern || opus):
			return codec
		case c.made != "":
			return c.made
		default:
			r.refused = c.refused
			return ""
		}
	}
	r.audio = arrives(s.audio)
	r.video = arrives(s.video) // a refusal of the picture is told first
	return r
}

// targets are the places to which a stream goes.
func (w *walk) targets(t *testing.T, s *routedStream) {
	t.Helper()
	path := s.name()
	legacy := w.target(s, "egress-rtmp", false, false)
	legacy.yaml = fmt.Sprintf("rtmp: {url: %q}", w.nginx.URL("a", path))
	legacy.file = func(t *testing.T) string { return w.recordingOf(t, path) }
	modern := w.target(s, "egress-rtmp", true, false)
	modern.name = "enhanced"
	modern.yaml = fmt.Sprintf("enhanced: {url: %q, codecs: [h264, h265, av1, vp9, aac, opus, mp3]}", "rtmp://"+w.mtx.RTMPAddr+"/enhanced/"+path)
	modern.file = func(t *testing.T) string { return w.mtx.Recording(t, "enhanced/"+path) }
	if s.audio == "mp3" { // of which MediaMTX gives up recordings as too late, also of ffmpeg's own
		key := "mp3-" + path
		modern.name = "rtmp-mp3"
		modern.yaml = fmt.Sprintf("rtmp-mp3: {url: %q, codecs: [h264, aac, mp3]}", w.nginx.URL("a", key))
		modern.file = func(t *testing.T) string { return w.recordingOf(t, key) }
	}
	s.targets = []*routed{legacy, modern, w.srt(t, s, "srt", false)}
	if w.page.cells[s.ingest][s.audio]["egress-srt"].ask {
		s.targets = append(s.targets, w.srt(t, s, "srt-opus", true))
	}
}

// srt is a target over SRT, recorded by ffmpeg.
func (w *walk) srt(t *testing.T, s *routedStream, name string, opus bool) *routed {
	t.Helper()
	r := w.target(s, "egress-srt", false, opus)
	addr := peers.FreeAddr(t)
	r.name, r.yaml = name, fmt.Sprintf("%s: {url: \"srt://%s\"}", name, addr)
	if opus {
		r.yaml = fmt.Sprintf("%s: {url: \"srt://%s\", audio: {codec: opus}}", name, addr)
	}
	if r.refused != "" {
		return r
	}
	file := filepath.Join(t.TempDir(), "srt.ts")
	r.recorder = peers.Start(t, peers.Command{Path: peers.Find(t, "ffmpeg"), Args: []string{
		"-nostdin", "-v", "error", "-y", "-i", "srt://" + addr + "?mode=listener", "-map", "0", "-c", "copy", file}})
	r.file = func(t *testing.T) string {
		r.recorder.ExitCode(t, 30*time.Second)
		return file
	}
	return r
}

// recordingOf is what nginx recorded of a key.
func (w *walk) recordingOf(t *testing.T, key string) string {
	t.Helper()
	files := slices.DeleteFunc(w.nginx.Recordings(t, "a"), func(f string) bool { return !strings.HasPrefix(filepath.Base(f), key+"-") })
	if len(files) != 1 {
		t.Fatalf("recordings of %s: %q, want one", key, files)
	}
	return files[0]
}

// streams are pairs of the ingests' codecs, in each of which one that passes goes with
// one that is looked at.
func (p routesPage) streams() (list []*routedStream) {
	for _, in := range p.ingests {
		video := slices.DeleteFunc(slices.Clone(p.codecs[in]), func(c string) bool { return !isVideo(c) })
		audio := slices.DeleteFunc(slices.Clone(p.codecs[in]), isVideo)
		for _, v := range video {
			list = append(list, &routedStream{ingest: in, video: v, audio: audio[0]})
		}
		for _, a := range audio[1:] {
			list = append(list, &routedStream{ingest: in, video: video[0], audio: a})
		}
	}
	return list
}

// TestRoutes walks docs/routes.md with real media: what the page promises of each cell
// is what ffprobe finds at the other end, or what the target says; and a target that is
// refused costs its siblings nothing.
func TestRoutes(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe", "nginx")
	w := &walk{page: readRoutesPage(t), nginx: peers.StartNginx(t), mtx: peers.RecordMediaMTX(t), dir: t.TempDir(), files: map[string]*sync.Once{},
		addr: map[string]string{"ingest-rtmp": peers.FreeAddr(t), "ingest-rtsp": peers.FreeAddr(t), "ingest-srt": peers.FreeAddr(t)}}
	ways := sources()
	var plugins, routes strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.addr)) {
		fmt.Fprintf(&plugins, "  %s: {options: {listen: %q}}\n", name, w.addr[name])
	}
	streams := w.page.streams()
	for _, s := range streams {
		way, ok := ways[s.ingest]
		if !ok {
			t.Fatalf("docs/routes.md has %s, and this test does not feed it: add it to sources", s.ingest)
		}
		w.targets(t, s)
		var lines []string
		for _, r := range s.targets {
			lines = append(lines, r.yaml)
		}
		text := route(s.name(), lines...)
		if way.route != "" {
			text = strings.Replace(text, `publish: {token: "${env:STUDIO_TOKEN}"}`, way.route, 1)
		}
		routes.WriteString(text)
	}
	routes.WriteString(route("nobody", `srt: {url: "srt://127.0.0.1:9"}`))
	var feeds []func()
	for _, s := range streams {
		if feed := ways[s.ingest].feed; feed != nil {
			feeds = append(feeds, feed(t, w, s))
		}
	}
	w.g = startGatewayWith(t, plugins.String(), routes.String())
	for _, feed := range feeds {
		feed()
	}
	w.checkRefusedPublisher(t)
	for _, s := range streams {
		for _, r := range s.targets {
			if r.refused == "" {
				w.g.waitTarget(t, 60*time.Second, s.name(), r.name, status.TargetLive)
				continue
			}
			got := w.g.waitTarget(t, 60*time.Second, s.name(), r.name, status.TargetFailed)
			if got.LastError == nil || got.LastError.Message != r.refused || got.LastError.Cause != "config" {
				t.Errorf("%s to %s: it says %+v, the page %q", s.name(), r.name, got.LastError, r.refused)
			}
		}
	}
	w.run(t, streams)
	w.g.Interrupt(t, 30*time.Second)
	for _, s := range streams {
		for _, r := range s.targets {
			if r.refused == "" {
				t.Run(s.name()+"/"+r.name, func(t *testing.T) { checkRouted(t, r.file(t), r.video, r.audio, r.name == "enhanced") })
			}
		}
	}
}

// run waits until each target has got 3 s more: of 30 pictures and of 46 sounds or more
// in each.
func (w *walk) run(t *testing.T, streams []*routedStream) {
	t.Helper()
	const units = 3 * (30 + 46)
	sent := map[*routed]uint64{}
	for _, enough := range []uint64{0, units} {
		for _, s := range streams {
			for _, r := range s.targets {
				if r.refused != "" {
					continue
				}
				peers.Wait(t, time.Minute, "media at "+s.name()+"/"+r.name, func() error {
					got, err := w.g.target(s.name(), r.name)
					switch {
					case err != nil:
						return err
					case enough == 0:
						sent[r] = got.UnitsSent
					case got.UnitsSent < sent[r]+enough:
						return fmt.Errorf("%d units were sent, of these %d before", got.UnitsSent, sent[r])
					}
					return nil
				})
			}
		}
	}
}

// checkRefusedPublisher: who can send nothing that any target takes is told so.
func (w *walk) checkRefusedPublisher(t *testing.T) {
	t.Helper()
	want := w.page.cells["ingest-webrtc"]["vp9"]["egress-srt"].refused
	p := peers.Start(t, peers.Command{
		Path: filepath.Join(bin, "publisher"), Env: []string{"STUDIO_TOKEN=" + token},
		Args: []string{"-url", w.g.whip("nobody"), "-token-env", "STUDIO_TOKEN", "-video", w.elementary(t, "vp9")},
	})
	if code := p.ExitCode(t, 30*time.Second); code == 0 || want == "" || !strings.Contains(p.Output(), want) || !strings.Contains(p.Output(), `"status":422`) {
		t.Errorf("exit code %d, want a refusal with %q:\n%s", code, want, p.Output())
	}
}

// checkRouted holds a recording to what was promised of it. MediaMTX records no picture that a busy machine
// hands it later than the sound beside it ("received too late, discarding").
func checkRouted(t *testing.T, file, video, audio string, byMediaMTX bool) {
	t.Helper()
	names := map[string]string{"h265": "hevc"}
	var got []string
	for _, s := range peers.Streams(t, file) {
		got = append(got, s.Type+" "+s.Codec)
	}
	slices.Sort(got)
	name := func(codec string) string {
		if n, ok := names[codec]; ok {
			return n
		}
		return codec
	}
	if want := []string{"audio " + name(audio), "video " + name(video)}; !slices.Equal(got, want) {
		t.Errorf("ffprobe finds %q, the page promises %q", got, want)
	}
	packets := peers.Packets(t, file)
	var few error
	if v, a := length(packets, "video"), length(packets, "audio"); v < 2*time.Second || a < 2*time.Second {
		few = fmt.Errorf("%v of pictures and %v of sound", v, a)
	}
	var resumes error
	if !byMediaMTX {
		resumes = checkResumes(packets)
	}
	if err := errors.Join(few, peers.CheckMonotonic(packets), resumes, peers.CheckDecodes(t, file)); err != nil {
		t.Error(err)
	}
}
