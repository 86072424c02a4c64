package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
	"go.uber.org/goleak"

	"github.com/headgate/gateway/sdk/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "north-of-nowhere"

// announced is how publishers know the media port; from here it leads nowhere.
var announced = netip.MustParseAddr("192.0.2.10")

// serve runs a relay before a media port that answers each packet with "echo ".
func serve(t *testing.T) (s *Server, media netip.AddrPort) {
	t.Helper()
	port := echo(t)
	s, err := Listen(Config{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		Secret: secret.New(key), Port: port, Log: logging.NewDefaultLoggerFactory(),
		Peers: func() []Peer { return []Peer{{Announced: announced, Local: netip.MustParseAddr("127.0.0.1")}} },
		Bound: func(l net.Listener) net.Listener { return l },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		// pion ends its allocations in the background.
		left := func() int {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.users)
		}
		for deadline := time.Now().Add(10 * time.Second); left() > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("allocations of %d publishers are left behind", left())
			}
		}
	})
	return s, netip.AddrPortFrom(announced, port)
}

func echo(t *testing.T) (port uint16) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(append([]byte("echo "), b[:n]...), from)
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// dial makes a TURN client, over UDP or TCP.
func (s *Server) dial(t *testing.T, network, user, password string) *turn.Client {
	t.Helper()
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.number).String()
	var conn net.PacketConn
	if network == "tcp" {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		conn = turn.NewSTUNConn(c)
	} else {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		conn = c
	}
	c, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: at, TURNServerAddr: at, Conn: conn, Username: user, Password: password, LoggerFactory: logging.NewDefaultLoggerFactory(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		_ = conn.Close()
	})
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	return c
}

func credentials(t *testing.T, life time.Duration, user string) (name, password string) {
	t.Helper()
	name, password, err := turn.GenerateLongTermTURNRESTCredentials(key, user, life)
	if err != nil {
		t.Fatal(err)
	}
	return name, password
}

func ask(t *testing.T, c net.PacketConn, to net.Addr, wait time.Duration) (answer string, from net.Addr) {
	t.Helper()
	if _, err := c.WriteTo([]byte("hello"), to); err != nil {
		return err.Error(), nil
	}
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1500)
	n, from, err := c.ReadFrom(b)
	if err != nil {
		return "nothing", nil
	}
	return string(b[:n]), from
}

// A publisher reaches the media port by its public address, and nothing else.
func TestOnlyTheMediaPort(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			s, media := serve(t)
			other := echo(t) // another service of the machine
			user, password := credentials(t, time.Hour, "a")
			relayed, err := s.dial(t, network, user, password).Allocate()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = relayed.Close() }()
			to := net.UDPAddrFromAddrPort(media)
			if answer, from := ask(t, relayed, to, 10*time.Second); answer != "echo hello" || from.String() != to.String() {
				t.Errorf("%s from %v, want the answer as if from %v", answer, from, to)
			}
			for what, to := range map[string]*net.UDPAddr{
				"another port":             {IP: announced.AsSlice(), Port: int(other)},
				"the machine itself":       {IP: net.IPv4(127, 0, 0, 1), Port: int(other)},
				"the port by its own name": {IP: net.IPv4(127, 0, 0, 1), Port: int(media.Port())},
				"another machine":          {IP: net.IPv4(192, 0, 2, 99), Port: int(media.Port())},
			} {
				if answer, _ := ask(t, relayed, to, 200*time.Millisecond); strings.HasPrefix(answer, "echo") {
					t.Errorf("%s is reached", what)
				}
			}
		})
	}
}

// Only who has credentials that are valid still gets an allocation, and not any number.
func TestCredentials(t *testing.T) {
	s, _ := serve(t)
	allocate := func(user, password string) error {
		c, err := s.dial(t, "udp", user, password).Allocate()
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		return err
	}
	user, password := credentials(t, time.Hour, "a")
	if err := allocate(user, password+"x"); err == nil {
		t.Error("a wrong password is taken")
	}
	if old, password := credentials(t, -time.Minute, "a"); allocate(old, password) == nil {
		t.Error("credentials that have expired are taken")
	}
	for i := range maxPerUser {
		if err := allocate(user, password); err != nil {
			t.Fatalf("allocation %d: %v", i+1, err)
		}
	}
	if allocate(user, password) == nil {
		t.Errorf("more than %d allocations of one publisher", maxPerUser)
	}
	if other, password := credentials(t, time.Hour, "b"); allocate(other, password) != nil {
		t.Error("another publisher is refused")
	}
}

func TestURLs(t *testing.T) {
	s := &Server{number: 3478, cfg: Config{Peers: func() []Peer {
		return []Peer{{Announced: announced}, {Announced: announced}, {Announced: netip.MustParseAddr("2001:db8::1")}}
	}}}
	want := "turn:192.0.2.10:3478?transport=udp turn:192.0.2.10:3478?transport=tcp turn:[2001:db8::1]:3478?transport=udp turn:[2001:db8::1]:3478?transport=tcp"
	if got := strings.Join(s.URLs(), " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What cannot be opened leaves nothing open.
func TestListenFails(t *testing.T) {
	try := func() error {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer func() { _ = taken.Close() }()
		at := taken.Addr().(*net.TCPAddr).AddrPort()
		_, err = Listen(Config{Listen: []netip.AddrPort{at}, Log: logging.NewDefaultLoggerFactory(), Bound: func(l net.Listener) net.Listener { return l }})
		if err == nil || !strings.Contains(err.Error(), "TURN: listen tcp") {
			return fmt.Errorf("opening the port that is taken: %w", err)
		}
		again, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return fmt.Errorf("the UDP port was left open: %w", err)
		}
		return again.Close()
	}
	var errs []error
	for range 3 { // another process may have the number for UDP
		err := try()
		if err == nil {
			return
		}
		errs = append(errs, err)
	}
	t.Error(errors.Join(errs...))
}

// A port that is free for UDP and taken for TCP is not one to insist on.
func TestFreePort(t *testing.T) {
	taken := 0
	s, err := Listen(Config{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("127.0.0.2:0")},
		Secret: secret.New(key), Log: logging.NewDefaultLoggerFactory(), Peers: func() []Peer { return nil },
		Bound: func(l net.Listener) net.Listener {
			at := l.Addr().(*net.TCPAddr)
			if taken == 0 && at.IP.Equal(net.IPv4(127, 0, 0, 1)) {
				other, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", at.Port))
				if err != nil {
					return l // taken by somebody else, which is as good
				}
				t.Cleanup(func() { _ = other.Close() })
				taken = at.Port
			}
			return l
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if taken == 0 || int(s.number) == taken {
		t.Errorf("port %d, and %d was taken", s.number, taken)
	}
}
