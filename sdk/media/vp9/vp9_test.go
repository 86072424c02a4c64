package vp9_test

import (
	"testing"

	mc "github.com/bluenviron/mediacommon/v2/pkg/codecs/vp9"

	"github.com/headgate/gateway/sdk/media/vp9"
)

// key is the beginning of a key frame of libvpx, 1920x804.
var key = []byte{0x82, 0x49, 0x83, 0x42, 0x00, 0x77, 0xf0, 0x32, 0x34, 0x30, 0x38, 0x24, 0x1c, 0x19, 0x40, 0x18, 0x03, 0x40, 0x5f, 0xb4}

// The header says what an independent parser says of it.
func compare(t *testing.T, frame []byte) {
	t.Helper()
	h, err := vp9.ParseHeader(frame)
	var o mc.Header
	if theirs := o.Unmarshal(frame); theirs != nil {
		return // it wants more than is needed here
	}
	if err != nil {
		const rgb = 7
		reserved := o.Profile == 3 || o.ColorConfig != nil && o.ColorConfig.ColorSpace == rgb && o.Profile%2 == 0
		if !reserved { // which the other parser lets pass
			t.Errorf("%x: %v", frame, err)
		}
		return
	}
	if h.ShowExisting != o.ShowExistingFrame || h.Profile != o.Profile {
		t.Errorf("%x: %+v, want %+v", frame, h, o)
	}
	if h.ShowExisting {
		return
	}
	if h.KeyFrame == o.NonKeyFrame || h.Show != o.ShowFrame || h.KeyFrame && (h.Width != o.Width() || h.Height != o.Height()) {
		t.Errorf("%x: %+v, want %+v", frame, h, o)
	}
}

func TestHeader(t *testing.T) {
	h, err := vp9.ParseHeader(key)
	if err != nil || !h.KeyFrame || !h.Show || h.Width != 1920 || h.Height != 804 || h.BitDepth != 8 {
		t.Errorf("%+v %v", h, err)
	}
	compare(t, key)
	if h, err := vp9.ParseHeader([]byte{0x86, 0}); err != nil || h.KeyFrame || !h.Show {
		t.Errorf("an inter frame: %+v %v", h, err)
	}
	for cut := range 9 {
		if _, err := vp9.ParseHeader(key[:cut]); err == nil {
			t.Errorf("%d bytes are enough", cut)
		}
	}
	for _, b := range [][]byte{{0}, {0x82, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {0x82, 0x49, 0x83, 0x42, 0xe0, 0, 0, 0, 0, 0}} {
		if h, err := vp9.ParseHeader(b); err == nil {
			t.Errorf("%x is %+v", b, h)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(key)
	f.Add([]byte{0x86, 0})
	f.Fuzz(func(t *testing.T, frame []byte) { compare(t, frame) })
}
