package rtmp

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestPackets: messages of Enhanced RTMP v2 with several tracks and modifiers, as its
// tables ExVideoTagBody and ExAudioTagBody lay them out.
func TestPackets(t *testing.T) {
	f := func(typ MessageType, body string, want ...string) {
		t.Helper()
		list, err := Packets(nil, Message{Type: typ, Body: []byte(body)})
		var got []string
		for _, p := range list {
			kind := map[PacketKind]string{PacketHeader: "header", PacketFrame: "frame", PacketEnd: "end", PacketOther: "other"}[p.Kind]
			line := fmt.Sprintf("%d %s %s %q", p.Track, p.Name, kind, p.Payload)
			if p.Keyframe {
				line += " key"
			}
			if p.CompositionMS != 0 {
				line += fmt.Sprintf(" %+d", p.CompositionMS)
			}
			if p.Offset != 0 {
				line += " " + p.Offset.String()
			}
			got = append(got, line)
		}
		if err != nil {
			got = append(got, err.Error())
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%q:\n%s\nwant\n%s", body, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	// One track; the second of them with its composition time.
	f(TypeVideo, "\x96\x00avc1\x02config", `2 h264 header "config" key`)
	f(TypeVideo, "\xA6\x01hvc1\x01\xFF\xFF\xD8picture", `1 h265 frame "picture" -40`)
	f(TypeVideo, "\xA6\x03avc1\x03picture", `3 h264 frame "picture"`)
	f(TypeAudio, "\x95\x01Opus\x01sound", `1 opus frame "sound"`)
	// Several of one codec, each behind its length.
	f(TypeVideo, "\x96\x11hvc1\x00\x00\x00\x05\x00\x00\x28ab\x01\x00\x00\x04\x00\x00\x00c", `0 h265 frame "ab" key +40`, `1 h265 frame "c" key`)
	f(TypeAudio, "\x95\x10mp4a\x00\x00\x00\x02\x11\x90\x01\x00\x00\x02\x12\x10", `0 aac header "\x11\x90"`, `1 aac header "\x12\x10"`)
	// Several of several.
	f(TypeVideo, "\x96\x23av01\x00\x00\x00\x01aavc1\x01\x00\x00\x02bcVVC1\x02\x00\x00\x01d",
		`0 av1 frame "a" key`, `1 h264 frame "bc" key`, `2 VVC1 frame "d" key`)
	f(TypeAudio, "\x95\x21Opus\x00\x00\x00\x01xmp4a\x01\x00\x00\x00", `0 opus frame "x"`, `1 aac frame ""`)
	// Nanoseconds, before a picture, a sound and several tracks.
	f(TypeVideo, "\x97\x02\x07\xA1\x20\x03avc1picture", `0 h264 frame "picture" key 500µs`)
	f(TypeAudio, "\x97\x02\x00\x00\x01\x01Opussound", `0 opus frame "sound" 1ns`)
	f(TypeAudio, "\x97\x02\x0F\x42\x3F\x05\x11Opus\x00\x00\x00\x01x\x01\x00\x00\x01y", `0 opus frame "x" 999.999µs`, `1 opus frame "y" 999.999µs`)
	// Modifiers that are not known are passed over, be they long: 256 bytes and more have
	// their length in 16 bits behind 255.
	f(TypeVideo, "\x97\x00?\x17\x02\x00\x00\x01\x03avc1picture", `0 h264 frame "picture" key 1ns`)
	f(TypeVideo, "\x97\xFF\x01\x2B"+strings.Repeat("?", 300)+"\x13avc1picture", `0 h264 frame "picture" key`)
	// Colours and channels are no frames; nor is a command, which has no codec.
	f(TypeVideo, "\x94hvc1meta", `0 h265 other "meta" key`)
	f(TypeAudio, "\x94Opus\x01\x02", `0 opus other "\x01\x02"`)
	f(TypeVideo, "\xD1\x00", `0  other ""`)
	f(TypeVideo, "\x92av01", `0 av1 end "" key`)
	// What is cut off is said so, and what was whole before it is taken.
	f(TypeVideo, "\x96\x13avc1\x00\x00\x00\x01a\x01\x00\x00\x09b", `0 h264 frame "a" key`, errShortPacket.Error())
	f(TypeVideo, "\x97\x02\x00", errShortPacket.Error())
	f(TypeAudio, "\x95\x01Op", errShortPacket.Error())

	if p, _ := Packets(nil, Message{Type: TypeAudio, Body: []byte("\x97\x02\xFF\xFF\xFF\x01Opusx")}); p[0].Offset >= time.Millisecond {
		t.Errorf("more nanoseconds than a millisecond has: %v", p[0].Offset)
	}
}
