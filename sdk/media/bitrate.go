package media

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseBitrate reads a bitrate such as 500kbps or 2.5mbps: bits per second.
func ParseBitrate(s string) (uint64, error) {
	for _, u := range []struct {
		unit   string
		factor float64
	}{{"kbps", 1e3}, {"mbps", 1e6}, {"bps", 1}} {
		number, ok := strings.CutSuffix(strings.ToLower(s), u.unit)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(v >= 0 && v*u.factor < 1e15) {
			break
		}
		return uint64(v * u.factor), nil
	}
	return 0, fmt.Errorf("%q is not a bitrate", s)
}
