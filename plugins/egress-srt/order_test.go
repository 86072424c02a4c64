package egresssrt

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/mpegts"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/h265"
	"github.com/headgate/gateway/test/peers"
)

// read makes units of the pictures in a transport stream.
func read(t testing.TB, file string) (media.Track, []*media.AccessUnit) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	track := media.Track{ID: 1}
	var units []*media.AccessUnit
	var sets4 h264.ParameterSets
	var sets5 h265.ParameterSets
	d := mpegts.Demuxer{OnPES: func(p mpegts.PES) {
		nalus, err := h264.SplitAnnexB(nil, p.Data)
		if err != nil {
			t.Fatal(err)
		}
		at := func(ticks int64) time.Duration { return time.Duration(ticks) * time.Second / mpegts.TimestampHz }
		u := &media.AccessUnit{Track: 1, PTS: at(p.PTS), DTS: at(p.DTS)}
		track.Codec = p.Stream.Codec
		var config []byte
		if track.Codec == media.H264 {
			var pic h264.Picture
			err = pic.Normalize(nalus)
			_, _ = sets4.Update(pic.SPS, pic.PPS)
			c, _ := sets4.Config()
			config, _ = c.Marshal()
			u.RandomAccess, u.Payload = pic.RandomAccess, h264.AppendLengthPrefixed(nil, pic.NALUs...)
		} else {
			var pic h265.Picture
			err = pic.Normalize(nalus)
			_, _ = sets5.Update(pic.VPS, pic.SPS, pic.PPS)
			c, _ := sets5.Config()
			config, _ = c.Marshal()
			u.RandomAccess, u.Payload = pic.RandomAccess, h264.AppendLengthPrefixed(nil, pic.NALUs...)
		}
		if err != nil {
			t.Fatal(err)
		}
		track.DecoderConfig = config
		units = append(units, u)
	}}
	d.Write(b)
	d.Flush()
	return track, units
}

// TestBFrames: closed and open groups, H.264 and H.265: the pictures that a peer
// decodes are those of the source, in their order.
func TestBFrames(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	f := func(name string, args ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := filepath.Join(t.TempDir(), "in.ts")
			peers.FFmpeg(t, append(append([]string{"-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-t", "3", "-pix_fmt", "yuv420p"}, args...), in)...)
			track, units := read(t, in)
			want := peers.Pictures(t, in)
			addr, file, p := listen(t, "ffmpeg", "")
			m := testMedia{tracks: []media.Track{track}, units: units}
			play(t, connect(t, "srt://"+addr+"?"+patient, Options{}, m), units)
			p.ExitCode(t, 20*time.Second)
			got := peers.Pictures(t, file)
			if len(got) < len(want)-1 || len(got) > len(want) {
				t.Fatalf("%d pictures, want %d", len(got), len(want))
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("picture %d of %d is another one", i, len(want))
				}
			}
		})
	}
	f("closed", "-c:v", "libx264", "-bf", "3", "-g", "25", "-x264-params", "open-gop=0")
	f("open", "-c:v", "libx264", "-bf", "3", "-g", "25", "-x264-params", "open-gop=1")
	f("h265", "-c:v", "libx265", "-x265-params", "bframes=3:keyint=25:log-level=none")
}
