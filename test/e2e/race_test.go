//go:build race

package e2e

// raceFlag makes the gateway under test watch for races as the tests do.
const raceFlag = "-race"
