package nal

import "testing"

// TestBits: numbers as ITU-T H.264, 9.1, has them, over an emulation prevention byte.
func TestBits(t *testing.T) {
	r := NewBits([]byte{0b1_010_011_0, 0b0100_0000, 0, 0, 3, 1, 0xff})
	for i, want := range []uint32{0, 1, 2, 3} {
		if got := r.UE(); got != want {
			t.Errorf("code %d: %d, want %d", i, got, want)
		}
	}
	r.Skip(4 + 16)
	if got := r.U(8); got != 1 || r.Err != nil {
		t.Errorf("behind the emulation prevention byte: %d, %v", got, r.Err)
	}
	if got := NewBits([]byte{0b00101_001, 0b00_000000}).SE(); got != -2 {
		t.Errorf("signed: %d", got)
	}
	if r.U(16); r.Err == nil {
		t.Error("reading beyond the end is no error")
	}
	if r := NewBits(make([]byte, 8)); r.UE() != 0 || r.Err == nil {
		t.Error("an endless code is no error")
	}
}

// TestParameterSets: by their id, with the newest first for a decoder.
func TestParameterSets(t *testing.T) {
	var p ParameterSets
	put := func(id uint32, text string, changed bool) {
		t.Helper()
		b := []byte(text)
		if p.Put(ParameterSet{ID: id, NALU: b}) != changed {
			t.Errorf("putting %d %s: changed is not %v", id, text, changed)
		}
		b[0] = '!' // it has a copy
	}
	put(3, "c", true)
	put(1, "a", true)
	put(3, "c", false)
	put(3, "d", true)
	got := ""
	for _, n := range p.NALUs(3) {
		got += string(n)
	}
	if got != "da" || !p.Has(1) || p.Has(2) {
		t.Errorf("%q", got)
	}
}
