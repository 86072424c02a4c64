//go:build !race

package transcode

const troubleMinutes = 10
