//go:build race

package transcode

import "time"

// troubleMinutes is less where decoding takes twenty times as long.
const troubleMinutes = 1

const hourShort = 25 * time.Second // of TestHour
