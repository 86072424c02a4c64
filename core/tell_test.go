package core

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/status"
)

// lastTold are the targets as the publisher was told last.
func (c *conn) lastTold() string {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if len(c.told) == 0 {
		return "nothing"
	}
	var out []string
	for _, s := range c.told[len(c.told)-1] {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", s.Name, s.State, s.Reason)))
	}
	return strings.Join(out, "; ")
}

// A publisher hears which of the targets have his stream, and why others have not.
func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plugins{}
		g := gateway(p)
		stop := runs(t, g)
		time.Sleep(time.Second)
		told := func(c *conn, want string) {
			t.Helper()
			time.Sleep(2 * tellPause)
			if got := c.lastTold(); got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		}
		one := p.publish("studio", "t")
		one.tracks()
		one.feed(time.Second)
		told(one, "one LIVE; two LIVE") // not the one that is switched off
		if _, _, err := g.PutTarget("studio", "off", []byte(`{"url":"clip://x"}`), func(string) error { return nil }); err == nil {
			t.Error("a target of a scheme that no plugin has was taken")
		}
		if err := g.RemoveTarget("studio", "two", func(string) error { return nil }); err != nil {
			t.Fatal(err)
		}
		told(one, "one LIVE")
		p.mu.Lock()
		for c := range p.open {
			if strings.HasPrefix(c.name, "studio to one") {
				go c.end(pluginhost.End{Failed: true, Permanent: true, Cause: pluginhost.CauseRemote, Class: "key", Message: "rtmp://secret.example/k1 refused"})
			}
		}
		p.mu.Unlock()
		told(one, "one FAILED its server does not accept the stream key")
		// Who comes later hears it at once.
		two := p.publish("studio", "t")
		told(two, "one FAILED its server does not accept the stream key")
		// Nothing is told twice.
		p.mu.Lock()
		before := len(one.told)
		p.mu.Unlock()
		time.Sleep(10 * time.Second)
		p.mu.Lock()
		if len(one.told) != before {
			t.Errorf("told the same again: %v", one.told)
		}
		p.mu.Unlock()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestTargetStates(t *testing.T) {
	now := time.Now()
	soon := now.Add(time.Second)
	f := func(target status.Target, live bool, want string) {
		t.Helper()
		target.Name = "cdn"
		got := targetStates([]status.Target{target, {Name: "off", Disabled: true}}, live)
		if len(got) != 1 || got[0].State.String()+" "+got[0].Reason != want {
			t.Errorf("%+v: %v, want %s", target, got, want)
		}
	}
	failure := func(cause, class string) *status.Error {
		return &status.Error{Cause: cause, Class: class, Message: "rtmp://host/secret says no", At: now}
	}
	f(status.Target{State: status.TargetLive, LastError: failure("remote", "dns")}, true, "LIVE ")
	f(status.Target{State: status.TargetConnecting, Since: now}, true, "CONNECTING ")
	f(status.Target{State: status.TargetConnecting, Since: now.Add(time.Second), LastError: failure("remote", "refused")}, true, "WAITING nothing listens at its address")
	f(status.Target{State: status.TargetConnecting, Since: now.Add(time.Hour), LastError: failure("remote", "refused")}, true, "CONNECTING ")
	f(status.Target{State: status.TargetWaiting, NextRetry: &soon, LastError: failure("remote", "timeout")}, true, "WAITING its server does not answer")
	f(status.Target{State: status.TargetWaiting, LastError: failure("remote", "timeout")}, true, "WAITING ")
	f(status.Target{State: status.TargetIdle}, false, "WAITING ")
	f(status.Target{State: status.TargetIdle}, true, "WAITING nobody has called for the stream")
	f(status.Target{State: status.TargetFailed, LastError: failure("config", "")}, true, "FAILED its settings cannot be used")
	f(status.Target{State: status.TargetFailed, LastError: failure("remote", "other")}, true, "FAILED its server did not take the stream")
	f(status.Target{State: status.TargetFailed, LastError: failure("plugin", "")}, true, "FAILED of a fault in the gateway, which tries again")
	f(status.Target{State: status.TargetFailed, LastError: &status.Error{Cause: "config", Class: "codec", Message: "it takes h264, the stream has vp9"}}, true, "FAILED it takes h264, the stream has vp9")
	f(status.Target{State: status.TargetFailed}, true, "FAILED ")
}
