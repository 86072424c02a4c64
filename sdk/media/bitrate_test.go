package media_test

import (
	"testing"

	"github.com/headgate/gateway/sdk/media"
)

func TestParseBitrate(t *testing.T) {
	f := func(s string, want uint64, ok bool) {
		t.Helper()
		got, err := media.ParseBitrate(s)
		if got != want || (err == nil) != ok {
			t.Errorf("%q: %d %v, want %d", s, got, err, want)
		}
	}
	f("500kbps", 500_000, true)
	f("2.5Mbps", 2_500_000, true)
	f("64000 bps", 64_000, true)
	f("500", 0, false)
	f("kbps", 0, false)
	f("-1kbps", 0, false)
	f("NaNkbps", 0, false)
	f("1e300mbps", 0, false)
}
