package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/test/peers"
)

// middle is where the page's test picture flashes.
var middle = peers.Area{Left: 0.25, Top: 0.25, Width: 0.5, Height: 0.5}

// cardFlash is where the test card flashes.
func cardFlash() peers.Area {
	r := clip.FlashArea()
	return peers.Area{
		Left: float64(r.Min.X) / clip.Width, Top: float64(r.Min.Y) / clip.Height,
		Width: float64(r.Dx()) / clip.Width, Height: float64(r.Dy()) / clip.Height,
	}
}

// broadcast publishes with the page for d and returns the recordings of the two
// applications.
func broadcast(t *testing.T, source string, d time.Duration) (a, b string) {
	t.Helper()
	peers.Need(t, "chromium", "nginx", "ffmpeg", "ffprobe")
	cdn := peers.StartNginx(t)
	g := startPlainGateway(t, route("studio",
		fmt.Sprintf(`first: {url: "%s"}`, cdn.URL("a", "studio")),
		fmt.Sprintf(`second: {url: "rtmp://%s/b", key: "studio"}`, cdn.RTMPAddr)))
	c := peers.StartChromium(t)
	c.Open(t, g.page("studio", source))
	c.Click(t, "#start")
	cdn.WaitPublisher(t, 30*time.Second, "a", "studio")
	cdn.WaitPublisher(t, 30*time.Second, "b", "studio")
	// A browser makes its pictures smaller by itself where it lacks bandwidth or
	// CPU; here it must, once.
	if source == "canvas" {
		record(t, cdn, "a", "studio", d/4)
		c.ScaleVideo(t, 2)
		record(t, cdn, "a", "studio", d/4)
		c.ScaleVideo(t, 1)
		d /= 2
	}
	record(t, cdn, "a", "studio", d)
	sender, err := c.VideoSender()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Chromium sends %+v", sender)
	for _, app := range []string{"a", "b"} {
		_, s, err := cdn.Publisher(app, "studio")
		if err != nil {
			t.Fatal(err)
		}
		if s.AudioCodec != "AAC" || s.Profile != "LC" || s.Channels != 2 || s.SampleRate != 48000 || s.VideoCodec != "H264" {
			t.Errorf("nginx sees %+v", s)
		}
	}
	c.Click(t, "#stop")
	waitUnpublished(t, 30*time.Second, cdn, "a", "studio")
	waitUnpublished(t, 30*time.Second, cdn, "b", "studio")
	return oneRecording(t, cdn, "a"), oneRecording(t, cdn, "b")
}

// A browser publishes from a canvas and WebAudio; two CDNs receive H.264 and AAC
// that decode across changes of the resolution, with sound and picture together, and
// sound of the right pitch on the right channel.
func TestBrowserToTwoCDNs(t *testing.T) {
	a, b := broadcast(t, "canvas", 20*time.Second)
	for _, file := range []string{a, b} {
		packets := checkPlayable(t, file)
		if got := length(packets, "video"); got < 19*time.Second {
			t.Errorf("%s: only %v of video", file, got)
		}
		if sizes := peers.Sizes(t, file); len(sizes) < 2 {
			t.Errorf("%s: pictures of %v only: the changes of resolution are not in the test", file, sizes)
		} else {
			t.Logf("%s: pictures of %v", file, sizes)
		}
		sync := peers.MeasureSync(t, file, middle)
		t.Logf("%s: %v", file, sync)
		// Single pictures a browser on a busy machine draws late.
		if err := peers.CheckSync(sync, 12, 120*time.Millisecond, 0.6); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		// The page beeps with another tone on each channel: media.js.
		tones := peers.MeasureTones(t, file)
		t.Logf("%s: %v", file, tones)
		if err := peers.CheckTones(tones, 12, 1000, 1500, 0.4); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// The same from the browser's camera and microphone, which are fake: moving
// pictures and beeps.
func TestCameraToTwoCDNs(t *testing.T) {
	a, b := broadcast(t, "camera", 10*time.Second)
	for _, file := range []string{a, b} {
		checkPlayable(t, file)
		if v := peers.MeanVolume(t, file); v < -40 {
			t.Errorf("%s: the sound is %.1f dB: nearly silent", file, v)
		}
	}
}

// The page says in plain words what is wrong.
func TestPageSaysWhatIsWrong(t *testing.T) {
	peers.Need(t, "chromium")
	g := startGateway(t, route("studio", fmt.Sprintf(`first: {url: "rtmp://%s/live/x"}`, peers.FreeAddr(t))))
	c := peers.StartChromium(t)
	c.Open(t, "http://"+g.listen+"/publish/studio#token=wrong")
	c.Click(t, "#start")
	peers.Wait(t, 30*time.Second, "the page to speak of the token", func() error {
		if text := c.Text(t); !strings.Contains(strings.ToLower(text), "token") {
			return fmt.Errorf("it says: %s", text)
		}
		return nil
	})
	if s, err := g.stream("studio"); err != nil || s.Publisher != nil {
		t.Errorf("stream %+v, error %v; want no publisher", s, err)
	}
}

// Sound and picture of a publisher in Go arrive together; the check would see
// 150 ms.
func TestSyncOfGoPublisher(t *testing.T) {
	peers.Need(t, "nginx", "ffmpeg", "ffprobe")
	cdn := peers.StartNginx(t)
	g := startGateway(t, route("studio", fmt.Sprintf(`first: {url: "%s"}`, cdn.URL("a", "good")))+
		route("shifted", fmt.Sprintf(`first: {url: "%s"}`, cdn.URL("b", "shifted"))))
	good := g.publish(t, "studio")
	shifted := g.publish(t, "shifted", "-audio-shift", "150ms")
	cdn.WaitPublisher(t, 30*time.Second, "a", "good")
	cdn.WaitPublisher(t, 30*time.Second, "b", "shifted")
	record(t, cdn, "b", "shifted", 10*time.Second)
	for _, p := range []publisher{good, shifted} {
		if code := p.Interrupt(t, 30*time.Second); code != 0 {
			t.Errorf("the publisher ended with %d", code)
		}
	}
	waitUnpublished(t, 30*time.Second, cdn, "a", "good")
	waitUnpublished(t, 30*time.Second, cdn, "b", "shifted")

	file := oneRecording(t, cdn, "a")
	if err := checkUnbroken(checkRecording(t, file)); err != nil {
		t.Error(err)
	}
	sync := peers.MeasureSync(t, file, cardFlash())
	t.Logf("good: %v", sync)
	if err := peers.CheckSync(sync, 8, 40*time.Millisecond, 0.9); err != nil {
		t.Error(err)
	}

	file = oneRecording(t, cdn, "b")
	checkRecording(t, file)
	sync = peers.MeasureSync(t, file, cardFlash())
	t.Logf("sound late by 150 ms: %v", sync)
	if err := peers.CheckSync(sync, 8, 40*time.Millisecond, 0.9); err == nil {
		t.Error("the check passes although the sound is late by 150 ms")
	}
	if d := sync.Median() - 150*time.Millisecond; d.Abs() > 40*time.Millisecond {
		t.Errorf("the sound is late by 150 ms and was measured late by %v", sync.Median())
	}
}
