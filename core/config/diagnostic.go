package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A Diagnostic is one thing that a person should know about his configuration:
// where, what, and what to do. It never contains the value of a reference or of
// a secret key.
type Diagnostic struct {
	// File is the name as it was given, an environment variable (GATEWAY_LISTEN)
	// or a flag (--to).
	File string `json:"file,omitempty"`
	// Line and Col count from 1; 0 where the source has none.
	Line int `json:"line,omitempty"`
	Col  int `json:"col,omitempty"`
	// Path is the key, with dots: routes.studio.to.backup.max_lag.
	Path    string `json:"path,omitempty"`
	Finding string `json:"finding"`
	Remedy  string `json:"remedy,omitempty"`
	// Warning: the configuration can be used nevertheless.
	Warning bool `json:"warning,omitempty"`
}

// String is file:line:col: path: finding, remedy.
func (d Diagnostic) String() string {
	var b strings.Builder
	b.WriteString(d.File)
	if d.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", d.Line, d.Col)
	}
	b.WriteString(": ")
	if d.Warning {
		b.WriteString("warning: ")
	}
	if d.Path != "" {
		b.WriteString(d.Path + ": ")
	}
	b.WriteString(d.Finding)
	if d.Remedy != "" {
		b.WriteString(", " + d.Remedy)
	}
	return b.String()
}

// Diagnostics are all findings of one configuration, in the order of the source.
type Diagnostics []Diagnostic

// Failed reports whether one of them is more than a warning.
func (ds Diagnostics) Failed() bool {
	return slices.ContainsFunc(ds, func(d Diagnostic) bool { return !d.Warning })
}

// String has one line per finding.
func (ds Diagnostics) String() string {
	var b strings.Builder
	for _, d := range ds {
		b.WriteString(d.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// MarshalJSON writes an empty list as [] rather than null.
func (ds Diagnostics) MarshalJSON() ([]byte, error) {
	return json.Marshal(append([]Diagnostic{}, ds...))
}

// sorted orders by place, and drops what is said twice of one place (an anchor
// that is used several times).
func (ds Diagnostics) sorted() Diagnostics {
	out := slices.Clone(ds)
	slices.SortStableFunc(out, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col),
			cmp.Compare(a.Finding, b.Finding), cmp.Compare(a.Path, b.Path))
	})
	return slices.CompactFunc(out, func(a, b Diagnostic) bool {
		if a.Line > 0 {
			a.Path = b.Path
		}
		return a == b
	})
}
