package peers

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// flashFile makes a file of flashes and beeps in which the sound is late.
func flashFile(t *testing.T, late time.Duration) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), fmt.Sprintf("late-%d.flv", late.Milliseconds()))
	FFmpeg(t,
		"-f", "lavfi", "-i", "color=c=0x111111:s=320x180:r=30:d=8,drawbox=c=white:t=fill:enable='lt(mod(t,1),0.1)'",
		"-f", "lavfi", "-i", fmt.Sprintf("aevalsrc='if(lt(mod(t-%f+1,1),0.1),0.5*sin(2*PI*1000*t),0)':s=48000:d=8", late.Seconds()),
		"-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-c:a", "aac", "-ac", "2", file)
	return file
}

func TestSyncIsMeasured(t *testing.T) {
	Need(t, "ffmpeg", "ffprobe")
	for _, late := range []time.Duration{0, 150 * time.Millisecond} {
		s := MeasureSync(t, flashFile(t, late), Area{Width: 1, Height: 1})
		t.Logf("sound late by %v: %v", late, s)
		if d := s.Median() - late; d.Abs() > 10*time.Millisecond {
			t.Errorf("sound late by %v: measured %v", late, s)
		}
		err := CheckSync(s, 6, 120*time.Millisecond, 0.9)
		if (err == nil) != (late == 0) {
			t.Errorf("sound late by %v: check says %v", late, err)
		}
	}
}

func TestOnsets(t *testing.T) {
	var list []sample
	add := func(ms int, v float64) { list = append(list, sample{time.Duration(ms) * time.Millisecond, v}) }
	for ms := range 300 {
		add(ms, 0)
	}
	add(300, 10) // rises after 300 ms of quiet
	for ms := 301; ms < 400; ms++ {
		add(ms, 0)
	}
	add(400, 10) // after 99 ms: too early
	got := onsets(list, 1, 9, 200*time.Millisecond)
	if len(got) != 1 || got[0] != 300*time.Millisecond {
		t.Errorf("got %v, want one at 300ms", got)
	}
}

func TestCheckMonotonic(t *testing.T) {
	good := []Packet{{Type: "video", DTS: 1}, {Type: "audio", DTS: 1}, {Type: "video", DTS: 2}}
	if err := CheckMonotonic(good); err != nil {
		t.Error(err)
	}
	if CheckMonotonic(append(good, Packet{Type: "video", DTS: 2})) == nil {
		t.Error("a time that stands still passes")
	}
}

func TestCheckDecodesSeesDamage(t *testing.T) {
	Need(t, "ffmpeg")
	file := flashFile(t, 0)
	if err := CheckDecodes(t, file); err != nil {
		t.Fatal(err)
	}
	for what, filter := range map[string]string{
		"damaged": "noise=amount=3",
		// One picture, which is no keyframe.
		"lossy": "noise=drop='eq(n,100)'",
	} {
		damaged := filepath.Join(t.TempDir(), what+".flv")
		FFmpeg(t, "-i", file, "-c", "copy", "-bsf:v", filter, damaged)
		if CheckDecodes(t, damaged) == nil {
			t.Errorf("a %s file decodes without a complaint", what)
		}
	}
}

