package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFileBytes bounds a file that the configuration names.
const maxFileBytes = 1 << 20

// streamRef stands for the stream's name in a key.
const streamRef = "${stream}"

// A fault is a finding without its place.
type fault struct{ finding, remedy string }

// sources are where references lead to.
type sources struct {
	lookup func(string) (string, bool)
	read   func(string) ([]byte, error)
	dir    string // relative files are below it
	used   map[string]bool
}

// path is where a file is that the configuration names.
func (s *sources) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(s.dir, name)
}

// file reads a file that the configuration names.
func (s *sources) file(name string) ([]byte, *fault) {
	full := s.path(name)
	b, err := s.read(full)
	switch {
	case err == nil && len(b) > maxFileBytes:
		return nil, &fault{fmt.Sprintf("the file %s is larger than 1 MiB", name), "name a smaller one"}
	case err == nil:
		return b, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, &fault{fmt.Sprintf("there is no file %s", full), "create it or correct the name (a relative name starts at the folder of the configuration)"}
	case errors.Is(err, fs.ErrPermission):
		return nil, &fault{fmt.Sprintf("no permission to read %s", full), "let the user that runs the gateway read it"}
	default:
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, &fault{fmt.Sprintf("reading %s: %v", full, err), "name a readable file"}
	}
}

// ReadFiles reads the files that the plugin's options name as they are now.
func (c *Config) ReadFiles(p *Plugin) (map[string][]byte, error) {
	read := c.read
	if read == nil {
		read = readFile
	}
	s := sources{read: read}
	out := make(map[string][]byte, len(p.FileNames))
	for _, at := range slices.Sorted(maps.Keys(p.FileNames)) {
		b, f := s.file(p.FileNames[at])
		if f != nil {
			return nil, fmt.Errorf("%s: %s; %s", at, f.finding, f.remedy)
		}
		out[at] = b
	}
	return out, nil
}

// readFile reads a regular file of at most a little more than maxFileBytes.
func readFile(name string) ([]byte, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if st.Size() > maxFileBytes {
		return make([]byte, maxFileBytes+1), nil
	}
	return os.ReadFile(name)
}

// expand resolves the references in text. ${stream} stays, $${ stands for a
// literal ${. found reports whether there was a reference other than ${stream}.
func (s *sources) expand(text string) (value string, found bool, faults []fault) {
	var b strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			b.WriteString(text)
			return b.String(), found, faults
		}
		if i > 0 && text[i-1] == '$' {
			b.WriteString(text[:i-1] + "${")
			text = text[i+2:]
			continue
		}
		b.WriteString(text[:i])
		text = text[i:]
		end := strings.IndexByte(text, '}')
		if end < 0 {
			faults = append(faults, fault{"a ${ without its }", "close it, or write $${ for the two characters themselves"})
			return b.String(), true, faults
		}
		ref, inner := text[:end+1], text[2:end]
		text = text[end+1:]
		if ref == streamRef {
			b.WriteString(ref)
			continue
		}
		found = true
		kind, name, ok := strings.Cut(inner, ":")
		switch {
		case ok && kind == "env":
			name, fallback, has := strings.Cut(name, ":-")
			s.used[name] = true
			v, set := s.lookup(name)
			switch {
			case name == "":
				faults = append(faults, fault{ref + " names no variable", "write ${env:NAME}"})
			case !set && !has:
				faults = append(faults, fault{fmt.Sprintf("the environment variable %s is not set", name),
					fmt.Sprintf("set it, or give a default: ${env:%s:-value}", name)})
			case v == "" && has:
				v = fallback
			case v == "":
				faults = append(faults, fault{fmt.Sprintf("the environment variable %s is empty", name), "set it to a value"})
			}
			b.WriteString(v)
		case ok && kind == "file":
			c, f := s.file(name)
			if f != nil {
				faults = append(faults, *f)
				continue
			}
			// Files made by editors and secret stores end in a newline.
			v := strings.TrimRight(string(c), "\r\n")
			if v == "" {
				faults = append(faults, fault{fmt.Sprintf("the file %s is empty", name), "write the value into it"})
			} else if strings.ContainsRune(v, 0) {
				faults = append(faults, fault{fmt.Sprintf("the file %s is not a text", name), "name one that contains the value alone"})
			}
			b.WriteString(v)
		default:
			faults = append(faults, fault{fmt.Sprintf("%s is no reference that the gateway knows", ref),
				"write ${env:NAME}, ${env:NAME:-default} or ${file:/path}, or $${ for the two characters themselves"})
		}
	}
}

// resolve replaces the references in every text of the document.
func (d *document) resolve(s *sources, report func(Diagnostic)) {
	var walk func(v any, p path) any
	walk = func(v any, p path) any {
		switch v := v.(type) {
		case map[string]any:
			for k, c := range v {
				v[k] = walk(c, p.child(k))
			}
		case []any:
			for i, c := range v {
				v[i] = walk(c, p.child(fmt.Sprint(i)))
			}
		case string:
			if !strings.Contains(v, "${") {
				return v
			}
			value, found, faults := s.expand(v)
			at := d.places[p.key()]
			at.reference = at.reference || found
			d.places[p.key()] = at
			for _, f := range faults {
				report(at.diagnostic(p, f))
			}
			if len(faults) > 0 {
				return unresolved
			}
			return value
		}
		return v
	}
	walk(d.root, nil)
}

// unresolved stands for a value whose reference leads nowhere; that is reported
// once, and the checks leave it alone. No text of a person's contains NUL.
const unresolved = "\x00unresolved"

// unresolvedIn reports whether options, as JSON, have a value that is [unresolved].
func unresolvedIn(options []byte) bool { return bytes.Contains(options, []byte(`\u0000unresolved`)) }

func (at place) diagnostic(p path, f fault) Diagnostic {
	return Diagnostic{File: at.file, Line: at.line, Col: at.col, Path: p.String(), Finding: f.finding, Remedy: f.remedy}
}
