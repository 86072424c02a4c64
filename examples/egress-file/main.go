// Command egress-file is a complete third-party egress plugin. It appends each
// track of a stream to a file of its own in the directory of the target's URL,
// file:///var/recordings: H.264 as Annex-B, AV1 as OBUs, AAC as ADTS, which players open.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/elementary"
)

func main() { sdk.Serve(plugin()) }

// plugin takes H.264 and AAC, as every simple egress, and AV1: publishers without
// H.264, such as a Firefox that lacks its codec, can be recorded, too.
func plugin() sdk.Plugin {
	p := sdk.EgressOf("egress-file", "1.0.0", []string{"file"}, egress{})
	p.Egress.Accepts.Codecs = append(p.Egress.Accepts.Codecs, media.AV1)
	return p
}

type egress struct{}

func (egress) Open(_ context.Context, t sdk.Target, tracks []media.Track) (sdk.Sink, error) {
	u, err := url.Parse(t.URL.Reveal())
	if err != nil || u.Path == "" {
		return nil, sdk.Permanent(errors.New("the URL names no directory: want file:///directory"))
	}
	s := sink{}
	for _, track := range tracks {
		name := fmt.Sprintf("%s/%s-%d.%s", u.Path, strings.ReplaceAll(t.Stream, "/", "_"), track.ID, track.Codec)
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, errors.Join(err, s.Close(context.Background()))
		}
		s[track.ID] = file{f, track}
	}
	return s, nil
}

type file struct {
	*os.File
	track media.Track
}

type sink map[media.TrackID]file

func (s sink) WriteAccessUnit(_ context.Context, u *media.AccessUnit) error {
	b, err := elementary.Append(nil, s[u.Track].track, u)
	if err == nil {
		_, err = s[u.Track].Write(b)
	}
	return err
}

func (s sink) Close(context.Context) (err error) {
	for _, f := range s {
		err = errors.Join(err, f.Close())
	}
	return err
}
