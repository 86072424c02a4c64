package egressrtmp

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/test/peers"
)

// TestMediaMTX publishes with Enhanced RTMP to a modern server, which does not say
// that it takes it: it knows every track, and ffprobe finds in what it gives out
// what we sent.
func TestMediaMTX(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	m := peers.StartMediaMTX(t)
	names := map[media.Codec]string{
		media.H264: "H264", media.H265: "H265", media.AV1: "AV1", media.VP9: "VP9", media.Opus: "Opus", media.AAC: "MPEG-4 Audio",
	}
	for i, list := range [][]media.Codec{
		{media.H265, media.Opus},
		{media.AV1, media.AAC, media.Opus},
		{media.VP9, media.Opus, media.AAC},
	} {
		t.Run(fmt.Sprint(list), func(t *testing.T) {
			path := fmt.Sprintf("live/key%d", i)
			round := mix(t, list...)
			s := open(t, "rtmp://"+m.RTMPAddr+"/"+path, Options{Codecs: carried(), AudioTracks: 4, Interleave: InterleaveStrict}, round.tracks)
			if a := s.Accepts(); !slices.Contains(a.Codecs, list[0]) {
				t.Errorf("%+v", a)
			}
			// In real time, over and over, until it was read back.
			stop, done := make(chan struct{}), make(chan error, 1)
			go func() {
				start := time.Now()
				for n := 0; ; n++ {
					for _, u := range round.units {
						u = u.Clone()
						u.DTS += time.Duration(n) * 3 * time.Second
						u.PTS += time.Duration(n) * 3 * time.Second
						select {
						case <-stop:
							done <- s.Close(t.Context())
							return
						case <-time.After(time.Until(start.Add(u.DTS - time.Second))):
						}
						if err := s.WriteAccessUnit(t.Context(), u); err != nil {
							done <- err
							return
						}
					}
				}
			}()
			defer func() {
				close(stop)
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			var want []string
			for _, c := range list {
				want = append(want, names[c])
			}
			peers.Wait(t, 30*time.Second, "MediaMTX to know the tracks", func() error {
				p, err := m.Path(path)
				if err != nil {
					return err
				}
				if got := slices.Sorted(slices.Values(p.Tracks)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
					return fmt.Errorf("it has %v", p.Tracks)
				}
				return nil
			})
			if list[0] == media.AV1 {
				return // ffmpeg 5.1 cannot take AV1 out of RTP
			}
			out, err := exec.CommandContext(t.Context(), peers.Find(t, "ffprobe"), "-v", "error", "-rtsp_transport", "tcp", "-read_intervals", "%+2",
				"-count_packets", "-show_entries", "stream=codec_name,nb_read_packets,width", "-of", "json", "rtsp://"+m.RTSPAddr+"/"+path).Output()
			if err != nil {
				t.Fatalf("ffprobe: %v", err)
			}
			var got struct {
				Streams []struct {
					Codec   string `json:"codec_name"`
					Packets int    `json:"nb_read_packets,string"`
					Width   int    `json:"width"`
				} `json:"streams"`
			}
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatal(err)
			}
			ffmpeg := map[media.Codec]string{media.H265: "hevc", media.VP9: "vp9", media.Opus: "opus", media.AAC: "aac"}
			if len(got.Streams) != len(list) {
				t.Fatalf("ffprobe finds %s", out)
			}
			for _, c := range list {
				i := slices.IndexFunc(got.Streams, func(s struct {
					Codec   string `json:"codec_name"`
					Packets int    `json:"nb_read_packets,string"`
					Width   int    `json:"width"`
				}) bool {
					return s.Codec == ffmpeg[c]
				})
				if i < 0 || got.Streams[i].Packets < 20 || c.Kind() == media.Video && got.Streams[i].Width != 160 {
					t.Errorf("%s: ffprobe finds %s", c, out)
				}
			}
		})
	}
}
