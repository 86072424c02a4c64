package nat_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pion/turn/v5"
	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/test/peers"
)

const (
	gatewayIP  = "192.168.9.2"
	publicIP   = "10.9.0.1" // of the NAT, on the publisher's side
	turnIP     = "10.9.0.3"
	turnSecret = "north"
	endpoint   = "http://" + publicIP + ":8889/whip/studio"
)

// A lab is three namespaces: gw - nat - pub.
type lab struct{ prefix string }

func newLab(t *testing.T) *lab {
	t.Helper()
	peers.Need(t, "ip", "nft", "turnserver")
	if os.Geteuid() != 0 {
		const message = "needs root, to make network namespaces"
		if os.Getenv("HEADGATE_TEST_PEERS") == "required" {
			t.Fatal(message)
		}
		t.Skip(message)
	}
	l := &lab{prefix: fmt.Sprintf("hg%d", os.Getpid())}
	t.Cleanup(func() {
		for _, n := range []string{"gw", "nat", "pub"} {
			_ = exec.Command("ip", "netns", "del", l.prefix+n).Run() // perhaps it was never made
		}
	})
	for _, n := range []string{"gw", "nat", "pub"} {
		l.sh(t, "ip", "netns", "add", l.prefix+n)
		l.ip(t, n, "link", "set", "lo", "up")
	}
	l.sh(t, "ip", "link", "add", "wg0", "netns", l.prefix+"gw", "type", "veth", "peer", "name", "wg1", "netns", l.prefix+"nat")
	l.sh(t, "ip", "link", "add", "wp0", "netns", l.prefix+"pub", "type", "veth", "peer", "name", "wp1", "netns", l.prefix+"nat")
	for _, a := range [][3]string{
		{"gw", "wg0", gatewayIP + "/24"}, {"nat", "wg1", "192.168.9.1/24"}, {"nat", "wp1", publicIP + "/24"},
		{"pub", "wp0", "10.9.0.2/24"}, {"pub", "wp0", turnIP + "/24"},
		{"gw", "wg0", "2001:db8:9::2/64"}, {"nat", "wg1", "2001:db8:9::1/64"}, {"nat", "wp1", "2001:db8:a::1/64"}, {"pub", "wp0", "2001:db8:a::2/64"},
	} {
		args := []string{"addr", "add", a[2], "dev", a[1]}
		if strings.Contains(a[2], ":") {
			args = append(args, "nodad")
		}
		l.ip(t, a[0], args...)
		l.ip(t, a[0], "link", "set", a[1], "up")
	}
	l.ip(t, "gw", "route", "add", "default", "via", "192.168.9.1")
	// The publisher's packets to the gateway's own address get as far as the NAT.
	l.ip(t, "pub", "route", "add", "default", "via", publicIP)
	l.ip(t, "gw", "-6", "route", "add", "default", "via", "2001:db8:9::1")
	l.ip(t, "pub", "-6", "route", "add", "2001:db8:9::/64", "via", "2001:db8:a::1")
	l.in(t, "nat", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	coturn := peers.Start(t, peers.Command{Name: "coturn", Path: "ip", Args: []string{
		"netns", "exec", l.prefix + "pub", "turnserver", "-n", "-L", turnIP, "-E", turnIP, "--use-auth-secret", "--static-auth-secret=" + turnSecret, "-r", "r",
		"--no-tls", "--no-dtls", "--no-cli", "--min-port", "50000", "--max-port", "50100", "--pidfile", t.TempDir() + "/pid", "--log-file", "stdout",
	}})
	coturn.Match(t, 20*time.Second, `(?i)(listener opened on|relay ports initialization done)`)
	return l
}

func (l *lab) sh(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (l *lab) ip(t *testing.T, ns string, args ...string) {
	t.Helper()
	l.sh(t, "ip", append([]string{"-n", l.prefix + ns}, args...)...)
}

func (l *lab) in(t *testing.T, ns string, args ...string) {
	t.Helper()
	l.sh(t, "ip", append([]string{"netns", "exec", l.prefix + ns}, args...)...)
}

// firewall makes the NAT: HTTP is always forwarded; the rest is as given: rules of
// forwarded ports (dnat) and of what may pass.
// IPv6 passes with open6 only.
func (l *lab) firewall(t *testing.T, dnat, pass string, open6 bool) {
	t.Helper()
	rules := `flush ruleset
table ip nat {
	chain post {
		type nat hook postrouting priority 100
		oifname "wp1" masquerade fully-random
	}
	chain pre {
		type nat hook prerouting priority -100
		iifname "wp1" tcp dport 8889 dnat to ` + gatewayIP + `
		` + dnat + `
	}
}
table ip filter {
	chain forward {
		type filter hook forward priority 0
		tcp dport 8889 accept
		tcp sport 8889 accept
		` + pass + `
		ct state established,related accept
		ct status dnat accept
		iifname "wp1" drop
	}
}
`
	if !open6 {
		rules += "table ip6 filter {\n chain forward {\n type filter hook forward priority 0\n drop\n }\n}\n"
	}
	cmd := exec.Command("ip", "netns", "exec", l.prefix+"nat", "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s\n%s", err, out, rules)
	}
}

func (l *lab) start(t *testing.T, ns, role string, cfg any) *peers.Process {
	t.Helper()
	b, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return peers.Start(t, peers.Command{
		Name: role, Path: "ip", Args: []string{"netns", "exec", l.prefix + ns, self}, Env: []string{role + "=" + string(b)},
	})
}

// gatewayConfig is what the gateway is told, as JSON reads it: session.Config.
type gatewayConfig map[string]any

func (c gatewayConfig) with(key string, value any) gatewayConfig {
	out := gatewayConfig{key: value}
	for k, v := range c {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// Every way across NATs and firewalls that the gateway offers is the one that is
// taken where no other leads; and where none leads, the gateway says why.
func TestNAT(t *testing.T) {
	l := newLab(t)
	plain := gatewayConfig{"UDP": ":8189", "TCP": "off"}
	static := plain.with("PublicIPs", []string{publicIP})
	const (
		forwardUDP = `iifname "wp1" udp dport 8189 dnat to ` + gatewayIP
		forwardTCP = `iifname "wp1" tcp dport 8189 dnat to ` + gatewayIP
		turnTCP    = `iifname "wp1" tcp dport 3479 dnat to ` + gatewayIP
		noUDP      = `meta l4proto udp drop`
	)
	gatewayTURN := func(transport string) []map[string]any {
		return []map[string]any{{"URL": "turn:" + turnIP + ":3478?transport=" + transport, "Secret": turnSecret}}
	}
	// As the publisher's own operator makes them: a second opinion on our own.
	user, password, err := turn.GenerateLongTermTURNRESTCredentials(turnSecret, "publisher", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ownTURN := []webrtc.ICEServer{{URLs: []string{"turn:" + turnIP + ":3478?transport=udp"}, Username: user, Credential: password}}
	for _, c := range []struct {
		name       string
		dnat, pass string
		gateway    gatewayConfig
		publisher  publisherConfig
		want       string // of the publisher's pair
	}{
		{"nothing is forwarded", "", "", plain, publisherConfig{}, `local udp host remote udp (prflx|host)`},
		{"forwarded, fixed address", forwardUDP, "", static, publisherConfig{}, `local udp host remote udp host ` + publicIP},
		{"forwarded, address by STUN", forwardUDP, "", plain.with("STUN", []string{turnIP + ":3478"}), publisherConfig{}, `local udp host remote udp host ` + publicIP},
		{"UDP blocked but for TURN: gateway by TURN over UDP", "", "udp dport 3478 accept\nudp sport 3478 accept\n" + noUDP, plain.with("TURN", gatewayTURN("udp")), publisherConfig{}, `remote udp relay ` + turnIP},
		{"UDP blocked: gateway by TURN over TCP", "", noUDP, plain.with("TURN", gatewayTURN("tcp")), publisherConfig{}, `remote udp relay ` + turnIP},
		{"publisher by TURN only", forwardUDP, "", static, publisherConfig{Relay: true, ICEServers: ownTURN}, `local udp relay`},
		{"UDP blocked: ICE over TCP", forwardTCP, noUDP, static.with("TCP", ""), publisherConfig{TCP: true}, `remote tcp host ` + publicIP},
		{"UDP blocked: the gateway's own TURN server over TCP", turnTCP, noUDP, static.with("Relay", ":3479"), publisherConfig{}, `local udp relay`},
		{"everything is blocked", "", noUDP, static, publisherConfig{}, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.firewall(t, c.dnat, c.pass, false)
			gateway := l.start(t, "gw", gatewayRole, c.gateway)
			gateway.Match(t, 20*time.Second, `GATEWAY READY`)
			c.publisher.URL = endpoint
			publisher := l.start(t, "pub", publisherRole, c.publisher)
			if c.want == "" {
				why := gateway.Match(t, 40*time.Second, `publisher lost.*reason="([^"]*)`)[1]
				if !strings.Contains(why, "no packet of the publisher has arrived at the UDP port 8189 of "+publicIP) {
					t.Errorf("the gateway says %q", why)
				}
				return
			}
			pair := publisher.Match(t, 40*time.Second, `PAIR (.*)`)[1]
			gateway.Match(t, 40*time.Second, `UNITS 50`)
			t.Log(pair)
			publisher.Match(t, time.Second, `PAIR .*`+c.want)
		})
	}
	t.Run("IPv6 only", func(t *testing.T) {
		l.firewall(t, "", "", true)
		gateway := l.start(t, "gw", gatewayRole, plain.with("Networks", []string{"2001:db8::/32"}))
		gateway.Match(t, 20*time.Second, `GATEWAY READY`)
		publisher := l.start(t, "pub", publisherRole, publisherConfig{URL: "http://[2001:db8:9::2]:8889/whip/studio"})
		t.Log(publisher.Match(t, 40*time.Second, `PAIR (.*remote udp host 2001:db8:9::2)`)[1])
		gateway.Match(t, 40*time.Second, `UNITS 50`)
	})
	// The publisher's address goes and another comes, as from one network to the next:
	// one session, before and after.
	t.Run("publisher changes his address", func(t *testing.T) {
		l.firewall(t, forwardUDP, "", false)
		gateway := l.start(t, "gw", gatewayRole, static)
		gateway.Match(t, 20*time.Second, `GATEWAY READY`)
		publisher := l.start(t, "pub", publisherRole, publisherConfig{URL: endpoint})
		gateway.Match(t, 40*time.Second, `UNITS 50`)
		l.move(t)
		before := len(gateway.Output())
		if err := publisher.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		publisher.Match(t, 60*time.Second, `RESTART <nil>`)
		goesOn(t, gateway, before)
	})
	// The same with the publish page, which has to notice by itself.
	t.Run("the page follows a change of address", func(t *testing.T) {
		peers.Need(t, "chromium")
		l.firewall(t, forwardUDP, "", false)
		gateway := l.start(t, "gw", gatewayRole, static)
		gateway.Match(t, 20*time.Second, `GATEWAY READY`)
		browser := l.start(t, "pub", browserRole, strings.Replace(endpoint, "/whip/", "/publish/", 1)+"?source=canvas&start=1")
		browser.Match(t, 60*time.Second, `PAGE live`)
		gateway.Match(t, 40*time.Second, `UNITS 50`)
		l.move(t)
		before := len(gateway.Output())
		// By a way that Chromium finds itself, or by the page's restart of ICE.
		waitFor(t, "media after the change", func() bool { return strings.Count(gateway.Output()[before:], "UNITS") >= 30 })
		if out := gateway.Output()[before:]; strings.Contains(out, "publisher lost") || strings.Contains(out, "publisher connecting") {
			t.Error("the session was lost")
		} else {
			t.Logf("ICE was restarted: %v", strings.Contains(out, "publisher restarts ICE"))
		}
		waitFor(t, "the page to be live", func() bool {
			out := browser.Output()
			return strings.LastIndex(out, "PAGE live") >= strings.LastIndex(out, "PAGE reconnecting")
		})
	})
}

// move takes the publisher's address away and gives him another, until the test ends.
func (l *lab) move(t *testing.T) {
	t.Helper()
	swap := func(from, to string) {
		l.ip(t, "pub", "addr", "del", from+"/24", "dev", "wp0")
		// With the first address of a network go the others of it, and the routes by it.
		for _, a := range []string{to, turnIP} {
			_ = exec.Command("ip", "-n", l.prefix+"pub", "addr", "add", a+"/24", "dev", "wp0").Run() // it may be there
		}
		_ = exec.Command("ip", "-n", l.prefix+"pub", "route", "add", "default", "via", publicIP).Run()
	}
	swap("10.9.0.2", "10.9.0.7")
	t.Cleanup(func() { swap("10.9.0.7", "10.9.0.2") })
}

// goesOn waits until the gateway has restarted ICE and media have come again, in the
// same session.
func goesOn(t *testing.T, gateway *peers.Process, before int) {
	t.Helper()
	gateway.Match(t, 30*time.Second, `publisher restarts ICE`)
	at := strings.LastIndex(gateway.Output(), "publisher restarts ICE")
	waitFor(t, "media after the change", func() bool { return strings.Count(gateway.Output()[at:], "UNITS") >= 3 })
	if out := gateway.Output()[before:]; strings.Contains(out, "publisher lost") || strings.Contains(out, "publisher connecting") {
		t.Error("the session was lost")
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
