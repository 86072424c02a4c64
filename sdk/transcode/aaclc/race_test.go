//go:build race

package aaclc

import "time"

// soakShort is less where coding takes seven times as long.
const soakShort = time.Minute // of TestSoak
