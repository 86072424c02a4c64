//go:build !unix

package cores

import "time"

func spent() (time.Duration, bool) { return 0, false }
