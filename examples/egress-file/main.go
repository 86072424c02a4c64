// Command egress-file is a complete third-party egress plugin. It appends each
// track of a stream to a file of its own in the directory of the target's URL,
// file:///var/recordings: H.264 as Annex-B, AAC as ADTS, which players open.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/aac"
	"github.com/headgate/gateway/sdk/media/h264"
)

func main() { sdk.ServeEgress("egress-file", "1.0.0", []string{"file"}, egress{}) }

type egress struct{}

func (egress) Open(_ context.Context, t sdk.Target, tracks []media.Track) (sdk.Sink, error) {
	u, err := url.Parse(t.URL.Reveal())
	if err != nil || u.Path == "" {
		return nil, sdk.Permanent(errors.New("the URL names no directory: want file:///directory"))
	}
	s := sink{}
	for _, track := range tracks {
		name := fmt.Sprintf("%s-%d.%s", strings.ReplaceAll(t.Stream, "/", "_"), track.ID, track.Codec)
		f, err := os.OpenFile(filepath.Join(u.Path, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, errors.Join(err, s.Close(context.Background()))
		}
		s[track.ID] = file{f, track}
	}
	return s, nil
}

type file struct {
	f     *os.File
	track media.Track
}

type sink map[media.TrackID]file

func (s sink) WriteAccessUnit(_ context.Context, u *media.AccessUnit) error {
	file := s[u.Track]
	format := annexB
	if file.track.Codec == media.AAC {
		format = adts
	}
	b, err := format(file.track, u)
	if err == nil {
		_, err = file.f.Write(b)
	}
	return err
}

func (s sink) Close(context.Context) (err error) {
	for _, file := range s {
		err = errors.Join(err, file.f.Close())
	}
	return err
}

// adts returns the unit behind the header that files of AAC have.
func adts(t media.Track, u *media.AccessUnit) ([]byte, error) {
	config, err := aac.ParseConfig(t.DecoderConfig)
	if err != nil {
		return nil, err
	}
	header, err := aac.AppendADTSHeader(nil, config, len(u.Payload))
	return append(header, u.Payload...), err
}

// annexB returns the picture with start codes, and with the parameter sets where a
// player may begin.
func annexB(t media.Track, u *media.AccessUnit) ([]byte, error) {
	nalus, err := h264.SplitLengthPrefixed(nil, u.Payload)
	if err != nil || !u.RandomAccess {
		return h264.AppendAnnexB(nil, nalus...), err
	}
	config, err := h264.ParseDecoderConfig(t.DecoderConfig)
	return h264.AppendAnnexB(nil, slices.Concat(config.SPS, config.PPS, nalus)...), err
}
