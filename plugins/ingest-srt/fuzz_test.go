package ingestsrt

import (
	"log/slog"
	"os"
	"testing"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/mpegts"
	"github.com/headgate/gateway/test/intake"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzTransportStream: whatever comes, times rise and no unit comes before its
// config.
func FuzzTransportStream(f *testing.F) {
	c, err := clip.Load()
	if err != nil {
		f.Fatal(err)
	}
	mux, err := mpegts.NewMuxer(c.Tracks)
	if err != nil {
		f.Fatal(err)
	}
	var ts []byte
	player := c.NewPlayer()
	for range 6 {
		if ts, err = mux.AppendUnit(ts, player.Next()); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(ts)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &intake.Recorder{}
		a := newAssembler(r, 0, slog.New(slog.DiscardHandler))
		a.demux.Write(b)
		a.demux.Flush()
		for id, units := range r.Units {
			for i, u := range units {
				if len(u.Payload) == 0 || i > 0 && u.DTS <= units[i-1].DTS {
					t.Fatalf("unit %d of track %d: %d bytes at %v", i, id, len(u.Payload), u.DTS)
				}
				if i == 0 && u.Track == id && !u.RandomAccess {
					t.Fatal("it begins at no random access point")
				}
			}
		}
	})
}
