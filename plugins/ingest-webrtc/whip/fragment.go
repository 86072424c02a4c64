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

// checkCredentials reports what keeps f from beginning an ICE session (RFC 8839,
// section 5.4).
func (f Fragment) checkCredentials() error {
	const minUfrag, minPwd, most = 4, 22, 256
	for _, c := range []struct {
		name, value string
		least       int
	}{{"ice-ufrag", f.Ufrag, minUfrag}, {"ice-pwd", f.Pwd, minPwd}} {
		if len(c.value) < c.least || len(c.value) > most {
			return fmt.Errorf("%s must have %d to %d characters", c.name, c.least, most)
		}
		for _, r := range c.value {
			if !strings.ContainsRune(iceCharacters, r) {
				return fmt.Errorf("%s contains characters other than letters, digits, + and /", c.name)
			}
		}
	}
	return nil
}

const iceCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

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
