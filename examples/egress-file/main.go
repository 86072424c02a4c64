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
		s[track.ID] = &file{File: f, track: track}
	}
	return s, nil
}

type file struct {
	*os.File
	track media.Track
	buf   []byte
}

type sink map[media.TrackID]*file

func (s sink) WriteAccessUnit(_ context.Context, u *media.AccessUnit) (err error) {
	f := s[u.Track]
	if f.track.Codec == media.AAC {
		var config aac.Config
		if config, err = aac.ParseConfig(f.track.DecoderConfig); err != nil {
			return err
		}
		if f.buf, err = aac.AppendADTSHeader(f.buf[:0], config, len(u.Payload)); err != nil {
			return err
		}
		f.buf = append(f.buf, u.Payload...)
	} else {
		nalus, err := h264.SplitLengthPrefixed(nil, u.Payload)
		if err != nil {
			return err
		}
		f.buf = f.buf[:0]
		if u.RandomAccess { // a player may begin here: it needs the parameter sets
			config, err := h264.ParseDecoderConfig(f.track.DecoderConfig)
			if err != nil {
				return err
			}
			f.buf = h264.AppendAnnexB(h264.AppendAnnexB(f.buf, config.SPS...), config.PPS...)
		}
		f.buf = h264.AppendAnnexB(f.buf, nalus...)
	}
	_, err = f.Write(f.buf)
	return err
}

func (s sink) Close(context.Context) (err error) {
	for _, f := range s {
		err = errors.Join(err, f.File.Close())
	}
	return err
}
