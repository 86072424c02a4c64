package rtmp

import (
	"testing"

	"github.com/headgate/gateway/sdk/media"
)

// TestMP3Tag: MP3 goes out in the old form, which says how many channels a frame has, and
// further tracks in the new one.
func TestMP3Tag(t *testing.T) {
	f := func(track uint8, frame, want string) {
		t.Helper()
		if got := string(AudioTag(media.MP3, track, []byte(frame)).AppendTo(nil)); got != want {
			t.Errorf("track %d: %q, want %q", track, got, want)
		}
	}
	f(0, "\xff\xfb\x90\x00stereo", "\x2f\xff\xfb\x90\x00stereo")
	f(0, "\xff\xfb\x90\xc0mono", "\x2e\xff\xfb\x90\xc0mono")
	f(0, "no frame", "\x2fno frame")
	f(1, "\xff\xfb\x90\x00more", "\x95\x01.mp3\x01\xff\xfb\x90\x00more")
}
