//go:build !race

package egressrtmp

const raceEnabled = false
