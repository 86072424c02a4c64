package ingestrtmp

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/test/intake"
	"github.com/headgate/gateway/test/peers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// encode publishes the test card to addr in real time until the connection or ctx is
// over. The port opens a little after the plugin starts.
func encode(ctx context.Context, addr string) {
	opening, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	target, err := rtmp.ParseTarget(secret.New("rtmp://"+addr+"/studio"), secret.New("?token=x"))
	if err != nil {
		panic(err)
	}
	c, err := clip.Load()
	if err != nil {
		panic(err)
	}
	for opening.Err() == nil {
		if peers.Listening(addr) != nil {
			continue
		}
		conn, err := rtmp.Dial(opening, rtmp.ClientConfig{Target: target})
		if err != nil {
			return // refused, as a check wants it, or the plugin is gone again
		}
		sent := map[media.TrackID]bool{}
		player := c.NewPlayer()
		start := time.Now()
		for u := player.Next(); ; u = player.Next() {
			select {
			case <-ctx.Done():
			case <-conn.Failed():
			case <-time.After(time.Until(start.Add(u.DTS))):
			}
			if ctx.Err() != nil || conn.Err() != nil {
				break
			}
			for _, t := range c.Tracks {
				if t.ID != u.Track {
					continue
				}
				if !sent[t.ID] {
					sent[t.ID] = true
					write(conn, header(t), u.DTS)
				}
				write(conn, body(t, u), u.DTS)
			}
		}
		_ = conn.Close(context.WithoutCancel(ctx))
		return
	}
}

func write(conn *rtmp.Conn, tag *rtmp.Tag, at time.Duration) {
	_ = conn.WriteTag(tag, uint32(at.Milliseconds())) // the loop finds out
}

func header(t media.Track) *rtmp.Tag {
	if t.Codec.Kind() == media.Video {
		return rtmp.VideoHeaderTag(t.Codec, 0, t.DecoderConfig)
	}
	return rtmp.AudioHeaderTag(t.Codec, 0, t.DecoderConfig)
}

func body(t media.Track, u *media.AccessUnit) *rtmp.Tag {
	if t.Codec.Kind() == media.Video {
		return rtmp.VideoTag(t.Codec, 0, u.Payload, u.RandomAccess, int32((u.PTS - u.DTS).Milliseconds()))
	}
	return rtmp.AudioTag(t.Codec, 0, u.Payload)
}

func TestConformance(t *testing.T) {
	addr := peers.FreeAddr(t)
	plugintest.TestIngest(t, Plugin(), plugintest.IngestOptions{
		Options: fmt.Appendf(nil, `{"listen": %q}`, addr),
		Publish: intake.Publishers(t, func(ctx context.Context) { encode(ctx, addr) }),
	})
}

func TestWish(t *testing.T) {
	parse := func(app, query, key string) (wish, error) {
		return parseWish(app, secret.New(query), secret.New(key))
	}
	good := func(app, query, key, name, token string) {
		t.Helper()
		w, err := parse(app, query, key)
		if err != nil || w.name != name || w.token.Reveal() != token {
			t.Errorf("%s?%s %s: %q %q %v", app, query, key, w.name, w.token.Reveal(), err)
		}
	}
	bad := func(app, query, key string) {
		t.Helper()
		if w, err := parse(app, query, key); err == nil || strings.Contains(err.Error(), "SECRET") || strings.Contains(w.name, "SECRET") {
			t.Errorf("%s?%s %s: %+v %v", app, query, key, w, err)
		}
	}
	good("studio", "", "SECRET", "studio", "SECRET")
	good("studio/", "", " SECRET\n", "studio", "SECRET")
	good("a/b", "", "c/SECRET", "a/b/c", "SECRET")
	good("studio", "", "", "studio", "")
	good("", "", "studio", "studio", "")
	good("live", "", "studio?token=SE%2FCRET", "live/studio", "SE/CRET")
	good("studio", "token=SE+C=RET", "", "studio", "SE+C=RET")
	good("live", "token=SECRET", "studio", "live/studio", "SECRET")
	good("live", "token=other", "studio?token=SECRET", "live/studio", "SECRET")
	good("live", "", "studio?user=me&pass=SECRET", "live/studio", "SECRET")
	good("live", "", "studio?token=", "live/studio", "")
	bad("", "", "")
	bad("", "token=SECRET", "")
	bad("live", "", "studio?token=%zzSECRET")
	bad("", "", "?token=SECRET")
}
