package main

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	goaac "github.com/tphakala/go-aac"

	"github.com/headgate/gateway/sdk/transcode/aaclc"
	"github.com/headgate/gateway/test/audiobench/nmr"
)

type encoder func(dst []byte, planar [][]float32) ([]byte, error)

var (
	items   = flag.String("items", "wav", "folder")
	encs    = flag.String("encs", "ours", "encoders")
	rates   = flag.String("kbps", "128", "kb/s")
	verbose = flag.Bool("v", false, "per item")
	mono    = flag.Bool("mono", false, "mono")
	only    = flag.String("only", "", "item substring")
	outDir  = flag.String("out", "", "folder")
)

func main() {
	flag.Parse()
	files, _ := filepath.Glob(filepath.Join(*items, "*.wav"))
	fmt.Printf("%-14s %4s %8s %6s %6s %6s | %7s %7s %7s %7s %6s %5s\n", "encoder", "kbps", "us/frame", "kb_out", "alloc", "maxAU", "NMR", "NMRmax", "%>1.5", "segSNR", "LSD", "delay")
	for _, rate := range strings.Split(*rates, ",") {
		kbps, _ := strconv.Atoi(rate)
		for _, name := range strings.Split(*encs, ",") {
			var m result
			n := 0.0
			worst := math.Inf(-1)
			for _, f := range files {
				if *only != "" && !strings.Contains(f, *only) {
					continue
				}
				r := measure(name, kbps, f)
				if *verbose {
					show(strings.TrimSuffix(filepath.Base(f), ".wav"), kbps, r, r.NMR)
				}
				n++
				m.us += r.us
				m.kbps += r.kbps
				m.allocs += r.allocs
				m.maxAU = max(m.maxAU, r.maxAU)
				m.NMR += r.NMR
				m.Disturbed += r.Disturbed
				m.SegSNR += r.SegSNR
				m.LSD += r.LSD
				m.Delay = r.Delay
				worst = max(worst, r.NMR)
			}
			m.us, m.kbps, m.allocs, m.NMR, m.Disturbed, m.SegSNR, m.LSD = m.us/n, m.kbps/n, m.allocs/n, m.NMR/n, m.Disturbed/n, m.SegSNR/n, m.LSD/n
			show(name, kbps, m, worst)
		}
	}
}

func show(label string, kbps int, r result, worst float64) {
	fmt.Printf("%-14s %4d %8.1f %6.1f %6.2f %6d | %7.2f %7.2f %7.1f %7.2f %6.2f %5d\n", label, kbps, r.us, r.kbps, r.allocs, r.maxAU, r.NMR, worst, r.Disturbed, r.SegSNR, r.LSD, r.Delay)
}

type result struct {
	us, kbps, allocs float64
	maxAU            int
	nmr.Result
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func cpu() float64 {
	var r syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &r))
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}

func measure(name string, kbps int, file string) (r result) {
	pcm, err := nmr.ReadWAV(file)
	check(err)
	var adts []byte
	ch := 2
	if *mono {
		ch = 1
		for i := 0; i+1 < len(pcm); i += 2 {
			v := int16((int(pcm[i]) + int(pcm[i+1])) / 2)
			pcm[i], pcm[i+1] = v, v
		}
	}
	if name == "ffmpeg" {
		var in bytes.Buffer
		for _, v := range pcm {
			in.Write([]byte{byte(v), byte(v >> 8)})
		}
		cmd := exec.Command("ffmpeg", "-v", "error", "-f", "s16le", "-ar", "48000", "-ac", "2", "-i", "-", "-ac", strconv.Itoa(ch), "-c:a", "aac", "-b:a", fmt.Sprint(kbps, "k"), "-threads", "1", "-f", "adts", "-")
		cmd.Stdin = &in
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		check(cmd.Run())
		adts = out.Bytes()
		r.us = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds() * 1e6 / (float64(len(pcm)) / 2048)
	} else {
		var enc encoder
		var drain func(dst []byte) []byte
		switch name {
		case "ours":
			e, err := aaclc.New(aaclc.Config{SampleRate: 48000, Channels: ch, Bitrate: kbps * 1000})
			check(err)
			enc, drain = e.Encode, e.Flush
		default:
			coder := map[string]goaac.Coder{"nmr": goaac.CoderNMR, "fast": goaac.CoderFast}[name]
			e, err := goaac.NewEncoder(goaac.EncoderConfig{SampleRate: 48000, Channels: ch, Bitrate: kbps * 1000, Coder: coder})
			check(err)
			enc = e.EncodeFrame
			drain = func(dst []byte) []byte {
				if e.Drained() {
					return dst
				}
				d, err := e.EncodeFrame(dst, nil)
				check(err)
				return d
			}
		}
		planar := [][]float32{make([]float32, 1024), make([]float32, 1024)}[:ch]
		au := make([]byte, 0, 4096)
		adts = make([]byte, 0, len(pcm))
		add := func() {
			if len(au) > 0 {
				adts, err = goaac.AppendADTSHeader(adts, 48000, ch, len(au))
				check(err)
				adts = append(adts, au...)
				r.maxAU = max(r.maxAU, len(au))
			}
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := cpu()
		frames := 0
		for i := 0; i < len(pcm); i += 2048 {
			for c := range planar {
				for k := range 1024 {
					planar[c][k] = 0
					if p := i + 2*k + c; p < len(pcm) {
						planar[c][k] = float32(pcm[p]) / 32768
					}
				}
			}
			au, err = enc(au[:0], planar)
			check(err)
			add()
			frames++
		}
		r.us = (cpu() - start) * 1e6 / float64(frames)
		runtime.ReadMemStats(&after)
		r.allocs = float64(after.Mallocs-before.Mallocs) / float64(frames)
		for range 4 {
			au = drain(au[:0])
			add()
		}
	}
	r.kbps = float64(len(adts)) * 8 / (float64(len(pcm)) / 2 / 48000) / 1000
	dir := *outDir
	if dir == "" {
		dir, err = os.MkdirTemp("", "ab")
		check(err)
		defer os.RemoveAll(dir)
	}
	path := filepath.Join(dir, strings.TrimSuffix(filepath.Base(file), ".wav")+"."+name+"."+strconv.Itoa(kbps)+".aac")
	check(os.WriteFile(path, adts, 0o644))
	test, err := nmr.Decode(path)
	check(err)
	r.Result, _, err = nmr.Compare(pcm, test)
	check(err)
	return r
}
