package aaclc_test

import (
	"fmt"
	"math"

	"github.com/headgate/gateway/sdk/transcode/aaclc"
)

// A second of a tone becomes units that a decoder plays at the right time.
func ExampleEncoder() {
	e, err := aaclc.New(aaclc.Config{SampleRate: 48000, Channels: 1, Bitrate: 64000})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("config %x, delay %d samples\n", e.Config(), e.Delay())

	frame := make([]float32, aaclc.FrameSamples)
	buf := make([]byte, 0, 2048) // reused: nothing is allocated from here on
	units, bytes := 0, 0
	for n := range 47 {
		for i := range frame {
			frame[i] = 0.5 * float32(math.Sin(2*math.Pi*440*float64(n*len(frame)+i)/48000))
		}
		if buf, err = e.Encode(buf[:0], [][]float32{frame}); err != nil {
			fmt.Println(err)
			return
		}
		// This unit is to be played (n*1024-Delay)/48000 seconds after the first
		// sample; the first, which is before it, need not be sent.
		units++
		bytes += len(buf)
	}
	for {
		if buf = e.Flush(buf[:0]); len(buf) == 0 {
			break
		}
		units++
	}
	fmt.Printf("%d units, the bitrate is kept: %t\n", units, math.Abs(float64(bytes)*8*48000/47/1024-64000) < 6400)
	// Output:
	// config 1188, delay 1472 samples
	// 49 units, the bitrate is kept: true
}
