package wire

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	wirePage = "../../docs/wire.md"
	begin    = "<!-- reference: go test ./sdk/wire -run WirePage -rewrite -->"
)

// The page of the contract has every message and field, as gateway.proto says it.
func TestWirePage(t *testing.T) {
	proto, err := os.ReadFile("gateway.proto")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(wirePage)
	if err != nil {
		t.Fatal(err)
	}
	prose, have, ok := strings.Cut(string(page), begin)
	if !ok {
		t.Fatalf("%s has no line %s", wirePage, begin)
	}
	want := "\n\n" + reference(string(proto))
	if have != want {
		if rewriting() {
			if err := os.WriteFile(wirePage, []byte(prose+begin+want), 0o644); err != nil {
				t.Fatal(err)
			}
		} else {
			t.Errorf("the reference in %s is not that of gateway.proto; run go test ./sdk/wire -run WirePage -rewrite", wirePage)
		}
	}
	// Every kind of message has its place in the order of things too.
	for _, m := range []protoreflect.MessageDescriptor{(&HostMsg{}).ProtoReflect().Descriptor(), (&PluginMsg{}).ProtoReflect().Descriptor()} {
		for i := range m.Fields().Len() {
			if name := string(m.Fields().Get(i).Message().Name()); !strings.Contains(prose, "`"+name) {
				t.Errorf("%s does not say when %s is sent", wirePage, name)
			}
		}
	}
	// And the reference is of the code, not only of a text beside it.
	for _, line := range describeWire(File_gateway_proto) {
		f := strings.Fields(line)
		name := f[len(f)-3]
		if strings.Contains(line, " in ") && len(f) > 5 && f[len(f)-2] == "in" {
			name = f[len(f)-5]
		}
		if f[0] == "message" && !strings.Contains(f[1], "Entry:") && !strings.Contains(want, "`"+name+"`") {
			t.Errorf("the reference lacks %s of %s", name, f[1])
		}
	}
}

var (
	declaration = regexp.MustCompile(`^(message|enum|service) (\w+) \{(.*)$`)
	member      = regexp.MustCompile(`^(?:(repeated) )?([\w.<>, ]+?) (\w+) = (\d+);(?:\s*//\s*(.*))?$`)
	value       = regexp.MustCompile(`^(\w+) = (\d+);(?:\s*//\s*(.*))?$`)
	method      = regexp.MustCompile(`^rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\);`)
	section     = regexp.MustCompile(`^// ---- (.*)$`)
)

// reference returns the messages of a .proto as a page.
func reference(proto string) string {
	var b strings.Builder
	var comment []string
	depth := 0
	header := ""
	row := func(columns ...string) {
		if header != "" {
			b.WriteString(header)
			header = ""
		}
		b.WriteString("| " + strings.Join(columns, " | ") + " |\n")
	}
	note := func(trailing string) string {
		text := strings.Join(append(comment, trailing), " ")
		comment = nil
		return strings.TrimSpace(text)
	}
	open := func(m []string) {
		title := map[string]string{"message": "", "enum": "enum ", "service": "service "}[m[1]]
		fmt.Fprintf(&b, "\n### %s%s\n\n", title, m[2])
		if text := note(""); text != "" {
			b.WriteString(text + "\n\n")
		}
		header = map[string]string{
			"message": "| field | type | number | |\n|---|---|---|---|\n",
			"enum":    "| value | number | |\n|---|---|---|\n",
			"service": "| call | takes | returns | |\n|---|---|---|---|\n",
		}[m[1]]
	}
	for _, line := range strings.Split(proto, "\n") {
		line = strings.TrimSpace(line)
		if m := section.FindStringSubmatch(line); m != nil {
			fmt.Fprintf(&b, "\n## Messages %s\n", m[1])
			comment = nil
			continue
		}
		switch m := declaration.FindStringSubmatch(line); {
		case strings.HasPrefix(line, "//"):
			comment = append(comment, strings.TrimSpace(strings.TrimPrefix(line, "//")))
		case line == "":
			comment = nil
		case m != nil:
			open(m)
			if f := member.FindStringSubmatch(strings.TrimSuffix(strings.TrimSpace(m[3]), " }")); f != nil {
				row("`"+f[3]+"`", f[2], f[4], "")
			} else if !strings.Contains(m[3], "}") {
				depth++
			}
		case strings.HasPrefix(line, "oneof "):
			depth++
		case line == "}":
			depth--
			comment = nil
		case method.MatchString(line):
			f := method.FindStringSubmatch(line)
			row("`"+f[1]+"`", f[2]+f[3], f[4]+f[5], note(""))
		case value.MatchString(line):
			f := value.FindStringSubmatch(line)
			row("`"+f[1]+"`", f[2], note(f[3]))
		case member.MatchString(line):
			f := member.FindStringSubmatch(line)
			row("`"+f[3]+"`", strings.TrimSpace(f[1]+" "+f[2]), f[4], note(f[5]))
		}
	}
	return strings.TrimSpace(b.String()) + "\n"
}
