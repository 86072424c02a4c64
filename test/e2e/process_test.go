package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// processes are those of a plugin, by their name in /v1/plugins.
func (g *gateway) processes(t *testing.T, plugin string) map[string]status.Plugin {
	t.Helper()
	code, body, err := get("http://" + g.admin + "/v1/plugins")
	var list struct{ Plugins []status.Plugin }
	if err == nil && code == 200 {
		err = json.Unmarshal([]byte(body), &list)
	}
	if err != nil || code != 200 {
		t.Fatalf("/v1/plugins: %d, %v", code, err)
	}
	out := map[string]status.Plugin{}
	for _, p := range list.Plugins {
		if p.Name == plugin {
			out[p.Process] = p
		}
	}
	return out
}

// A route with isolate has plugin processes of its own: when the one dies that the
// others share, its target goes on with the same connection, and the other way round.
func TestRouteWithProcessesOfItsOwn(t *testing.T) {
	peers.Need(t, "nginx")
	cdn := peers.StartNginx(t)
	vip := strings.Replace(route("vip", fmt.Sprintf(`cdn: {url: "%s"}`, cdn.URL("a", "vip"))), "    to:\n", "    isolate: true\n    to:\n", 1)
	g := startGatewayWith(t, "  egress-rtmp: {instances: 2, memory: 256MiB}\n",
		route("studio", fmt.Sprintf(`cdn: {url: "%s"}`, cdn.URL("a", "studio")))+vip)
	p1, p2 := g.publish(t, "studio"), g.publish(t, "vip")
	before := map[string]peers.Client{}
	for _, name := range []string{"studio", "vip"} {
		g.waitTarget(t, 30*time.Second, name, "cdn", status.TargetLive)
		before[name], _ = cdn.WaitPublisher(t, 30*time.Second, "a", name)
	}
	all := g.processes(t, "egress-rtmp")
	own := all["route vip"]
	if len(all) != 3 || own.Sessions == 0 || all["1"].Sessions+all["2"].Sessions == 0 {
		t.Fatalf("processes %+v", all)
	}
	for name, p := range all {
		if p.State != "ready" || p.MemoryBytes != 256<<20 {
			t.Errorf("process %s: %+v", name, p)
		}
		if p.MemoryNote != "" {
			t.Logf("process %s: %s", name, p.MemoryNote)
		}
	}
	// kill kills a process and waits until the stream that it served is at its target
	// again; that of other is on the connection that it had.
	kill := func(pid int, stream, other string) {
		t.Helper()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		peers.Wait(t, 30*time.Second, stream+" on a new connection", func() error {
			c, _, err := cdn.Publisher("a", stream)
			if err == nil && c.ID == before[stream].ID {
				err = fmt.Errorf("still %+v", c)
			}
			before[stream] = c
			return err
		})
		if c, _, err := cdn.Publisher("a", other); err != nil || c.ID != before[other].ID {
			t.Errorf("%s noticed: %+v, %v", other, c, err)
		}
	}
	kill(own.PID, "vip", "studio")
	for _, name := range []string{"1", "2"} {
		if all[name].Sessions > 0 {
			kill(all[name].PID, "studio", "vip")
		}
	}
	all = g.processes(t, "egress-rtmp")
	if all["route vip"].Restarts != 1 || all["1"].Restarts+all["2"].Restarts != 1 || !strings.Contains(all["route vip"].LastError, "killed") {
		t.Errorf("processes %+v", all)
	}
	for _, p := range []publisher{p1, p2} {
		if err := p.healthy(); err != nil {
			t.Error(err)
		}
	}
}

// A plugin that was started by hand, as under a debugger, serves a gateway that is told
// of it, and outlives it.
func TestPluginStartedByHand(t *testing.T) {
	peers.Need(t, "nginx")
	dir, err := os.MkdirTemp("", "gw") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	const variable = "GATEWAY_PLUGIN_REATTACH"
	byHand := startBinaryWith(t, peers.Command{Args: []string{"plugin", "egress-rtmp"}, Env: []string{variable + "=1", "TMPDIR=" + dir}})
	line := byHand.Match(t, 30*time.Second, variable+`='(egress-rtmp=[^']+)'`)[1]
	cdn := peers.StartNginx(t)
	g := startGatewayOf(t, "gateway", "", route("studio", fmt.Sprintf(`cdn: {url: "%s"}`, cdn.URL("a", "x"))), variable+"="+line)
	p := g.publish(t, "studio")
	g.waitTarget(t, 30*time.Second, "studio", "cdn", status.TargetLive)
	cdn.WaitPublisher(t, 30*time.Second, "a", "x")
	for pid, line := range children(t, g.PID()) {
		if strings.HasSuffix(line, "plugin egress-rtmp") {
			t.Errorf("the gateway started a process of its own, %d", pid)
		}
	}
	if code := p.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("the publisher ended with %d", code)
	}
	if code := g.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("the gateway ended with %d", code)
	}
	if code := byHand.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("the plugin ended with %d:\n%s", code, byHand.Output())
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*", "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left %q, %v", left, err)
	}
}