func TestNginxRecordsAndPauses(t *testing.T) {
	Need(t, "nginx", "ffmpeg", "ffprobe")
	n := StartNginx(t)
	pub := Start(t, Command{Path: Find(t, "ffmpeg"), Args: []string{"-nostdin", "-hide_banner", "-v", "error", "-re",
		"-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-f", "lavfi", "-i", "sine=frequency=1000:sample_rate=48000",
		"-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "30", "-c:a", "aac", "-ac", "2", "-f", "flv", n.URL("a", "x")}})
	client, stream := n.WaitPublisher(t, 30*time.Second, "a", "x")
	if stream.AudioCodec != "AAC" || stream.Profile != "LC" || stream.Channels != 2 || stream.SampleRate != 48000 || stream.VideoCodec != "H264" || stream.Width != 320 {
		t.Errorf("nginx sees %+v", stream)
	}
	n.Pause(t)
	if _, err := n.Stat(); err == nil {
		t.Error("nginx answers while it is stopped")
	}
	n.Resume(t)
	bytes := stream.BytesIn
	Wait(t, 30*time.Second, "more bytes after the pause", func() error {
		c, s, err := n.Publisher("a", "x")
		if err == nil && (c.ID != client.ID || s.BytesIn <= bytes+20000) {
			err = fmt.Errorf("client %d, %d bytes; before: client %d, %d bytes", c.ID, s.BytesIn, client.ID, bytes)
		}
		return err
	})
	pub.Kill()
	Wait(t, 30*time.Second, "the publisher's end at nginx", func() error {
		if _, _, err := n.Publisher("a", "x"); err == nil {
			return fmt.Errorf("still publishing")
		}
		return nil
	})
	if n.Unpublished("x") == nil {
		t.Error("a publisher that was killed has said goodbye")
	}
	files := n.Recordings(t, "a")
	if len(files) != 1 {
		t.Fatalf("recordings: %q, want one", files)
	}
	packets := Packets(t, files[0])
	if err := CheckMonotonic(packets); err != nil {
		t.Error(err)
	}
	if Count(packets, "video") < 10 || Count(packets, "audio") < 10 {
		t.Errorf("%d video and %d audio packets recorded", Count(packets, "video"), Count(packets, "audio"))
	}
	if err := CheckDecodes(t, files[0]); err != nil {
		t.Error(err)
	}
}

func TestStunnelSpeaksTLS(t *testing.T) {
	Need(t, "stunnel")
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("behind")) }))
	defer back.Close()
	ca := NewCA(t)
	cert, key := ca.Issue(t, "localhost", "127.0.0.1")
	addr, _ := StartStunnel(t, cert, key, strings.TrimPrefix(back.URL, "http://"))
	for _, other := range []bool{false, true} {
		trusted := ca
		if other {
			trusted = NewCA(t)
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusted.ClientConfig()}}
		resp, err := client.Get("https://" + addr)
		if err == nil {
			_ = resp.Body.Close()
		}
		if (err != nil) != other {
			t.Errorf("trusting another authority: %v, error: %v", other, err)
		}
		client.CloseIdleConnections()
	}
}

func TestChromiumDrivesAPage(t *testing.T) {
	Need(t, "chromium")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<!doctype html><title>page</title><button id=go onclick='document.body.append(\"clicked\")'>go</button>"))
	}))
	defer srv.Close()
	c := StartChromium(t)
	c.Open(t, srv.URL)
	c.Click(t, "#go")
	if text := c.Text(t); !strings.Contains(text, "clicked") {
		t.Errorf("page shows %q", text)
	}
	var kinds []string
	c.Eval(t, `navigator.mediaDevices.getUserMedia({audio: true, video: true}).then(s => s.getTracks().map(t => t.kind))`, &kinds)
	if strings.Join(kinds, " ") != "audio video" {
		t.Errorf("tracks %q", kinds)
	}
	if _, err := c.VideoSender(); err == nil {
		t.Error("a page without a peer connection sends video")
	}
}

// Pitch and channels are measured: channels that are swapped or mixed, and sound that
// runs at another speed, do not pass.
func TestTonesAreMeasured(t *testing.T) {
	Need(t, "ffmpeg")
	check := func(name, left, right string, good bool) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "beeps.wav")
		beep := func(hz string) string { return fmt.Sprintf("0.4*sin(2*PI*%s*t)*lt(mod(t,1),0.1)", hz) }
		FFmpeg(t, "-f", "lavfi", "-i", fmt.Sprintf("aevalsrc='%s|%s':s=48000:d=4", beep(left), beep(right)), file)
		tones := MeasureTones(t, file)
		if err := CheckTones(tones, 4, 1000, 1500, 0.4); (err == nil) != good {
			t.Errorf("%s: %v, error %v", name, tones, err)
		}
	}
	check("as played", "1000", "1500", true)
	check("swapped", "1500", "1000", false)
	check("mono", "1000", "1000", false)
	check("too fast", "1005", "1507", false)
}

// TestFreePorts: no port is given out twice, none is one that the kernel picks by
// itself, and another binary does not get one that is held here.
func TestFreePorts(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Fatal(err)
	}
	var low, high int
	if _, err := fmt.Sscan(string(b), &low, &high); err != nil {
		t.Fatal(err)
	}
	given := make(map[int]bool)
	take := func(port int) {
		t.Helper()
		if given[port] {
			t.Errorf("port %d is given out twice", port)
		}
		if port >= low && port <= high {
			t.Errorf("port %d is one of those that the kernel picks, %d to %d", port, low, high)
		}
		given[port] = true
	}
	for range 20 {
		take(FreePort(t))
		pair := FreePair(t)
		if pair%2 != 0 {
			t.Errorf("the pair begins at %d", pair)
		}
		take(pair)
		take(pair + 1)
	}
	for port := range given {
		if held, ok := hold(port, 1); ok || len(held) > 0 {
			t.Errorf("port %d is given to another", port)
		}
	}
}
