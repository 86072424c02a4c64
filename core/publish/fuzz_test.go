package publish

import (
	"bytes"
	"errors"
	"testing"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
)

// FuzzWellFormed compares the quick look at a payload with the parser that splits
// it: what passes can be split, and put together again to the same bytes.
func FuzzWellFormed(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 9})
	f.Add([]byte{0, 0, 0, 2, 9, 9, 0, 0, 0, 1, 7})
	f.Add([]byte{0, 0, 0, 0, 9})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 9})
	f.Fuzz(func(t *testing.T, payload []byte) {
		got := wellFormed(media.H264, &media.AccessUnit{Payload: payload})
		nalus, err := h264.SplitLengthPrefixed(nil, payload)
		if errors.Is(err, h264.ErrTooMany) {
			return // a limit of the parser's own
		}
		want := err == nil && len(payload) > 0 && bytes.Equal(h264.AppendLengthPrefixed(nil, nalus...), payload)
		if got != want {
			t.Errorf("%x: %v, want %v", payload, got, want)
		}
	})
}
