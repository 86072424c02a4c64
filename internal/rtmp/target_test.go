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
	f("rtmp://h:0/app/key", "", "port")
	f("rtmp://h:65536/app/key", "", "port")
	f("rtmp://::1/app/SECRET", "", "IPv6")
	f("rtmp://[::1/app/SECRET", "", "IPv6")
	f("rtmp://[1.2.3.4]/app/SECRET", "", "IPv6")
	f("rtmp://u:SECRET%zz@h/app/key", "", "%25")
	f("rtmp://h ost/app/SECRET", "", "host")
}

func TestRedirect(t *testing.T) {
	from := parse(t, "rtmps://u:pw@host:444/app/key", "")
	f := func(to, want string) {
		t.Helper()
		got, err := from.Redirect(secret.New(to))
		text := "error"
		if err == nil {
			text = got.String() + " " + got.App.Reveal() + " " + got.Key.Reveal() + " " + got.User
		} else if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("the error tells a secret: %v", err)
		}
		if text != want {
			t.Errorf("%s: %s, want %s", to, text, want)
		}
	}
	f("rtmps://other/app2", "rtmps://other:443 app2 key u")
	f("/app2?t=1", "rtmps://host:444 app2?t=1 key u")
	f("rtmp://other/SECRET", "error")
	f("//other/SECRET", "error")
	f("", "error")
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
