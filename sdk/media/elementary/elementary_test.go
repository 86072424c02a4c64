package elementary

import (
	"bytes"
	"testing"

	"github.com/headgate/gateway/sdk/media"
)

func TestAppend(t *testing.T) {
	sps, pps := []byte{0x67, 0x42, 0xc0, 0x0d, 0xd9, 0x01, 0x41, 0xfb, 0x01, 0x10}, []byte{0x68, 0xce, 0x38, 0x80}
	config := bytes.Join([][]byte{{1, 0x42, 0xc0, 0x0d, 0xff, 0xe1, 0, 10}, sps, {1, 0, 4}, pps}, nil) // avcC
	video := media.Track{ID: 1, Codec: media.H264, DecoderConfig: config}
	audio := media.Track{ID: 2, Codec: media.AAC, DecoderConfig: []byte{0x11, 0x90}}
	payload := []byte{0, 0, 0, 2, 0x65, 0x88}
	start := []byte{0, 0, 0, 1}
	f := func(track media.Track, u *media.AccessUnit, want []byte) {
		t.Helper()
		before := bytes.Clone(u.Payload)
		got, err := Append([]byte("before"), track, u)
		if (err != nil) != (want == nil) {
			t.Errorf("error %v", err)
		}
		if want != nil && !bytes.Equal(got, append([]byte("before"), want...)) {
			t.Errorf("got % x", got)
		}
		if !bytes.Equal(before, u.Payload) {
			t.Error("the unit was changed")
		}
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	f(video, &media.AccessUnit{RandomAccess: true, Payload: payload}, join(start, sps, start, pps, start, payload[4:]))
	f(video, &media.AccessUnit{Payload: payload}, join(start, payload[4:]))
	f(audio, &media.AccessUnit{Payload: []byte{1, 2, 3}}, []byte{0xff, 0xf1, 0x4c, 0x80, 0x01, 0x5f, 0xfc, 1, 2, 3})
	f(media.Track{Codec: media.AV1}, &media.AccessUnit{Payload: []byte{0x0a, 1, 2}}, []byte{0x12, 0, 0x0a, 1, 2})
	f(video, &media.AccessUnit{Payload: payload[:5]}, nil)
	f(media.Track{Codec: media.H264}, &media.AccessUnit{RandomAccess: true, Payload: payload}, nil)
	f(media.Track{Codec: media.AAC}, &media.AccessUnit{Payload: payload}, nil)
	f(media.Track{Codec: media.Opus}, &media.AccessUnit{Payload: payload}, nil)
}
