package endpoint

import "testing"

func TestCheck(t *testing.T) {
	f := func(address, want string) {
		t.Helper()
		got := ""
		if err := Check("listen", address); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
	f("", "")
	f(":1935", "")
	f("127.0.0.1:0", "")
	f("[::1]:65535", "")
	f("gateway.example:1935", "")
	f("1935", `listen: "1935" is not an address; want host:port, or :port for every address of this machine`)
	f("rtmp://0.0.0.0:1935", `listen: "rtmp://0.0.0.0:1935" is not an address; want host:port, or :port for every address of this machine`)
	f("::1:1935", `listen: "::1:1935" is not an address; want host:port, or :port for every address of this machine`)
	f(":65536", `listen: ":65536" has no valid port; want a port from 1 to 65535`)
	f("host:", `listen: "host:" has no valid port; want a port from 1 to 65535`)
	f("host:rtmp", `listen: "host:rtmp" has no valid port; want a port from 1 to 65535`)
	f("host:-1", `listen: "host:-1" has no valid port; want a port from 1 to 65535`)
}

func TestApart(t *testing.T) {
	f := func(a, b string, same bool) {
		t.Helper()
		if err := Apart("tls.listen", a, "listen", b); (err != nil) != same {
			t.Errorf("%q and %q: %v", a, b, err)
		}
	}
	f("127.0.0.1:1935", "127.0.0.1:1935", true)
	f("0.0.0.0:1935", "127.0.0.1:1935", true)
	f(":1935", "[::1]:1935", true)
	f("127.0.0.1:1935", "127.0.0.2:1935", false)
	f("127.0.0.1:1935", "127.0.0.1:1936", false)
	f("127.0.0.1:0", "127.0.0.1:0", false)
	f("", "127.0.0.1:1935", false)
	f("1935", "1935", false)
}
