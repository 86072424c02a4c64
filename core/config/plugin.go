package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	pathpkg "path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var hexSHA256 = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)

func (c *checker) plugin(ctx context.Context, name string) *Plugin {
	p := path{"plugins", name}
	m := c.mapping(p)
	if m == nil {
		return nil
	}
	if err := checkSegment(name); err != nil {
		c.key(p, fault{err.Error(), "name the plugin with letters, digits, -, _ and dots"})
		return nil
	}
	out := &Plugin{Name: name, InsecureUnpinned: c.flag(p.child("insecure_unpinned"), false)}
	out.Instances = c.count(p.child("instances"), 1)
	out.MemoryBytes = c.bytes(p.child("memory"), minMemory)
	out.Dirs = c.dirs(p.child("files"))
	out.Env = c.variables(p.child("env"))
	out.SHA256, _ = c.text(p.child("sha256"))
	_, builtIn := c.options.Catalog[name]
	switch {
	case c.present(p.child("path")):
		file, ok := c.text(p.child("path"))
		if !ok {
			return nil
		}
		// A name without a slash would be looked for in $PATH.
		var err error
		if out.Path, err = filepath.Abs(c.sources.abs(file)); err != nil {
			c.value(p.child("path"), fault{"finding the executable: " + err.Error(), "give its path from / on"})
			return nil
		}
		if builtIn {
			c.value(p.child("path"), fault{fmt.Sprintf("%s is the name of a built-in plugin", name), "give yours another name"})
			return nil
		}
		c.configured[name] = true
		if !c.pinned(p, out) || !c.describe(ctx, p, out) {
			return nil
		}
	case !builtIn:
		f := fault{"no built-in plugin has this name", "built in are " + c.list(slices.Sorted(maps.Keys(c.options.Catalog))) + "; a plugin of your own needs path and sha256"}
		if best := closest(name, slices.Collect(maps.Keys(c.options.Catalog))); best != "" {
			f.remedy = fmt.Sprintf("did you mean %q?", best)
		}
		c.key(p, f)
		return nil
	default:
		for _, k := range []string{"sha256", "insecure_unpinned"} {
			if c.present(p.child(k)) {
				c.key(p.child(k), fault{k + " is for plugins with a path", "remove it"})
			}
		}
	}
	info := c.catalog[name]
	if out.Instances > 1 && !info.GetShardable() {
		c.value(p.child("instances"), fault{name + " cannot share its sessions between processes", "remove instances"})
	}
	if !c.present(p.child("options")) {
		return out
	}
	options := c.mapping(p.child("options"))
	if options == nil {
		return out
	}
	if len(info.GetOptionsSchema()) == 0 {
		for _, k := range c.doc.keys(p.child("options"), options) {
			c.key(p.child("options").child(k), fault{fmt.Sprintf("unknown key %q", k), name + " has no options"})
		}
		return out
	}
	s, err := compileSchema(name+"/options", info.GetOptionsSchema())
	if err != nil {
		c.key(p, fault{err.Error(), "this is a fault of the plugin; report it to its author"})
		return out
	}
	errs := c.errors()
	own := c.pluginOptions(p.child("options"), options, s)
	out.Options, out.Files, out.FileNames = own.text, own.files, own.names
	c.unfit[name] = c.errors() != errs
	return out
}

// minMemory is the least that a plugin's process can be given.
const minMemory = 32 << 20

// count is the whole number at p.
func (c *checker) count(p path, otherwise int) int {
	switch n := c.get(p).(type) {
	case int64:
		return int(n)
	case uint64:
		return int(n)
	case int:
		return n
	}
	return otherwise
}

