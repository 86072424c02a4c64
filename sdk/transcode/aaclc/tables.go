package aaclc

import (
	"math"
	"sync"
)

// tables are the constants that all encoders of a process share; 90 KB.
type tables struct {
	bank filterbank

	// The quantiser, clause 4.6.1 and 4.6.2: |line| = q^(4/3) * 2^((sf-100)/4).
	pow43  [maxQuant + 1]float32 // q^(4/3)
	step   [256]float32          // 2^((sf-100)/4)
	step34 [256]float32          // step^(-3/4)

	cost costTables
}

const (
	maxQuant    = 8191
	zeroGain    = 100 // the scalefactor of step size 1
	maxSf       = 255
	maxSfDelta  = 60 // between two transmitted scalefactors
	unitBits    = 6144
	unitBytes   = unitBits / 8
	inputScale  = 32768 // lines are on the scale of 16-bit samples
	maxChannels = 2
)

// sharedTables builds the tables once. They are never written afterwards.
var sharedTables = sync.OnceValue(func() *tables {
	t := &tables{}
	t.bank.fill()
	for q := range t.pow43 {
		t.pow43[q] = float32(math.Pow(float64(q), 4./3))
	}
	for sf := range t.step {
		t.step[sf] = float32(math.Exp2(float64(sf-zeroGain) / 4))
		t.step34[sf] = float32(math.Exp2(-3 * float64(sf-zeroGain) / 16))
	}
	t.cost.fill()
	return t
})
