//go:build !race

package transcode

import "time"

const troubleMinutes = 10

const hourShort = 5 * time.Minute // of TestHour
