package sdk

import (
	"errors"
	"fmt"
	"path"
	"runtime/debug"
	"slices"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// Version of the SDK.
const Version = "0.1.0"

// Describe returns what the plugin says of itself on the wire. It opens nothing.
func Describe(p Plugin) *wire.DescribeResponse {
	r := &wire.DescribeResponse{
		Name:          p.Name,
		Version:       p.Version,
		SdkVersion:    Version,
		BuildId:       buildID(),
		OptionsSchema: schemaOf(p.Options),
		Shardable:     p.Shardable,
	}
	if p.Ingest != nil {
		r.Ingest = &wire.IngestInfo{Schemes: p.Ingest.Schemes, Codecs: codecNames(p.Ingest.Codecs)}
		r.Mounts = p.Ingest.Mounts
	}
	if p.Egress != nil {
		r.Egress = &wire.EgressInfo{
			Schemes:      p.Egress.Schemes,
			Accepts:      acceptsMessage(p.Egress.Accepts),
			TargetSchema: schemaOf(p.Egress.TargetOptions),
			OpensEarly:   p.Egress.OpensEarly,
			CodecsOption: p.Egress.CodecsOption,
		}
		for _, preset := range p.Egress.Presets {
			r.Egress.Presets = append(r.Egress.Presets, preset.message())
		}
	}
	for _, t := range p.Transforms {
		r.Transforms = append(r.Transforms, &wire.TransformInfo{From: string(t.From), To: string(t.To)})
	}
	return r
}

// check returns what is wrong with p, for its author.
func (p Plugin) check() error {
	var errs []error
	if p.Name == "" || p.Version == "" {
		errs = append(errs, errors.New("a plugin needs Name and Version"))
	}
	if p.Ingest == nil && p.Egress == nil && len(p.Transforms) == 0 {
		errs = append(errs, errors.New("a plugin needs an Ingest, an Egress or a Transform"))
	}
	if p.Ingest != nil {
		if p.Shardable && len(p.Ingest.Mounts) > 0 {
			errs = append(errs, errors.New("a plugin with mounts cannot be shardable: HTTP requests have one process to go to"))
		}
		for _, m := range p.Ingest.Mounts {
			if m == "/" || path.Clean(m)+"/" != m || m[0] != '/' {
				errs = append(errs, fmt.Errorf("the mount %q is not of the form /NAME/", m))
			}
		}
		if p.Ingest.Ingest == nil {
			errs = append(errs, errors.New("IngestPlugin.Ingest is nil"))
		} else if _, ok := p.Ingest.Ingest.(Puller); !ok && len(p.Ingest.Schemes) > 0 {
			errs = append(errs, fmt.Errorf("ingest declares schemes but %T is no Puller", p.Ingest.Ingest))
		}
	}
	if p.Egress != nil {
		if p.Egress.Egress == nil {
			errs = append(errs, errors.New("EgressPlugin.Egress is nil"))
		}
		if len(p.Egress.Schemes) == 0 {
			errs = append(errs, errors.New("an egress needs at least one URL scheme"))
		}
		for _, preset := range p.Egress.Presets {
			if err := preset.check(); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for _, t := range p.Transforms {
		if t.Open == nil || t.To == "" || t.From == "" && t.To.Kind() != media.Audio {
			errs = append(errs, errors.New("a transform needs From, To and Open; one without From makes sound"))
		}
	}
	return errors.Join(errs...)
}

// buildID names the source that the binary was built from; empty if unknown.
func buildID() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var revision, modified string
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				modified = "+"
			}
		}
	}
	return revision + modified
}

func acceptsMessage(a Accepts) *wire.Accepts {
	return &wire.Accepts{
		Codecs:      codecNames(a.Codecs),
		VideoTracks: uint32(max(a.VideoTracks, 0)),
		AudioTracks: uint32(max(a.AudioTracks, 0)),

		OptionalCodecs: codecNames(a.Optional),
	}
}

func codecNames(codecs []media.Codec) []string {
	names := make([]string, 0, len(codecs))
	for c := range slices.Values(codecs) {
		names = append(names, string(c))
	}
	return names
}
