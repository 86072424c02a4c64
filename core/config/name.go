package config

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of stream names.
const (
	maxNameBytes    = 128
	maxNameSegments = 4
)

// CheckStreamName says what is wrong with the name of a stream: at most four
// segments of letters, digits, _, - and (not at the beginning) dots.
func CheckStreamName(name string) error {
	if len(name) > maxNameBytes {
		return fmt.Errorf("the name is longer than %d bytes", maxNameBytes)
	}
	segments := strings.Split(name, "/")
	if len(segments) > maxNameSegments {
		return fmt.Errorf("the name has more than %d segments", maxNameSegments)
	}
	for _, s := range segments {
		if err := checkSegment(s); err != nil {
			return err
		}
	}
	return nil
}

func checkSegment(s string) error {
	switch {
	case s == "":
		return errors.New("a segment of the name is empty")
	case s[0] == '.':
		return errors.New("a segment of the name begins with a dot")
	}
	for _, r := range s {
		if r != '_' && r != '-' && r != '.' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return fmt.Errorf("%q cannot stand in a name", r)
		}
	}
	return nil
}

// checkPattern is CheckStreamName for route names, in which * may be a segment.
func checkPattern(pattern string) error {
	return CheckStreamName(strings.Join(literal(pattern), "/"))
}

// literal are the segments of a pattern with x for *.
func literal(pattern string) []string {
	segments := strings.Split(pattern, "/")
	for i, s := range segments {
		if s == "*" {
			segments[i] = "x"
		}
	}
	return segments
}

// IsPattern reports whether a route's name stands for many streams.
func IsPattern(name string) bool {
	for s := range strings.SplitSeq(name, "/") {
		if s == "*" {
			return true
		}
	}
	return false
}

// Route returns the route of a stream, or nil: the exact name before a pattern,
// of the patterns the one with the longest literal beginning.
func (c *Config) Route(stream string) *Route {
	if CheckStreamName(stream) != nil {
		return nil
	}
	segments := strings.Split(stream, "/")
	var best *Route
	for i := range c.Routes {
		r := &c.Routes[i]
		if r.Name == stream {
			return r
		}
		if matches(r.Name, segments) && (best == nil || moreSpecific(r.Name, best.Name)) {
			best = r
		}
	}
	return best
}

func matches(pattern string, segments []string) bool {
	i := 0
	for s := range strings.SplitSeq(pattern, "/") {
		if i == len(segments) || s != "*" && s != segments[i] {
			return false
		}
		i++
	}
	return i == len(segments)
}

// moreSpecific reports whether pattern a goes before b for a name that both
// match: at the first segment where they differ, a is literal.
func moreSpecific(a, b string) bool {
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return as[i] != "*"
		}
	}
	return false
}
