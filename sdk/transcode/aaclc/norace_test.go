//go:build !race

package aaclc

import "time"

const soakShort = 5 * time.Minute // of TestSoak
