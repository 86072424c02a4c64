package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// The status page in a browser shows what runs and what is wrong, under a policy
// that lets it do nothing else, and its switch works.
func TestStatusPage(t *testing.T) {
	peers.Need(t, "chromium")
	// The name must not run as a script, whatever an error says.
	g := startPlainGateway(t, `  studio:
    from: {url: "clip:"}
    to:
      down: {url: "rtmp://127.0.0.1:1/app/<script>document.title='broken'</script>"}
`)
	c := peers.StartChromium(t)
	c.Open(t, "http://"+g.admin+"/")
	text := func(want string) {
		t.Helper()
		peers.Wait(t, 30*time.Second, "the page to show "+want, func() error {
			var got string
			if err := c.TryEval("document.body.innerText", &got); err != nil {
				return err
			}
			if !strings.Contains(got, want) {
				return fmt.Errorf("it shows:\n%s", got)
			}
			return nil
		})
	}
	text("studio")
	text("h264 640x360")
	text("down")
	text("refused")
	text("keeps trying")
	text("egress-rtmp")
	// The button that the keyboard is at stays so when the page is drawn anew.
	var held string
	c.Eval(t, `new Promise(done => {
		document.querySelector("#streams button").focus();
		const before = document.activeElement;
		new MutationObserver(() => setTimeout(() => {
			if (before.isConnected) return;
			done(document.activeElement.dataset.target);
		})).observe(document.querySelector("#streams"), {childList: true});
	})`, &held)
	if held != "studio/down" {
		t.Errorf("the keyboard is at %q", held)
	}
	c.Click(t, "#streams button")
	peers.Wait(t, 30*time.Second, "the target to be switched off", func() error {
		got, err := g.target("studio", "down")
		if err == nil && (!got.Disabled || got.State != status.TargetIdle) {
			err = errors.New("it is " + string(got.State))
		}
		return err
	})
	text("Switch on")
	var title string
	c.Eval(t, "document.title", &title)
	if title != "Headgate" {
		t.Errorf("the title is %q", title)
	}
	// What the policy forbids is refused by the browser.
	var ran bool
	c.Eval(t, `new Promise(done => {
		const s = document.createElement("script");
		s.textContent = "window.ran = true";
		document.body.append(s);
		setTimeout(() => done(window.ran === true), 100);
	})`, &ran)
	if ran {
		t.Error("a script that is not the page's own ran")
	}
}

// With a token the page asks for it, and nothing is shown without.
func TestStatusPageWithToken(t *testing.T) {
	peers.Need(t, "chromium")
	const secret = "canary-admin-token"
	listen, admin := peers.FreeAddr(t), peers.FreeAddr(t)
	file := t.TempDir() + "/gateway.yaml"
	text := fmt.Sprintf("listen: %s\nadmin: %s\nadmin_token: %s\nplugins:\n  ingest-webrtc: {options: {udp: \"127.0.0.1:%d\"}}\nroutes:\n  hidden-stream: {publish: {token: t}, to: {a: {url: \"rtmp://127.0.0.1:1/a/b\"}}}\n",
		listen, admin, secret, peers.FreePort(t))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &gateway{listen: listen, admin: admin, file: file}
	g.Process = startBinary(t, "run", file)
	g.waitReady(t)
	if code, body, err := get("http://" + admin + "/v1/streams"); err != nil || code != http.StatusUnauthorized {
		t.Errorf("%d %s %v", code, body, err)
	}
	c := peers.StartChromium(t)
	c.Open(t, "http://"+admin+"/")
	shows := func(want string) {
		t.Helper()
		peers.Wait(t, 30*time.Second, "the page to show "+want, func() error {
			var got string
			if err := c.TryEval("document.body.innerText", &got); err != nil {
				return err
			}
			if !strings.Contains(got, want) {
				return fmt.Errorf("it shows:\n%s", got)
			}
			return nil
		})
	}
	shows("admin_token")
	if got := c.Text(t); strings.Contains(got, "hidden-stream") {
		t.Errorf("without a token it shows:\n%s", got)
	}
	var ok bool
	c.Eval(t, `(() => { document.querySelector("#token").value = "`+secret+`"; document.querySelector("#login button").click(); return true })()`, &ok)
	shows("hidden-stream")
}
