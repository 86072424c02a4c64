package sdk

import (
	"os"
	"path/filepath"
	"testing"
)

// Names can be looked up also when the file with the name servers was replaced by one
// that the process cannot read.
func TestNameServersAreKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("search example\nnameserver 127.0.0.2\nnameserver ::1\n# nameserver 127.0.0.9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := readNameServers(file)
	asked := func(want string) {
		t.Helper()
		conn, err := n.dial(t.Context(), "udp", "127.0.0.3:53") // what the resolver has read
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.RemoteAddr().String(); got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	asked("127.0.0.3:53")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	asked("127.0.0.2:53")
	asked("[::1]:53")
	asked("127.0.0.2:53")
	if n := readNameServers(file); len(n.known) > 0 {
		t.Errorf("read %q of no file", n.known)
	}
}
