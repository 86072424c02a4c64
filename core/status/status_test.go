package status

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "record what is new in testdata")

// recorded is what programs read that watch a gateway: one line per field of the API's
// answers. What stands there stays; what is new is added by go test ./core/status
// -rewrite.
const recorded = "testdata/api.txt"

func TestNothingBreaksTheAPI(t *testing.T) {
	now := append(fields("stream", reflect.TypeFor[Stream]()), fields("plugin", reflect.TypeFor[Plugin]())...)
	b, err := os.ReadFile(recorded)
	if err != nil && !*rewrite {
		t.Fatal(err)
	}
	before := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, line := range before {
		if line != "" && !slices.Contains(now, line) {
			t.Errorf("the API no longer has\n\t%s\nwhich breaks whoever reads it: put it back", line)
		}
	}
	added := slices.DeleteFunc(slices.Clone(now), func(line string) bool { return slices.Contains(before, line) })
	switch {
	case len(added) == 0 || t.Failed():
	case *rewrite:
		if err := os.WriteFile(recorded, []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the API has something new, which is allowed; record it with go test ./core/status -rewrite:\n\t%s", strings.Join(added, "\n\t"))
	}
}

// fields are those of a struct and of what it holds, as JSON has them: its path, what it
// is and whether it may be absent. All names are lower case, with their unit.
func fields(path string, t reflect.Type) []string {
	var out []string
	for _, f := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" || name != strings.ToLower(name) {
			panic(fmt.Sprintf("%s.%s: the name in JSON is %q", t, f.Name, name))
		}
		ft, at, absent := f.Type, path+"."+name, ""
		if options == "omitempty" {
			absent = ", may be absent"
		}
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Slice {
			ft, at = ft.Elem(), at+"[]"
		}
		if ft.Kind() == reflect.Struct && ft != reflect.TypeFor[time.Time]() {
			out = append(append(out, at+": object"+absent), fields(at, ft)...)
			continue
		}
		out = append(out, at+": "+kind(ft)+absent)
	}
	return out
}

func kind(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "time"
	case t.Kind() == reflect.Map:
		return "map of " + kind(t.Elem())
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.Float64:
		return "number"
	default:
		return "integer"
	}
}

// The words for states are what programs compare with.
func TestStates(t *testing.T) {
	streams := fmt.Sprint([]StreamState{StreamIdle, StreamLive, StreamHolding})
	targets := fmt.Sprint([]TargetState{TargetIdle, TargetConnecting, TargetLive, TargetWaiting, TargetFailed})
	if streams != "[idle live holding]" || targets != "[idle connecting live waiting failed]" {
		t.Errorf("states of streams %s, of targets %s", streams, targets)
	}
}
