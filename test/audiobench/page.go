package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed page.html
var pageText string

// A card is an item on the page.
type card struct {
	Name, Original string
	Sounds         []sound
	Plots          []plot
}

type sound struct {
	Name, File string
	Figures    string
}

// A plot shows the noise-to-mask ratio over time, one curve for each encoder.
type plot struct {
	Title  string
	Curves []curve
}

type curve struct {
	Name   string
	Colour int
	Points template.HTMLAttr // of an SVG polyline
}

// The plot's measures: time to the right, -30 dB at the bottom, 15 dB at the top.
const (
	plotWidth  = 900
	plotHeight = 180
	plotTop    = 15.0
	plotBottom = -30.0
)

// writePage writes index.html and the files that it plays to the output folder.
func (b *bench) writePage() error {
	t, err := template.New("page").Parse(pageText)
	if err != nil {
		return err
	}
	var cards []card
	for i, it := range b.items {
		c := card{Name: it.name, Original: filepath.Join("sound", it.name+".flac")}
		if err := convert(it.file, filepath.Join(b.out, c.Original), "-ac", fmt.Sprint(b.channels), "-c:a", "flac"); err != nil {
			return err
		}
		for _, kbps := range b.kbps {
			p := plot{Title: fmt.Sprint(kbps, " kb/s")}
			for _, r := range b.rows {
				if r.asked != kbps {
					continue
				}
				x := r.results[i]
				file := filepath.Join("sound", strings.TrimSuffix(filepath.Base(x.file), ".aac")+".m4a")
				if err := convert(x.file, filepath.Join(b.out, file), "-c:a", "copy"); err != nil {
					return err
				}
				c.Sounds = append(c.Sounds, sound{fmt.Sprintf("%s %d", r.encoder, kbps), file,
					fmt.Sprintf("%.1f kb/s, NMR %.1f dB, audible %.1f %%, LSD %.1f", x.kbps, x.NMR, x.Disturbed, x.LSD)})
				p.Curves = append(p.Curves, curve{r.encoder, len(p.Curves), points(x)})
			}
			c.Plots = append(c.Plots, p)
		}
		cards = append(cards, c)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, cards); err != nil {
		return err
	}
	file := filepath.Join(b.out, "index.html")
	fmt.Println("\nlisten and look:", file)
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// points draws the first channel's curve.
func points(r *result) template.HTMLAttr {
	var s strings.Builder
	s.WriteString(`points="`)
	length := float64(len(r.item.pcm) / 2)
	for _, f := range r.Frames {
		if f.Channel == 0 {
			y := min(max(f.NMR, plotBottom), plotTop)
			fmt.Fprintf(&s, "%.1f,%.1f ", float64(f.At)/length*plotWidth, (plotTop-y)/(plotTop-plotBottom)*plotHeight)
		}
	}
	s.WriteByte('"')
	return template.HTMLAttr(s.String())
}

func convert(from, to string, args ...string) error {
	cmd := exec.Command("ffmpeg", append(append([]string{"-v", "error", "-y", "-i", from}, args...), to)...)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ffmpeg: %w: %s", err, said)
	}
	return nil
}
