package main

import (
	"testing"

	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/wire"
)

func TestConformance(t *testing.T) {
	plugintest.TestEgress(t, plugin(), plugintest.EgressOptions{
		NewTarget: func(t plugintest.T) *wire.Target { return &wire.Target{Url: "file://" + t.TempDir()} },
		BadTarget: &wire.Target{Url: "file:///no/such/directory"},
	})
}
