package sdk

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// A Checker is a type of options that knows of mistakes which the types of its
// fields do not tell: that a passphrase is too short, or that one option needs
// another. Check is called on options that were just decoded, the plugin's own and
// those of targets: while the gateway reads its configuration, when a target is
// given by the API, and where the plugin decodes them itself. It opens nothing and
// takes no time.
//
// The gateway shows the error to whoever wrote the options. One that begins with the
// name of an option and a colon is shown at the line of that option; what to do
// stands behind a semicolon: "latency: too long; want at most 8s".
// [errors.Join] tells of several.
type Checker interface {
	Check() error
}

// A TargetChecker is an Egress that knows what is wrong with a target before it is
// opened. CheckTarget is called as [Checker.Check] is, with options that can be
// decoded, and its errors are shown likewise; "url" and "key" are names of options
// too.
type TargetChecker interface {
	CheckTarget(t Target) error
}

// A SourceChecker is a [Puller] that knows what is wrong with a URL before it is asked to
// pull it. CheckSource is called as [Checker.Check] is, and its errors are shown likewise,
// at the URL.
type SourceChecker interface {
	CheckSource(source secret.String) error
}

// Validate says what is wrong with options, with targets and with sources, as the plugin
// does on the wire. It opens nothing.
func Validate(p Plugin, r *wire.ValidateRequest) *wire.ValidateResponse {
	schema := schemaOf(p.Options)
	v := validation{out: &wire.ValidateResponse{}, hide: secret.Redact(secret.InOptions(schema, r.GetOptionsJson())...)}
	v.look("options", "options", "see the plugin's options", schema, func() error {
		return checkOptions(r.GetOptionsJson(), r.GetFiles(), p.Options)
	})
	for i, t := range r.GetTargets() {
		v.target(p.Egress, fmt.Sprintf("targets.%d", i), t)
	}
	for i, url := range r.GetSources() {
		v.source(p.Ingest, fmt.Sprintf("sources.%d", i), url)
	}
	return v.out
}

// A validation collects what is wrong.
type validation struct {
	hide secret.Redaction
	out  *wire.ValidateResponse
}

func (v *validation) target(e *EgressPlugin, path string, t *wire.Target) {
	if e == nil {
		v.report(path, "the plugin sends to no targets", "use another plugin")
		return
	}
	schema := schemaOf(e.TargetOptions)
	v.hide = secret.Redact(append(secret.InOptions(schema, t.GetOptionsJson()), t.GetUrl(), t.GetKey())...)
	v.scheme(path+".url", t.GetUrl(), e.Schemes)
	sound := v.look(path, path+".options", "see the plugin's target options", schema, func() error {
		return checkOptions(t.GetOptionsJson(), t.GetFiles(), e.TargetOptions)
	})
	if c, ok := e.Egress.(TargetChecker); ok && sound {
		v.look(path, path, "see the plugin's target options", schema, func() error { return c.CheckTarget(targetOf(t)) })
	}
}

func (v *validation) source(in *IngestPlugin, path, url string) {
	if in == nil || len(in.Schemes) == 0 {
		v.report(path, "the plugin pulls no URL", "use another plugin")
		return
	}
	v.hide = secret.Redact(url)
	if c, ok := in.Ingest.(SourceChecker); v.scheme(path, url, in.Schemes) && ok {
		v.look(path, path, "see the page of the plugin", nil, func() error { return c.CheckSource(secret.New(url)) })
	}
}

// scheme looks at the scheme of a URL: the rest is as each protocol wants it.
func (v *validation) scheme(path, url string, served []string) bool {
	scheme, _, ok := strings.Cut(url, ":")
	switch {
	case !ok:
		v.report(path, "the URL has no scheme", fmt.Sprintf("begin it with one of %v", served))
		return false
	case !slices.Contains(served, strings.ToLower(scheme)):
		v.report(path, fmt.Sprintf("scheme %q is not served", scheme), fmt.Sprintf("use one of %v", served))
		return false
	}
	return true
}

// look calls the author's code and reports what that says: of an option that the
// schema has at its path, and else at whole.
func (v *validation) look(path, whole, remedy string, schema []byte, check func() error) bool {
	err := guard(context.Background(), 0, v.hide, check)
	for _, err := range each(err) {
		at, finding, rest := whole, v.hide.Text(err.Error()), remedy
		if option, text, ok := strings.Cut(finding, ": "); ok {
			switch {
			case path != "options" && path == whole && (option == "url" || option == "key"):
				at, finding = path+"."+option, text
			case !has(schema, option):
			case path == "options":
				at, finding = path+"."+option, text
			default:
				at, finding = path+".options."+option, text
			}
		}
		if text, what, ok := strings.Cut(finding, "; "); ok {
			finding, rest = text, what
		} else if strings.HasPrefix(finding, "want ") {
			finding, rest = "the plugin cannot use this", finding
		}
		if what, ok := strings.CutPrefix(rest, "want "); ok {
			rest = "write " + what
		}
		v.report(at, finding, rest)
	}
	return err == nil
}

// has reports whether a schema has the option that a path begins with.
func has(schema []byte, path string) bool {
	var s struct {
		Properties map[string]any `json:"properties"`
	}
	name, _, _ := strings.Cut(path, ".")
	return json.Unmarshal(schema, &s) == nil && s.Properties[name] != nil
}

// each is the errors that err consists of.
func each(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

func (v *validation) report(path, finding, remedy string) {
	v.out.Diagnostics = append(v.out.Diagnostics, &wire.Diagnostic{Path: path, Finding: finding, Remedy: remedy})
}

// checkOptions decodes raw into a fresh value of the type that prototype points to.
func checkOptions(raw []byte, files map[string][]byte, prototype any) error {
	if prototype == nil {
		prototype = &struct{}{}
	}
	v := reflect.New(reflect.TypeOf(prototype).Elem()).Interface()
	if err := decode(raw, files, v); err != nil {
		return err
	}
	return checked(v)
}

// checked asks options whether they are sound, if they can tell.
func checked(v any) error {
	if c, ok := v.(Checker); ok {
		return c.Check()
	}
	return nil
}
