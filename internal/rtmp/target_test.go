package rtmp

import (
	"strings"
	"testing"

	"github.com/headgate/gateway/sdk/secret"
)

func TestParseTarget(t *testing.T) {
	f := func(url, key, wantAddress, wantApp, wantKey string) {
		t.Helper()
		got := parse(t, url, key)
		if got.Address() != wantAddress || got.App.Reveal() != wantApp || got.Key.Reveal() != wantKey {
			t.Errorf("%s + %q: %s app %q key %q", url, key, got.Address(), got.App.Reveal(), got.Key.Reveal())
		}
	}
	f("rtmp://host/app/key", "", "host:1935", "app", "key")
	f("rtmps://host/app/key", "", "host:443", "app", "key")
	f("RTMP://host:1234/app/key", "", "host:1234", "app", "key")
	f("rtmp://host/live/studio/key?token=a/b", "", "host:1935", "live/studio", "key?token=a/b")
	f("rtmp://host/live//key/", "", "host:1935", "live", "key")
	f("rtmp://host/app#a/key?x=1#y", "", "host:1935", "app", "a/key?x=1#y")
	f("rtmp://host/app/?x=1#key", "", "host:1935", "app?x=1", "key")
	f("rtmp://host/rtmp/", "k?s_bl=1&x=%2F", "host:1935", "rtmp", "k?s_bl=1&x=%2F")
	f("rtmps://b.example:443/live2?backup=1", "k", "b.example:443", "live2?backup=1", "k")
	f("rtmp://[::1]:1936/app/key", "", "[::1]:1936", "app", "key")
	f("rtmp://[fe80::1]/app/key", "", "[fe80::1]:1935", "app", "key")
	f(" rtmp://host/app/key\n", "", "host:1935", "app", "key")

	withUser := parse(t, "rtmp://us%40er:p%3Aa@ss@host/app/key", "")
	if withUser.User != "us@er" || withUser.Password.Reveal() != "p:a@ss" || withUser.Host != "host" {
		t.Errorf("user %q password %q host %q", withUser.User, withUser.Password.Reveal(), withUser.Host)
	}
	if tc := withUser.tcURL("app"); tc != "rtmp://host/app" {
		t.Errorf("tcUrl %q", tc)
	}
	if s := parse(t, "rtmps://u:pw@host/app/key?q", "").String(); s != "rtmps://host:443" {
		t.Errorf("String %q", s)
	}
}

func TestParseTargetErrors(t *testing.T) {
	f := func(url, key, want string) {
		t.Helper()
		_, err := ParseTarget(secret.New(url), secret.New(key))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: the error tells a secret: %v", url, err)
		}
	}
	f("", "", "want rtmp://")
	f("http://h/app/SECRET", "", "want rtmp://")
	f("rtmp:/h/app/SECRET", "", "want rtmp://")
	f("rtmp:///app/SECRET", "", "no host")
	f("rtmp://h/SECRET", "", "no stream key")
	f("rtmp://h/", "SECRET", "no app")
	f("rtmp://h", "", "no stream key")
	f("rtmp://h/app#SECRET", "SECRET", "leave one")
	f("rtmp://h:SECRET/app/key", "", "port")
	f("rtmp://h:0/app/key", "", "leave it out")
	f("rtmp://h:65536/app/key", "", "port")
	f("rtmp://::1/app/SECRET", "", "IPv6")
	f("rtmp://[::1/app/SECRET", "", "IPv6")
	f("rtmp://[1.2.3.4]/app/SECRET", "", "IPv6")
	f("rtmp://u:SECRET%zz@h/app/key", "", "%25")
	f("rtmp://h ost/app/SECRET", "", "no space")
	f("rtmp:///app/SECRET", "", "names no host; want rtmp://host/app/key")
}

// TestRedirect: where a server may send us, and so our key: to itself, its own
// registered domain, and what the user named.
func TestRedirect(t *testing.T) {
	f := func(from, to, want string, also ...string) {
		t.Helper()
		got, err := parse(t, from, "").Redirect(secret.New(to), also)
		text := "error"
		if err == nil {
			text = got.String() + " " + got.App.Reveal() + " " + got.Key.Reveal() + " " + got.User
		} else if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("the error tells a secret: %v", err)
		}
		if text != want {
			t.Errorf("%s: %s, want %s (%v)", to, text, want, err)
		}
	}
	const host = "rtmps://u:pw@a.live.example.com:444/app/key"
	f(host, "rtmps://a.live.example.com/app2", "rtmps://a.live.example.com:443 app2 key u")
	f(host, "rtmps://B.example.com./app2", "rtmps://B.example.com.:443 app2 key u")
	f(host, "/app2?t=1", "rtmps://a.live.example.com:444 app2?t=1 key u")
	f(host, "app2", "rtmps://a.live.example.com:444 app2 key u")
	f(host, "rtmps://evil.com/SECRET", "error")
	f(host, "rtmps://example.com.evil.com/SECRET", "error")
	f(host, "rtmps://evilexample.com/SECRET", "error")
	f(host, "rtmps://192.0.2.1/SECRET", "error")
	f(host, "rtmps://169.254.169.254/SECRET", "error")
	f(host, "rtmps://cdn.net/app", "rtmps://cdn.net:443 app key u", "cdn.net")
	f(host, "rtmps://x.cdn.net/app", "rtmps://x.cdn.net:443 app key u", "CDN.net")
	f(host, "rtmps://xcdn.net/SECRET", "error", "cdn.net")
	f(host, "rtmps://192.0.2.1/app", "rtmps://192.0.2.1:443 app key u", "192.0.2.1")
	f(host, "rtmp://a.live.example.com/SECRET", "error")
	f(host, "//a.live.example.com/SECRET", "error")
	// Two tenants of one public suffix are strangers.
	f("rtmp://a.co.uk/app/key", "rtmp://b.co.uk/SECRET", "error")
	f("rtmp://one.github.io/app/key", "rtmp://two.github.io/SECRET", "error")
	f("rtmp://localhost/app/key", "rtmp://otherhost/SECRET", "error")
	f("rtmp://192.0.2.1/app/key", "rtmp://192.0.2.1:1936/app2", "rtmp://192.0.2.1:1936 app2 key ")
	f("rtmp://192.0.2.1/app/key", "rtmp://192.0.2.2/SECRET", "error")
	f("rtmp://[2001:db8::1]/app/key", "rtmp://[2001:db8::2]/SECRET", "error")
}

func FuzzParseTarget(f *testing.F) {
	f.Add("rtmp://u:p@host:1935/app/key?x#y", "")
	f.Add("rtmps://[::1]/app", "key")
	f.Fuzz(func(t *testing.T, url, key string) {
		target, err := ParseTarget(secret.New(url), secret.New(key))
		if err != nil {
			return
		}
		if target.Host == "" || target.App.Empty() || target.Key.Empty() && key != "" {
			t.Errorf("%q %q: %+v", url, key, target)
		}
		if key != "" && target.Key.Reveal() != key {
			t.Errorf("key %q became %q", key, target.Key.Reveal())
		}
	})
}
