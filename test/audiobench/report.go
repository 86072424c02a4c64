package main

import (
	"fmt"
	"math"
	"strings"
)

// A bench holds what was measured.
type bench struct {
	options
	items []*item
	rows  []*row
}

// A row is one encoder at one bitrate, over all items.
type row struct {
	encoder string
	asked   int // kb/s
	results []*result
}

func (r *row) mean(f func(*result) float64) float64 {
	sum := 0.0
	for _, x := range r.results {
		sum += f(x)
	}
	return sum / float64(len(r.results))
}

func (r *row) worst(f func(*result) float64) float64 {
	top := math.Inf(-1)
	for _, x := range r.results {
		top = max(top, f(x))
	}
	return top
}

func (b *bench) header() {
	fmt.Printf("%d items, %d channels. NMR: noise to mask, lower is better; %%>1.5: frames with audible noise; LSD: log spectral\n"+
		"distance, lower is better; 1 s: highest bitrate over a second.\n\n", len(b.items), b.channels)
	fmt.Printf("%-14s %5s %6s %6s %8s %7s %7s %6s %7s %6s %6s %6s\n", "encoder", "asked", "kb/s", "1 s", "us/frame", "NMR", "worst", "%>1.5",
		"segSNR", "LSD", "kHz", "delay")
}

func (b *bench) measure(name string, kbps int) error {
	r := &row{encoder: name, asked: kbps}
	for _, it := range b.items {
		x, err := b.compare(it, name, kbps)
		if err != nil {
			return err
		}
		r.results = append(r.results, x)
		if b.verbose {
			line(it.name, &row{asked: kbps, results: []*result{x}})
		}
	}
	b.rows = append(b.rows, r)
	line(name, r)
	return nil
}

func line(name string, r *row) {
	fmt.Printf("%-14s %5d %6.1f %6.1f %8.1f %7.2f %7.2f %6.1f %7.2f %6.2f %6.1f %6d\n", name, r.asked, r.mean(kbps),
		r.worst(func(x *result) float64 { return x.peakKbps }), r.mean(micros), r.mean(level), r.worst(level), r.mean(audible),
		r.mean(func(x *result) float64 { return x.SegSNR }), r.mean(func(x *result) float64 { return x.LSD }),
		r.mean(func(x *result) float64 { return x.Bandwidth })/1000, r.results[0].Delay)
}

func kbps(x *result) float64    { return x.kbps }
func micros(x *result) float64  { return x.micros }
func level(x *result) float64   { return x.NMR }
func audible(x *result) float64 { return x.Disturbed }

// at interpolates a figure of an encoder at a real bitrate, from its rows. Outside
// of them it takes the nearest.
func (b *bench) at(encoder string, rate float64, rateOf, figure func(*row) float64) (float64, bool) {
	var below, above *row
	for _, r := range b.rows {
		switch {
		case r.encoder != encoder:
		case rateOf(r) <= rate && (below == nil || rateOf(r) > rateOf(below)):
			below = r
		case rateOf(r) > rate && (above == nil || rateOf(r) < rateOf(above)):
			above = r
		}
	}
	switch {
	case below == nil && above == nil:
		return 0, false
	case below == nil:
		return figure(above), true
	case above == nil:
		return figure(below), true
	}
	t := (rate - rateOf(below)) / (rateOf(above) - rateOf(below))
	return figure(below) + t*(figure(above)-figure(below)), true
}

// gates compares ours with the others. What is promised is promised of 96 and 128 kb/s
// in stereo and 64 in mono; other rates are told. It returns an error that names the gates
// that it misses.
func (b *bench) gates() error {
	var missed []string
	promised := false // whether the rate at hand is one that gates are for
	gate := func(ok bool, format string, args ...any) {
		word := "reached"
		switch {
		case ok:
		case !promised:
			word = "short"
		default:
			word = "MISSED"
			missed = append(missed, fmt.Sprintf(format, args...))
		}
		fmt.Printf("%-8s %s\n", word, fmt.Sprintf(format, args...))
	}
	meanRate := func(r *row) float64 { return r.mean(kbps) }
	fmt.Println()
	for _, ours := range b.rows {
		if ours.encoder != "ours" {
			continue
		}
		rate := meanRate(ours)
		nmr := ours.mean(level)
		with := fmt.Sprintf("%d kb/s:", ours.asked)
		strict := b.channels == 2 && ours.asked == 128
		promised = strict || b.channels == 2 && ours.asked == 96 || b.channels == 1 && ours.asked == 64
		if theirs, ok := b.at("ffmpeg", rate, meanRate, func(r *row) float64 { return r.mean(level) }); ok {
			margin := 0.0
			if strict {
				margin = 3
			}
			gate(nmr <= theirs-margin, "%s NMR %.2f dB, at most %.2f (ffmpeg's at the same real rate less %.0f dB)", with, nmr, theirs-margin, margin)
		}
		if theirs, ok := b.at("library-nmr", rate, meanRate, func(r *row) float64 { return r.mean(level) }); ok {
			gate(nmr <= theirs, "%s NMR %.2f dB, at most %.2f (the library's best coder)", with, nmr, theirs)
		}
		if strict {
			gate(ours.mean(audible) <= 2, "%s frames with audible noise %.1f %%, at most 2", with, ours.mean(audible))
		}
		for i, x := range ours.results {
			slack := 1.0
			if b.channels == 1 && strings.HasPrefix(x.item.name, "speech") {
				slack = 0
			}
			theirs, ok := b.at("ffmpeg", x.kbps, func(r *row) float64 { return r.results[i].kbps }, func(r *row) float64 { return r.results[i].NMR })
			if ok && x.NMR > theirs+slack {
				gate(false, "%s %s NMR %.2f dB, at most %.2f (ffmpeg's at the same real rate)", with, x.item.name, x.NMR, theirs+slack)
			}
		}
		for name, share := range map[string]float64{"library-fast": 0.55, "ffmpeg": 0.4} {
			for _, r := range b.rows {
				if r.encoder == name && r.asked == ours.asked {
					ratio := ours.mean(micros) / r.mean(micros)
					gate(ratio <= share, "%s CPU %.2f of %s, at most %.2f", with, ratio, name, share)
				}
			}
		}
		peak := ours.worst(func(x *result) float64 { return x.peakKbps }) / float64(ours.asked)
		gate(peak <= 1.1, "%s highest rate over a second %.3f of what was asked, at most 1.1", with, peak)
	}
	if len(missed) > 0 {
		return fmt.Errorf("%d gates missed: %s", len(missed), strings.Join(missed, "; "))
	}
	return nil
}
