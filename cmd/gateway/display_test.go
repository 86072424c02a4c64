package main

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/secret"
)

func someRows() []row {
	return []row{
		{name: "cdn-a", state: "live", got: &rtmp.StreamStats{
			Measured: true,
			Video:    rtmp.TrackStats{Codec: "h264", Width: 1280, Height: 720, UnitsPerSecond: 29.97, BitsPerSecond: 2_103_400},
			Audio:    rtmp.TrackStats{Codec: "aac", SampleRateHz: 44100, Channels: 1, BitsPerSecond: 127_600},
			AVSkew:   12 * time.Millisecond, Lag: 35400 * time.Microsecond}},
		{name: "b", state: "waiting", note: "no connection to the server"},
		{name: "c", state: "live", got: &rtmp.StreamStats{}},
	}
}

func TestTable(t *testing.T) {
	want := `
TARGET  STATE    VIDEO           FPS  KB/S  AUDIO              KB/S        SOUND    LAG
cdn-a   live     h264 1280x720  30.0  2103  aac 44.1 kHz mono   128  12 ms later  35 ms
b       waiting  no connection to the server
c       live     no picture                 no sound
`[1:]
	if got := strings.Join(tableOf(someRows(), 0, false), "\n") + "\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for _, line := range tableOf(someRows(), 20, false) {
		if len(line) > 20 {
			t.Errorf("longer than the terminal: %q", line)
		}
	}
	if got := tableOf(someRows(), 12, true)[1]; got != "cdn-a   "+green+"live"+plain {
		t.Errorf("%q", got)
	}
	if got := tableOf(someRows(), 0, true)[2]; got != "b       "+yellow+"waiting"+plain+"  no connection to the server" {
		t.Errorf("%q", got)
	}
}

// TestDisplay: on a terminal the table stays below what is written, elsewhere
// there are lines.
func TestDisplay(t *testing.T) {
	var out bytes.Buffer
	d := newDisplay(&out)
	if err := d.show(61*time.Minute+5*time.Second, someRows()[:2]); err != nil {
		t.Fatal(err)
	}
	want := "01:01:05 cdn-a live: video h264 1280x720 30.0 fps 2103 kb/s, audio aac 44.1 kHz mono 128 kb/s, sound 12 ms later, lag 35 ms\n" +
		"01:01:05 b waiting no connection to the server\n"
	if out.String() != want {
		t.Errorf("%q", out.String())
	}
	out.Reset()
	if err := d.show(0, someRows()[1:]); err != nil || !strings.HasSuffix(out.String(), "00:00:00 c live: video no picture, audio no sound\n") {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := d.show(0, someRows()[1:2]); err != nil || out.Len() > 0 {
		t.Errorf("%q, %v", out.String(), err)
	}
	d.tty, d.width = true, func() int { return 80 }
	if err := d.show(0, nil); err != nil {
		t.Fatal(err)
	}
	header := tableOf(nil, 0, false)[0] + "\n"
	if _, err := d.Write([]byte("a log line\n")); err != nil {
		t.Fatal(err)
	}
	if want := header + "\x1b[1A\r\x1b[Ja log line\n" + header; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestDemoRow(t *testing.T) {
	all := []status.Stream{{Name: demoStream, Targets: []status.Target{
		{Name: "a", State: status.TargetWaiting, LastError: &status.Error{Message: "refused\x1b[2J"}},
		{Name: "b", State: status.TargetLive, LastError: &status.Error{Message: "old"}}}}}
	if got := demoRow(all, "a", nil).plain(); got != "a waiting refused?[2J" {
		t.Errorf("%q", got)
	}
	held := []status.Stream{{Name: demoStream, State: status.StreamHolding, Targets: []status.Target{{Name: "a", State: status.TargetWaiting}}}}
	if got := demoRow(held, "a", []rtmp.StreamStats{{}}).plain(); got != "a waiting connected, waiting for the publisher to come back" {
		t.Errorf("%q", got)
	}
	if got := demoRow(nil, "a", nil).plain(); got != "a idle waiting for a publisher" {
		t.Errorf("%q", got)
	}
	seen := []rtmp.StreamStats{{Ended: time.Now()}, {Bytes: 7}}
	if got := demoRow(all, "b", seen); got.got != &seen[1] || got.note != "" {
		t.Errorf("%+v", got)
	}
}

func TestShownURL(t *testing.T) {
	f := func(url, want string) {
		t.Helper()
		if got := config.Address(secret.New(url)); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
	f("rtmp://h:1935/app/canary", "rtmp://h:1935/...")
	f("rtmps://user:canary@h/app?x=canary", "rtmps://h/...")
	f("rtmp://h?canary", "rtmp://h/...")
	f("rtmp://h", "rtmp://h")
	f("rtmp://u:ca/nary@h/x", "rtmp://...")
	f("clip:", "clip:")
	f("file:///canary", "file:///...")
}

func TestWithUDP(t *testing.T) {
	f := func(options, host, want string) {
		t.Helper()
		got, err := withUDP([]byte(options), &net.TCPAddr{IP: net.ParseIP(host), Port: 8080})
		if err != nil || string(got) != want {
			t.Errorf("%s %s: %s %v", options, host, got, err)
		}
	}
	f("", "127.0.0.1", `{"udp":"127.0.0.1:8189"}`)
	f("", "::", `{"udp":":8189"}`)
	f("", "0.0.0.0", `{"udp":":8189"}`)
	f(`{"x":1}`, "::1", `{"udp":"[::1]:8189","x":1}`)
	f(`{"udp":"a:1"}`, "127.0.0.1", `{"udp":"a:1"}`)
}
