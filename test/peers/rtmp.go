package peers

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/codecs"
	"github.com/bluenviron/gortmplib/pkg/message"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/av1"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/opus"
	mp4 "github.com/bluenviron/mediacommon/v2/pkg/formats/mp4/codecs"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/pmp4"
)

// PublishRTMP sends an MP4 file so many rounds in real time and says goodbye, but no longer
// than the test lasts; 0 rounds are for all of it. It does so with gortmplib: over Enhanced
// RTMP what ffmpeg does not know there. The key is the fragment of the URL. It fails the
// test if it is not let in; when the connection ends later, so does it.
func PublishRTMP(t testing.TB, rawURL, file string, rounds int) {
	t.Helper()
	at, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	var movie pmp4.Presentation
	if err := movie.Unmarshal(f); err != nil {
		t.Fatalf("reading %s: %v", file, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		c := &gortmplib.Client{URL: at, Publish: true}
		if err := c.Initialize(ctx); err != nil {
			t.Errorf("publishing %s with gortmplib: %v", file, err)
			return
		}
		defer c.Close()
		defer context.AfterFunc(ctx, c.Close)()
		err := sendMP4(ctx, c, movie.Tracks, rounds)
		if err == nil && ctx.Err() == nil {
			err = c.Write(&message.CommandAMF0{ChunkStreamID: 3, Name: "deleteStream", CommandID: 6, Arguments: []any{nil, 1.0}})
		}
		if err != nil && ctx.Err() == nil {
			t.Logf("publishing %s with gortmplib: %v", file, err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		_ = f.Close()
	})
}

// An mp4Track is one on its way.
type mp4Track struct {
	*pmp4.Track
	rtmp  *gortmplib.Track
	next  int           // sample
	round int           // from 0
	begin time.Duration // of this round
	ticks int64         // of next, in it
}

// sendMP4 sends tracks so many rounds, without end if it is 0, until ctx ends or the
// connection does.
func sendMP4(ctx context.Context, c *gortmplib.Client, tracks []*pmp4.Track, rounds int) error {
	w := &gortmplib.Writer{Conn: c}
	var list []*mp4Track
	for _, t := range tracks {
		m := &mp4Track{Track: t, rtmp: &gortmplib.Track{}}
		switch codec := t.Codec.(type) {
		case *mp4.H264:
			m.rtmp.Codec = &codecs.H264{SPS: codec.SPS, PPS: codec.PPS}
		case *mp4.H265:
			m.rtmp.Codec = &codecs.H265{VPS: codec.VPS, SPS: codec.SPS, PPS: codec.PPS}
		case *mp4.AV1:
			m.rtmp.Codec = &codecs.AV1{}
		case *mp4.VP9:
			m.rtmp.Codec = &codecs.VP9{}
		case *mp4.MPEG4Audio:
			m.rtmp.Codec = &codecs.MPEG4Audio{Config: &codec.Config}
		case *mp4.Opus:
			m.rtmp.Codec = &codecs.Opus{IDHeader: &opus.IDHeader{Version: 1, ChannelCount: uint8(codec.ChannelCount), PreSkip: 312, InputSampleRate: 48000}}
		default:
			return fmt.Errorf("a track of %T", codec)
		}
		w.Tracks = append(w.Tracks, m.rtmp)
		list = append(list, m)
	}
	if err := w.Initialize(); err != nil {
		return err
	}
	for start := time.Now(); ; {
		first := list[0]
		for _, m := range list[1:] {
			if m.dts() < first.dts() {
				first = m
			}
		}
		if rounds > 0 && first.round == rounds {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(start.Add(first.dts()))):
		}
		if err := first.write(w); err != nil {
			return err
		}
	}
}

func (m *mp4Track) ticked(n int64) time.Duration {
	return time.Duration(n) * time.Second / time.Duration(m.TimeScale)
}

func (m *mp4Track) dts() time.Duration { return m.begin + m.ticked(m.ticks) }

// write sends the next sample.
func (m *mp4Track) write(w *gortmplib.Writer) error {
	s := m.Samples[m.next]
	b, err := s.GetPayload()
	if err != nil {
		return err
	}
	dts := m.dts()
	// What is shown later than decoded by an edit of the file is later by so much.
	pts := dts + m.ticked(int64(s.PTSOffset))
	switch m.Codec.(type) {
	case *mp4.H264, *mp4.H265:
		var nalus [][]byte
		for len(b) > 4 {
			n := 4 + int(b[0])<<24 + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
			nalus, b = append(nalus, b[4:n]), b[n:]
		}
		if _, ok := m.Codec.(*mp4.H264); ok {
			err = w.WriteH264(m.rtmp, pts, dts, nalus)
		} else {
			err = w.WriteH265(m.rtmp, pts, dts, nalus)
		}
	case *mp4.AV1:
		var tu av1.Bitstream
		if err = tu.Unmarshal(b); err == nil {
			err = w.WriteAV1(m.rtmp, pts, tu)
		}
	case *mp4.VP9:
		err = w.WriteVP9(m.rtmp, pts, b)
	case *mp4.MPEG4Audio:
		err = w.WriteMPEG4Audio(m.rtmp, pts, b)
	case *mp4.Opus:
		err = w.WriteOpus(m.rtmp, pts, b)
	}
	m.ticks += int64(s.Duration)
	if m.next++; m.next == len(m.Samples) {
		m.begin, m.ticks, m.next = m.dts(), 0, 0
		m.round++
	}
	return err
}
