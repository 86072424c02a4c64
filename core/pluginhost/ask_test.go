package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/wire"
)

// A plugin is asked what is wrong with options and targets; one that cannot answer
// finds nothing, and one that ends says why.
func TestValidate(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	r := &wire.ValidateRequest{OptionsJson: []byte(`{"delay": "soon"}`), Targets: []*wire.Target{{Url: "test://ok"}, {Url: "other://"}}}
	answer, err := Validate(t.Context(), spec("serve"), r, log)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, d := range answer.GetDiagnostics() {
		paths = append(paths, d.GetPath())
	}
	if fmt.Sprint(paths) != "[options.delay targets.1.url]" {
		t.Errorf("found %v", answer)
	}
	if answer, err := Validate(t.Context(), spec("future"), r, log); err != nil || len(answer.GetDiagnostics()) > 0 {
		t.Errorf("a plugin without an answer: %v, %v", answer, err)
	}
	if _, err := Validate(t.Context(), spec("exit"), r, log); err == nil || !strings.Contains(err.Error(), "plugin test: it ended before it said hello") {
		t.Errorf("a plugin that ends: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", t.TempDir())
	s := spec("serve")
	log := slog.New(slog.DiscardHandler)
	info, err := Describe(t.Context(), s, log)
	if err != nil {
		t.Fatal(err)
	}
	if info.GetName() != "test" || info.GetVersion() != "1.2.3" || info.GetSdkVersion() != sdk.Version ||
		len(info.GetTransforms()) != 1 || info.GetMounts()[0] != "/test/" || info.GetIngest().GetSchemes()[0] != "pull" {
		t.Errorf("description %v", info)
	}
	if !strings.Contains(string(info.GetOptionsSchema()), `"delay":{"type":"string","format":"duration"}`) {
		t.Errorf("schema %s", info.GetOptionsSchema())
	}

	b, err := os.ReadFile(s.Command[0])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	s.SHA256 = hex.EncodeToString(sum[:])
	if _, err := Describe(t.Context(), s, log); err != nil {
		t.Errorf("with the right checksum: %v", err)
	}
	want := strings.Repeat("0", 64)
	got := s.SHA256
	s.SHA256 = want
	_, err = Describe(t.Context(), s, log)
	var sumErr *ChecksumError
	if !errors.As(err, &sumErr) {
		t.Fatalf("with a wrong checksum: %v", err)
	}
	for _, part := range []string{"plugin test", s.Command[0], want, got} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %q", part, err)
		}
	}
}
