package sdk

import (
	"errors"
	"net"
	"testing"
)

// TestControl: where a restricted target may lead.
func TestControl(t *testing.T) {
	f := func(address string, refused bool) {
		t.Helper()
		err := Target{Restricted: true}.Control("tcp", address, nil)
		var e *RefusedAddressError
		if errors.As(err, &e) != refused || (err != nil) != refused || refused && !IsPermanent(err) {
			t.Errorf("%s: %v", address, err)
		}
		if err := (Target{}).Control("tcp", address, nil); err != nil {
			t.Errorf("%s, not restricted: %v", address, err)
		}
	}
	f("192.0.2.1:1935", false)
	f("[2001:db8::1]:443", false)
	f("127.0.0.1:1935", false) // another server of this machine is a target like others
	f("[::1]:1935", false)
	f("10.0.0.1:1935", false)
	f("[fd00::1]:1935", false)
	f("169.254.169.254:80", true)
	f("169.254.0.1:80", true)
	f("[fe80::1%eth0]:80", true)
	f("[::ffff:169.254.169.254]:80", true) // the same, written as IPv6
	f("[64:ff9b::169.254.169.254]:80", true)
	f("[2002:a9fe:a9fe::]:80", true)
	f("[::169.254.169.254]:80", true)
	f("[64:ff9b::192.0.2.1]:80", false)
	f("[fd00:ec2::254]:80", true)
	f("[fd00:ec2::23]:80", true)
	f("168.63.129.16:80", true)
	f("100.100.100.200:80", true)
	f("192.0.0.192:80", true)
	f("0.0.0.0:1935", true)
	f("[::]:1935", true)
	f("239.1.1.1:1935", true)
	f("[ff02::1]:1935", true)
	if err := (Target{Restricted: true}).Control("tcp", "nonsense", nil); err == nil {
		t.Error("what is no address passes")
	}
}

// TestControlOfDialer: a dialer asks before it connects, with the address behind
// the name.
func TestControlOfDialer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	d := net.Dialer{Control: Target{Restricted: true}.Control}
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	_, err = d.DialContext(t.Context(), "tcp", "169.254.169.254:80")
	var refused *RefusedAddressError
	if !errors.As(err, &refused) || !IsPermanent(err) {
		t.Errorf("%v", err)
	}
}
