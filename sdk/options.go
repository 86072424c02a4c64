package sdk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/invopop/jsonschema"

	"github.com/headgate/gateway/sdk/secret"
)

// schemaOf returns the JSON Schema of the struct that v points to, or nil if v is nil.
func schemaOf(v any) []byte {
	if v == nil {
		return nil
	}
	r := jsonschema.Reflector{
		Anonymous:                  true,
		ExpandedStruct:             true,
		DoNotReference:             true,
		RequiredFromJSONSchemaTags: true,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			switch t {
			case reflect.TypeFor[File]():
				return &jsonschema.Schema{Type: "string", Format: "file"}
			case reflect.TypeFor[time.Duration]():
				return &jsonschema.Schema{Type: "string", Format: "duration"}
			case reflect.TypeFor[secret.String]():
				return &jsonschema.Schema{Type: "string", Format: "password", WriteOnly: true}
			default:
				return nil
			}
		},
	}
	b, err := r.Reflect(v).MarshalJSON()
	if err != nil {
		panic(fmt.Sprintf("sdk: schema of %T: %v", v, err)) // the type cannot be an option
	}
	return b
}

// decodeOptions decodes raw strictly into v, as [decode] does, and asks v whether it is
// sound.
func decodeOptions(raw []byte, files map[string][]byte, v any) error {
	if err := decode(raw, files, v); err != nil {
		return fmt.Errorf("decoding options: %w", err)
	}
	return checked(v)
}

// decode decodes raw strictly into v. Durations are texts in it, and a [File] is its
// name, whose content is taken from files by option path. Nothing in raw leaves v as
// it is.
func decode(raw []byte, files map[string][]byte, v any) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return err
	}
	tree, err := shape(tree, reflect.TypeOf(v), "", files)
	if err != nil {
		return err
	}
	b, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	strict := json.NewDecoder(bytes.NewReader(b))
	strict.DisallowUnknownFields()
	return strict.Decode(v)
}

// shape returns the value at path in the form in which encoding/json decodes it
// into type t.
func shape(v any, t reflect.Type, path string, files map[string][]byte) (any, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[File]():
		name, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%s: want the name of a file", path)
		}
		return File{Name: name, Content: files[path]}, nil
	case reflect.TypeFor[time.Duration]():
		text, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%s: want a duration such as 250ms", path)
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("%s: want a duration such as 250ms, got %q", path, text)
		}
		return int64(d), nil
	}
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			et, ok := elem(t, key)
			if !ok {
				continue // the strict decoder says what is wrong with it
			}
			shaped, err := shape(value, et, join(path, key), files)
			if err != nil {
				return nil, err
			}
			v[key] = shaped
		}
	case []any:
		if t.Kind() != reflect.Slice && t.Kind() != reflect.Array {
			return v, nil
		}
		for i, value := range v {
			shaped, err := shape(value, t.Elem(), join(path, strconv.Itoa(i)), files)
			if err != nil {
				return nil, err
			}
			v[i] = shaped
		}
	}
	return v, nil
}

// elem returns the type of the member key of t, a map or a struct.
func elem(t reflect.Type, key string) (reflect.Type, bool) {
	switch t.Kind() {
	case reflect.Map:
		return t.Elem(), true
	case reflect.Struct:
		for _, f := range reflect.VisibleFields(t) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" {
				name = f.Name
			}
			if name == key {
				return f.Type, true
			}
		}
	}
	return nil, false
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
