//go:build race

package transcode

// troubleMinutes is less where decoding takes twenty times as long.
const troubleMinutes = 1
