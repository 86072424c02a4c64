package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/headgate/gateway/test/peers"
)

// checkRecording holds what must be true of everything that a CDN receives of a
// publisher that keeps its pace: [checkPlayable], and after a gap a key frame.
func checkRecording(t *testing.T, file string) []peers.Packet {
	t.Helper()
	packets := checkPlayable(t, file)
	if err := checkResumes(packets); err != nil {
		t.Errorf("%s: %v", file, err)
	}
	return packets
}

// checkPlayable holds what must be true of all that a CDN receives of anybody, a
// browser that now and then makes no picture for a while, too: the codecs, rising
// timestamps, decoding without a complaint, by which a picture is noticed that another
// one needs and that is missing. It returns the packets.
func checkPlayable(t *testing.T, file string) []peers.Packet {
	t.Helper()
	var video, audio *peers.MediaStream
	for _, s := range peers.Streams(t, file) {
		switch s.Type {
		case "video":
			video = &s
		case "audio":
			audio = &s
		}
	}
	if video == nil || video.Codec != "h264" {
		t.Errorf("%s: video is %+v, want h264", file, video)
	}
	if audio == nil || audio.Codec != "aac" || audio.Profile != "LC" || audio.SampleRate != "48000" || audio.Channels != 2 {
		t.Errorf("%s: audio is %+v, want AAC-LC, 48 kHz, stereo", file, audio)
	}
	packets := peers.Packets(t, file)
	if err := peers.CheckMonotonic(packets); err != nil {
		t.Errorf("%s: %v", file, err)
	}
	if i := firstVideo(packets); i < 0 || !packets[i].Key {
		t.Errorf("%s does not begin with a key frame", file)
	}
	if err := peers.CheckDecodes(t, file); err != nil {
		t.Error(err)
	}
	return packets
}

// checkResumes returns an error if pictures go on after a gap with one that is
// not a key frame: what was left out is missing to the decoder.
func checkResumes(packets []peers.Packet) error {
	prev := time.Duration(-1)
	for _, p := range packets {
		if p.Type != "video" {
			continue
		}
		if prev >= 0 && p.DTS-prev > 200*time.Millisecond && !p.Key {
			return fmt.Errorf("after a gap of %v at %v comes a picture that is not a key frame", p.DTS-prev, prev)
		}
		prev = p.DTS
	}
	return nil
}

func firstVideo(packets []peers.Packet) int {
	for i, p := range packets {
		if p.Type == "video" {
			return i
		}
	}
	return -1
}

// length returns the media time from the first to the last packet of a type.
func length(packets []peers.Packet, kind string) time.Duration {
	first, last := time.Duration(-1), time.Duration(0)
	for _, p := range packets {
		if p.Type != kind {
			continue
		}
		if first < 0 {
			first = p.DTS
		}
		last = p.DTS
	}
	return last - first
}

// checkUnbroken returns an error if a picture or a piece of sound is missing.
// The test card has 30 pictures per second.
func checkUnbroken(packets []peers.Packet) error {
	var all []error
	for _, k := range []struct {
		kind string
		step time.Duration
	}{{"video", time.Second / 30}, {"audio", 1024 * time.Second / 48000}} {
		gap, at := peers.LargestGap(packets, k.kind)
		// A key frame request makes the publisher skip in its content, not in time.
		if gap > 2*k.step-k.step/4 {
			all = append(all, fmt.Errorf("%s: a gap of %v at %v", k.kind, gap, at))
		}
		want := int(length(packets, k.kind)/k.step) + 1
		if n := peers.Count(packets, k.kind); n < want-1 {
			all = append(all, fmt.Errorf("%s: %d packets, want %d", k.kind, n, want))
		}
	}
	return errors.Join(all...)
}

// oneRecording returns the only recording of an application.
func oneRecording(t *testing.T, n *peers.Nginx, app string) string {
	t.Helper()
	files := n.Recordings(t, app)
	if len(files) != 1 {
		t.Fatalf("recordings of %s: %q, want one", app, files)
	}
	return files[0]
}

// waitUnpublished waits until nobody publishes a stream: its recording is whole.
func waitUnpublished(t *testing.T, d time.Duration, n *peers.Nginx, app, key string) {
	t.Helper()
	peers.Wait(t, d, "the end of "+app+"/"+key+" at nginx", func() error {
		_, _, err := n.Publisher(app, key)
		if err == nil {
			return errors.New("it is still published")
		}
		return nil
	})
}

// record lets a stream run until nginx has received d more of it.
func record(t *testing.T, n *peers.Nginx, app, key string, d time.Duration) {
	t.Helper()
	first, _, err := n.Publisher(app, key)
	if err != nil {
		t.Fatal(err)
	}
	peers.Wait(t, d+time.Minute, fmt.Sprintf("%v more of %s/%s at nginx", d, app, key), func() error {
		c, _, err := n.Publisher(app, key)
		if err != nil {
			return err
		}
		if got := time.Duration(c.Timestamp-first.Timestamp) * time.Millisecond; got < d {
			return fmt.Errorf("%v received", got)
		}
		return nil
	})
}