var (
	byteSize  = regexp.MustCompile(`^([0-9]{1,9})(B|KB|MB|GB|KiB|MiB|GiB)$`)
	byteUnits = map[string]int64{"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
)

// bytes is the size at p, 0 if there is none.
func (c *checker) bytes(p path, least int64) int64 {
	s, ok := c.text(p)
	if !ok {
		return 0
	}
	m := byteSize.FindStringSubmatch(s)
	if m == nil {
		c.value(p, fault{c.show(p) + " is not a size", "write a whole number and its unit, for example 256MB or 1GiB"})
		return 0
	}
	n, _ := strconv.ParseInt(m[1], 10, 64) // nine digits
	n *= byteUnits[m[2]]
	if n < least {
		c.value(p, fault{c.show(p) + " is too little", fmt.Sprintf("write at least %dMiB", least>>20)})
		return 0
	}
	return n
}

// texts are the entries of the list at p, with their places.
func (c *checker) texts(p path) (values []string, at []path) {
	list, _ := c.get(p).([]any)
	for i, v := range list {
		if s, ok := v.(string); ok && s != unresolved {
			values, at = append(values, s), append(at, p.child(strconv.Itoa(i)))
		}
	}
	return values, at
}

// dirs are the directories that the list at p names.
func (c *checker) dirs(p path) []string {
	var out []string
	values, at := c.texts(p)
	for i, name := range values {
		dir := c.sources.abs(name)
		abs, err := filepath.Abs(dir)
		var isDir bool
		if err == nil {
			isDir, err = c.options.isDir(abs)
		}
		switch {
		case err != nil:
			c.value(at[i], fault{fmt.Sprintf("looking at the directory %s: %s", dir, reason(err)), "make the directory, or correct the name (a relative name starts at the folder of the configuration)"})
		case !isDir:
			c.value(at[i], fault{dir + " is not a directory", "name the directory in which the plugin may read and write"})
		default:
			out = append(out, abs)
		}
	}
	return out
}

func isDir(name string) (bool, error) {
	st, err := os.Stat(name)
	return err == nil && st.IsDir(), err
}

// inEnvironment is what the name of a variable for a plugin may be; those of the
// gateway and of the handshake are not for giving away.
var inEnvironment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (c *checker) variables(p path) []string {
	var out []string
	values, at := c.texts(p)
	for i, name := range values {
		switch {
		case !inEnvironment.MatchString(name):
			c.value(at[i], fault{"not the name of an environment variable", "write the name alone, such as HTTPS_PROXY; the value is the gateway's own"})
		case strings.HasPrefix(name, "GATEWAY_") || strings.HasPrefix(name, "PLUGIN_"):
			c.value(at[i], fault{name + " is for the gateway itself", "name another variable, or use an option of the plugin"})
		default:
			out = append(out, name)
		}
	}
	return out
}

func (c *checker) list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// pinned checks the executable of a third-party plugin.
func (c *checker) pinned(p path, out *Plugin) bool {
	sum, err := c.options.hash(out.Path)
	if err != nil {
		c.value(p.child("path"), fault{"reading the executable: " + reason(err), "name an executable file"})
		return false
	}
	sha := p.child("sha256")
	switch {
	case out.SHA256 == "" && !c.present(sha):
		if !out.InsecureUnpinned {
			c.key(p, fault{"the executable is not pinned", "add sha256 (gateway plugins pin FILE prints it), or insecure_unpinned: true while you develop it"})
			return false
		}
		return true
	case !hexSHA256.MatchString(out.SHA256):
		c.value(sha, fault{"not a SHA-256", "write the 64 hexadecimal digits that sha256sum FILE prints"})
		return false
	case !strings.EqualFold(sum, out.SHA256):
		c.value(sha, fault{"the executable has another SHA-256, " + sum, "correct it if you trust the file as it is now (gateway plugins pin FILE prints it)"})
		return false
	}
	return true
}

func reason(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

func hashFile(name string) (string, error) {
	st, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() {
		return "", errors.New("not a regular file")
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// describe asks a third-party plugin what it is.
func (c *checker) describe(ctx context.Context, p path, out *Plugin) bool {
	if c.options.Describe == nil {
		c.key(p, fault{"third-party plugins cannot be used here", "use gateway run with a file"})
		return false
	}
	info, err := c.options.Describe(ctx, *out)
	if err != nil {
		c.key(p, fault{"asking the plugin what it is: " + err.Error(), "check that the file is a gateway plugin for this machine"})
		return false
	}
	if c.catalog == nil {
		c.catalog = Catalog{}
	}
	for _, m := range info.GetMounts() {
		if m == "/" || pathpkg.Clean(m)+"/" != m || m[0] != '/' {
			c.key(p, fault{fmt.Sprintf("it serves %q by HTTP, which is not of the form /NAME/", m), "this is a fault of the plugin; report it to its author"})
			return false
		}
	}
	for _, other := range slices.Sorted(maps.Keys(c.catalog)) {
		o := c.catalog[other]
		for _, m := range info.GetMounts() {
			// The longest prefix wins: one below another's would take from it.
			for _, taken := range o.GetMounts() {
				if strings.HasPrefix(m, taken) || strings.HasPrefix(taken, m) {
					c.key(p, fault{fmt.Sprintf("it serves %s, and %s serves %s", m, other, taken), "use one of the two"})
					return false
				}
			}
		}
		if !c.configured[other] {
			continue
		}
		for _, kinds := range [][2][]string{{info.GetEgress().GetSchemes(), o.GetEgress().GetSchemes()}, {info.GetIngest().GetSchemes(), o.GetIngest().GetSchemes()}} {
			for _, s := range kinds[0] {
				if slices.Contains(kinds[1], s) {
					c.key(p, fault{fmt.Sprintf("it serves %s:// URLs, as %s does", s, other), "use one of the two"})
					return false
				}
			}
		}
	}
	c.catalog[out.Name] = info
	return true
}

// ownOptions are options that are a plugin's own.
type ownOptions struct {
	text  []byte            // JSON
	files map[string][]byte // contents of the files that they name, by option path
	names map[string]string // paths of those
}

// pluginOptions checks options against the plugin's own schema, and reads the
// files that they name.
func (c *checker) pluginOptions(p path, options map[string]any, s *schema) (out ownOptions) {
	s.at.fit(options, p, c.doc.places)
	c.misfits(p, s.check(options))
	var walk func(v any, rel path, at cursor)
	walk = func(v any, rel path, at cursor) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				walk(v[k], rel.child(k), at.child(k))
			}
		case []any:
			for i, e := range v {
				walk(e, rel.child(strconv.Itoa(i)), at.child(""))
			}
		case string:
			full := append(slices.Clone(p), rel...)
			if strings.Contains(v, streamRef) {
				c.misplaced(full)
			}
			if v == unresolved {
				return
			}
			switch at.format() {
			case "duration": // the SDK's are Go's, other authors may want ISO 8601
				if _, err := time.ParseDuration(v); err != nil && !strings.HasPrefix(v, "P") {
					c.value(full, notDuration(c.show(full)))
				}
				return
			case "file":
			default:
				return
			}
			b, f := c.sources.file(v)
			if f != nil {
				c.value(full, *f)
				return
			}
			if out.files == nil {
				out.files, out.names = map[string][]byte{}, map[string]string{}
			}
			out.files[rel.String()], out.names[rel.String()] = b, c.sources.path(v)
		}
	}
	walk(options, nil, s.at)
	var err error
	out.text, err = json.Marshal(options)
	if err != nil {
		c.value(p, fault{"the options cannot be passed on", "use plain texts, numbers, lists and mappings"})
	}
	return out
}
