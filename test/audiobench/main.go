// Command audiobench compares our AAC-LC encoder with the library's two coders and
// with ffmpeg's: the same items at the same bitrates, decoded by ffmpeg. It prints
// what they reach side by side, checks the gates that ours must pass, and writes a
// page with a plot for each item on which any two can be compared by ear.
//
// It knows encoders by what goes in and what comes out. The measure is in package
// nmr, the recipe of the items in mkitems.sh.
//
//	go run ./test/audiobench                 # everything: some ten minutes
//	go run ./test/audiobench -kbps 128 -v    # one rate, each item
//	go run ./test/audiobench -mono -kbps 64
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/headgate/gateway/test/audiobench/nmr"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "audiobench:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	items, out, only string
	encoders         []string
	kbps             []int
	channels         int
	verbose, page    bool
}

func parse() (o options, err error) {
	var encoders, kbps string
	var mono bool
	flag.StringVar(&o.items, "items", "bin/audiobench/items", "`folder` of stereo 48 kHz WAV files; made if it is not there")
	flag.StringVar(&o.out, "out", "bin/audiobench", "`folder` for the page and what it plays")
	flag.StringVar(&o.only, "only", "", "take items whose `name` contains this")
	flag.StringVar(&encoders, "encoders", "ours,ours-fast,library-nmr,library-fast,ffmpeg", "comma-separated")
	flag.StringVar(&kbps, "kbps", "64,96,128,160,192", "bitrates, comma-separated")
	flag.BoolVar(&mono, "mono", false, "mix the items to one channel")
	flag.BoolVar(&o.verbose, "v", false, "print each item")
	flag.BoolVar(&o.page, "page", true, "write the page")
	flag.Parse()
	o.channels = 2
	if mono {
		o.channels = 1
	}
	o.encoders = strings.Split(encoders, ",")
	for _, s := range strings.Split(kbps, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return o, fmt.Errorf("-kbps: want numbers, got %q", s)
		}
		o.kbps = append(o.kbps, n)
	}
	return o, nil
}

func run() error {
	o, err := parse()
	if err != nil {
		return err
	}
	files, err := itemFiles(o)
	if err != nil {
		return err
	}
	b := &bench{options: o}
	for _, f := range files {
		item, err := load(f, o.channels)
		if err != nil {
			return err
		}
		b.items = append(b.items, item)
	}
	b.header()
	for _, kbps := range o.kbps {
		for _, name := range o.encoders {
			if err := b.measure(name, kbps); err != nil {
				return err
			}
		}
	}
	if o.page {
		if err := b.writePage(); err != nil {
			return fmt.Errorf("writing the page: %w", err)
		}
	}
	return b.gates()
}

// An item is a piece of sound to encode.
type item struct {
	name string
	file string
	pcm  []int16 // interleaved stereo; both channels alike where mono is measured
}

func load(file string, channels int) (*item, error) {
	pcm, err := nmr.ReadWAV(file)
	if err != nil {
		return nil, err
	}
	if channels == 1 {
		for i := 0; i+1 < len(pcm); i += 2 {
			v := int16((int(pcm[i]) + int(pcm[i+1])) / 2)
			pcm[i], pcm[i+1] = v, v
		}
	}
	return &item{name: strings.TrimSuffix(filepath.Base(file), ".wav"), file: file, pcm: pcm}, nil
}

// itemFiles finds the items, and makes them if there are none.
func itemFiles(o options) ([]string, error) {
	find := func() (found []string) {
		all, err := filepath.Glob(filepath.Join(o.items, "*.wav"))
		if err != nil {
			return nil
		}
		for _, f := range all {
			if strings.Contains(filepath.Base(f), o.only) {
				found = append(found, f)
			}
		}
		return found
	}
	if files := find(); len(files) > 0 {
		return files, nil
	}
	fmt.Fprintln(os.Stderr, "making the items in", o.items)
	cmd := exec.Command("sh", "test/audiobench/mkitems.sh", o.items)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("making the items (they need apt-get install sox libsox-fmt-all espeak-ng python3 ffmpeg): %w", err)
	}
	files := find()
	if len(files) == 0 {
		return nil, errors.New("no items in " + o.items)
	}
	return files, nil
}
