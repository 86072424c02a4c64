package transcode

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/headgate/gateway/sdk"
)

// frameSamples is how many samples of each channel an AAC access unit codes.
const frameSamples = 1024

// An AACEncoder turns frames of 1024 planar samples, from -1 to 1, into raw AAC-LC
// access units. It is not safe for concurrent use.
type AACEncoder interface {
	// Config returns the AudioSpecificConfig. It never changes.
	Config() []byte
	// Delay returns by how many samples decoded sound is late: the unit of the n-th
	// call of Encode, counted from 0, holds the samples from n*1024-Delay() on.
	Delay() int
	// Encode takes one frame and appends one unit to dst.
	Encode(dst []byte, planar [][]float32) ([]byte, error)
	// Reset forgets all frames, as if the encoder were new.
	Reset() error
}

// guard keeps an encoder in step: whatever happens inside, each frame that goes
// in yields one unit, so that a unit never stands for another stretch of time than
// it should.
type guard struct {
	enc     AACEncoder
	silence []byte // a unit that decodes to silence
	last    [][]float32
	buf     []byte
	errors  int // frames whose unit was replaced by silence
	panics  panics
}

// primeFrames is how many frames an encoder must have seen for its next unit to
// join on to what came before.
const primeFrames = 2

// newGuard takes enc over; it is new or reset.
func newGuard(enc AACEncoder, channels int) (*guard, error) {
	g := &guard{enc: enc, last: planes(channels), buf: make([]byte, 0, 2048)}
	quiet := planes(channels)
	for range primeFrames + 2 {
		unit, err := enc.Encode(g.buf[:0], quiet)
		if err != nil {
			return nil, fmt.Errorf("encoding silence: %w", err)
		}
		g.silence = bytes.Clone(unit)
	}
	if len(g.silence) == 0 {
		return nil, errors.New("encoding silence: no unit")
	}
	return g, enc.Reset()
}

func planes(channels int) [][]float32 {
	p := make([][]float32, channels)
	for i := range p {
		p[i] = make([]float32, frameSamples)
	}
	return p
}

// try has the encoder take one frame; a panic is an error.
func (g *guard) try(planar [][]float32) (out []byte, err error) {
	err = g.panics.contain("encoder", func() (err error) {
		out, err = g.enc.Encode(g.buf[:0], planar)
		return err
	})
	return out, err
}

var errNoUnit = errors.New("the encoder returned no unit")

// encode takes one frame and returns one unit, which belongs to the caller. An
// error is one that no reset cures.
func (g *guard) encode(planar [][]float32) ([]byte, error) {
	out, err := g.try(planar)
	if err == nil && len(out) == 0 {
		err = errNoUnit
	}
	if err != nil {
		g.errors++
		out = g.silence
		if err := g.restart(planar); err != nil {
			return nil, err
		}
	} else {
		g.buf = out
	}
	for i := range planar {
		copy(g.last[i], planar[i])
	}
	return bytes.Clone(out), nil
}

// restart resets the encoder and feeds it the last two frames, or silence where
// it takes them no more, so that the next frame yields the next unit.
func (g *guard) restart(planar [][]float32) error {
	quiet := planes(len(planar))
	var errs []error
	for _, frames := range [][2][][]float32{{g.last, planar}, {quiet, quiet}} {
		err := g.panics.contain("encoder", g.enc.Reset)
		for _, f := range frames {
			if err == nil {
				_, err = g.try(f)
			}
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("restarting the AAC encoder: %w", errors.Join(errs...))
}

// panics turn those of a codec into errors: what it got wrong is one packet or one
// frame, and the stream is others too. The first one is logged with its stack, or a
// publisher who finds a way to cause them would fill the log.
type panics struct{ count int }

// contain calls f. After an error that stands for a panic the codec has to be
// reset: it may have stopped anywhere.
func (p *panics) contain(what string, f func() error) (err error) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		err = fmt.Errorf("the %s panicked: %v", what, v)
		if p.count++; p.count == 1 {
			sdk.Logger().Error("a codec panicked: it costs this unit, and further ones are only counted",
				slog.String("codec", what), slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
		}
	}()
	return f()
}
