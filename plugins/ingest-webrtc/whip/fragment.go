package whip

import (
	"errors"
	"fmt"
	"strings"
)

// A Fragment is the content of a PATCH: application/trickle-ice-sdpfrag (RFC 8840).
type Fragment struct {
	Ufrag, Pwd string
	Candidates []Candidate
}

// A Candidate is one line of a Fragment, with the section it belongs to.
type Candidate struct {
	MID  string
	Line string // "candidate:..." as in SDP, without "a="
}

const maxCandidates = 32 // of one Fragment

// ParseFragment reads a Fragment. It takes what it knows and skips the rest.
func ParseFragment(text string) (Fragment, error) {
	var f Fragment
	mid, empty := "", true
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		if len(line) < 2 || line[1] != '=' {
			return f, fmt.Errorf("line %q is not of a session description", line[:min(len(line), 40)])
		}
		empty = false
		switch line[0] {
		case 'm':
			mid = ""
			continue
		case 'a':
		default:
			continue
		}
		key, value, _ := strings.Cut(line[2:], ":")
		switch key {
		case "mid":
			mid = value
		case "ice-ufrag":
			f.Ufrag = value
		case "ice-pwd":
			f.Pwd = value
		case "candidate":
			if len(f.Candidates) == maxCandidates {
				return f, fmt.Errorf("more than %d candidates", maxCandidates)
			}
			f.Candidates = append(f.Candidates, Candidate{MID: mid, Line: line[2:]})
		}
	}
	if empty {
		return f, errors.New("nothing in it")
	}
	return f, nil
}
