package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/internal/whipclient"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/test/peers"
)

// captionHead begins an SEI message of closed captions: user data registered by ITU-T
// T.35, of the ATSC (A/53 part 4, section 6.2.3), with one pair of CEA-608 in it.
const captionHead = "\xb5\x00\x31GA94\x03\xc1\xff\xfc"

// withCaption is the picture with a pair of captions before it, in which n is.
func withCaption(u *media.AccessUnit, n int) *media.AccessUnit {
	const base = 0x20 // what a caption can show begins here
	pair := []byte{odd(byte(base + n/90)), odd(byte(base + n%90))}
	message := append(append([]byte(captionHead), pair...), 0xff)
	nalu := append(append([]byte{6, 4, byte(len(message))}, message...), 0x80)
	out := u.Clone()
	out.Payload = append(append(binary.BigEndian.AppendUint32(nil, uint32(len(nalu))), nalu...), u.Payload...)
	return out
}

// odd gives a byte of CEA-608 its parity.
func odd(b byte) byte {
	ones := 0
	for i := range 7 {
		ones += int(b>>i) & 1
	}
	return b | byte(1-ones%2)<<7
}

// caption finds n in a picture.
func caption(body []byte) (n int, found bool) {
	_, rest, found := strings.Cut(string(body), captionHead)
	if !found || len(rest) < 2 {
		return 0, false
	}
	return int(rest[0]&0x7f-0x20)*90 + int(rest[1]&0x7f-0x20), true
}

// Captions that a publisher sends with the pictures are with the same pictures at the
// target, in order, and ffprobe knows them for captions.
func TestCaptions(t *testing.T) {
	peers.Need(t, "ffprobe", "ffmpeg")
	card, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	units := card.Units(clip.VideoTrack)
	for i, u := range units {
		units[i] = withCaption(u, i)
	}
	c := startCDN(t)
	record := c.OnMessage
	type seen struct {
		caption int // -1: none
		key     bool
	}
	captions := make(chan seen, 10_000)
	c.OnMessage = func(p *rtmp.Publish, m rtmp.Message, at time.Time) {
		record(p, m, at)
		if m.Type != rtmp.TypeVideo || m.Body[1] != 1 {
			return
		}
		n, found := caption(m.Body)
		if !found {
			n = -1
		}
		captions <- seen{n, m.Body[0]>>4 == 1}
	}
	g := startPlainGateway(t, route("studio", fmt.Sprintf(`cdn: {url: "rtmp://%s/live/x"}`, c.addr)))
	p, err := whipclient.Publish(t.Context(), whipclient.Config{
		URL: g.whip("studio"), Token: secret.New(token), Length: clip.Duration,
		Video: &whipclient.Media{Track: card.Tracks[0], Units: units},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	published := make(chan error, 1)
	go func() { published <- p.Run(ctx) }()
	const pictures = 90 // three seconds
	last := -1
	for i := range pictures {
		select {
		case p := <-captions:
			// Asked for a keyframe, the publisher goes on with its next one.
			if n := p.caption; n < 0 || n != (last+1)%len(units) && (!p.key || !units[n].RandomAccess) {
				t.Errorf("picture %d has the caption %d, that before it %d", i, n, last)
			}
			last = p.caption
		case <-time.After(30 * time.Second):
			t.Fatal("no pictures")
		}
	}
	stop()
	if err := errors.Join(<-published, p.Delete(t.Context())); err != nil {
		t.Error(err)
	}
	waitEnded(t, c)
	file := recordings(t, c)[0]
	out, err := exec.CommandContext(t.Context(), peers.Find(t, "ffprobe"), "-v", "error", "-show_frames",
		"-show_entries", "frame=pict_type:side_data=side_data_type", "-of", "flat", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	frames, with := strings.Count(string(out), ".pict_type="), strings.Count(string(out), "ATSC A53 Part 4 Closed Captions")
	if frames < pictures-5 || with != frames {
		t.Errorf("ffprobe finds captions in %d of %d pictures", with, frames)
	}
}
