package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/wire"
)

func TestConformance(t *testing.T) {
	plugintest.TestEgress(t, sdk.EgressOf("egress-file", "1.0.0", []string{"file"}, egress{}), plugintest.EgressOptions{
		NewTarget: func(t plugintest.T) *wire.Target {
			dir := t.TempDir()
			t.Cleanup(func() { check(t, dir) })
			return &wire.Target{Name: "file", Url: "file://" + dir}
		},
		BadTarget: &wire.Target{Name: "file", Url: "file:///no/such/directory"},
	})
}

// check looks at what a target has got: Annex-B and ADTS from their first bytes on.
func check(t plugintest.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "plugintest-*"))
	if err != nil || len(files) != 2 && len(files) != 0 { // none if no session was opened
		t.Errorf("files %v, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Errorf("%v", err)
		}
		start := []byte{0, 0, 0, 1, 0x67}
		if filepath.Ext(f) == ".aac" {
			start = []byte{0xff, 0xf1}
		}
		if len(b) > 0 && !bytes.HasPrefix(b, start) {
			t.Errorf("%s begins with % x", f, b[:8])
		}
	}
}
