package wire

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// rewriting reports whether files are to be written anew; the flag -rewrite is that of
// package datadriven.
func rewriting() bool { return flag.Lookup("rewrite").Value.String() == "true" }

// recorded is the wire that plugins in the field were built with: one line per
// message, field, enum value and method. What stands there stays; what is new is
// added by go test ./sdk/wire -run NothingBreaks -rewrite.
const recorded = "testdata/descriptor.txt"

func TestNothingBreaksTheWire(t *testing.T) {
	now := describeWire(File_gateway_proto)
	b, err := os.ReadFile(recorded)
	if err != nil && !rewriting() {
		t.Fatal(err)
	}
	broken, added := compareWire(strings.Split(strings.TrimSpace(string(b)), "\n"), now)
	for _, line := range broken {
		if line != "" {
			t.Errorf("gateway.proto no longer has\n\t%s\nwhich breaks plugins in the field: put it back; a field that nobody needs stays as it is, a number is never used again", line)
		}
	}
	switch {
	case len(added) == 0 || t.Failed():
	case rewriting():
		if err := os.WriteFile(recorded, []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("gateway.proto has something new, which is allowed; record it with go test ./sdk/wire -run NothingBreaks -rewrite:\n\t%s", strings.Join(added, "\n\t"))
	}
}

// compareWire returns the lines that are gone and those that are new.
func compareWire(before, now []string) (broken, added []string) {
	for _, line := range before {
		if !slices.Contains(now, line) {
			broken = append(broken, line)
		}
	}
	for _, line := range now {
		if !slices.Contains(before, line) {
			added = append(added, line)
		}
	}
	return broken, added
}

// describeWire returns everything in f that both sides must agree on, sorted.
func describeWire(f protoreflect.FileDescriptor) []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	enums := func(list protoreflect.EnumDescriptors) {
		for i := range list.Len() {
			e := list.Get(i)
			for j := range e.Values().Len() {
				v := e.Values().Get(j)
				add("enum %s: %s = %d", e.FullName(), v.Name(), v.Number())
			}
		}
	}
	var messages func(list protoreflect.MessageDescriptors)
	messages = func(list protoreflect.MessageDescriptors) {
		for i := range list.Len() {
			m := list.Get(i)
			for j := range m.Fields().Len() {
				d := m.Fields().Get(j)
				what := d.Kind().String()
				if d.Message() != nil {
					what = string(d.Message().FullName())
				} else if d.Enum() != nil {
					what = string(d.Enum().FullName())
				}
				where := ""
				if o := d.ContainingOneof(); o != nil {
					where = " in " + string(o.Name())
				}
				add("message %s: %s %s %s = %d%s", m.FullName(), d.Cardinality(), what, d.Name(), d.Number(), where)
			}
			enums(m.Enums())
			messages(m.Messages())
		}
	}
	messages(f.Messages())
	enums(f.Enums())
	for i := range f.Services().Len() {
		s := f.Services().Get(i)
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			add("service %s: %s(%s, stream %v) returns (%s, stream %v)", s.FullName(), m.Name(),
				m.Input().FullName(), m.IsStreamingClient(), m.Output().FullName(), m.IsStreamingServer())
		}
	}
	slices.Sort(lines)
	return lines
}

func TestCompareWire(t *testing.T) {
	f := func(before, now, broken, added string) {
		t.Helper()
		b, a := compareWire(strings.Split(before, ", "), strings.Split(now, ", "))
		if strings.Join(b, ", ") != broken || strings.Join(a, ", ") != added {
			t.Errorf("%s -> %s: broken %v, added %v", before, now, b, a)
		}
	}
	f("a = 1", "a = 1", "", "")
	f("a = 1", "a = 1, b = 2", "", "b = 2")
	f("a = 1, b = 2", "a = 1", "b = 2", "")                     // removed
	f("a = 1", "a = 2", "a = 1", "a = 2")                       // renumbered
	f("bool a = 1", "bytes a = 1", "bool a = 1", "bytes a = 1") // retyped
}
