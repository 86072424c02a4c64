//go:build noaac

package transcode

import "errors"

func newAACEncoder(int, int) (AACEncoder, error) {
	return nil, errors.New("this binary was built without an AAC encoder (tag noaac)")
}
