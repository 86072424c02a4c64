package core

import (
	"slices"
	"testing"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/sdk/wire"
)

// An ingest with an address of its own runs only where the configuration names it:
// nobody's port is taken unasked.
func TestOffering(t *testing.T) {
	specs := []pluginhost.Spec{
		{Name: "by-http", Info: &wire.DescribeResponse{Ingest: &wire.IngestInfo{}, Mounts: []string{"/whip/"}}},
		{Name: "by-port", Info: &wire.DescribeResponse{Ingest: &wire.IngestInfo{}}},
		{Name: "out", Info: &wire.DescribeResponse{Egress: &wire.EgressInfo{}}},
	}
	route := config.Route{Name: "a"}
	check := func(cfg *config.Config, want ...string) {
		t.Helper()
		if got := offering(cfg, specs); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	check(&config.Config{Routes: []config.Route{route}}, "by-http")
	check(&config.Config{Routes: []config.Route{route}, Plugins: []config.Plugin{{Name: "by-port"}}}, "by-http", "by-port")
	check(&config.Config{Routes: []config.Route{{Name: "b", From: &config.From{}}}})
}
