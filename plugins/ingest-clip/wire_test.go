package clip_test

import (
	"testing"

	"github.com/headgate/gateway/internal/clip"
	plugin "github.com/headgate/gateway/plugins/ingest-clip"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/wire"
)

// Over the wire, as the gateway asks for it: tracks first, then a random access
// point, picture and sound.
func TestPull(t *testing.T) {
	g := plugintest.Attach(t, plugintest.Connect(t, plugin.Plugin()), nil)
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: 1, Kind: wire.SessionKind_SESSION_KIND_INGEST, StreamId: 1, Stream: "test", Url: "clip:", InitialCreditBytes: 1 << 20,
	}}})
	var tracks []media.Track
	units := map[media.TrackID]int{}
	for units[clip.VideoTrack] < 10 || units[clip.AudioTrack] < 10 {
		m := g.Recv()
		if ts := m.GetTracks(); ts != nil {
			tracks = wire.ToTracks(ts.GetTracks())
		}
		for _, u := range m.GetMedia().GetUnits() {
			id := media.TrackID(u.GetTrack())
			first := tracks != nil && (id == clip.AudioTrack || u.GetFlags()&uint32(wire.Flag_FLAG_RANDOM_ACCESS) != 0)
			if units[id] == 0 && !first {
				t.Errorf("track %d begins before the tracks are known, or not at a random access point", id)
			}
			units[id]++
		}
	}
	if len(tracks) != 2 || tracks[0].Codec != media.H264 || tracks[1].Codec != media.Opus {
		t.Errorf("tracks %+v", tracks)
	}
}
