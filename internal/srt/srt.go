// Package srt is SRT as the gateway needs it: live mode, as a caller and as a
// listener, over github.com/datarhei/gosrt, whose traps end here. Addresses are
// those that vendors print, errors say whose fault it is and never quote a secret,
// a caller obeys its context and tries the handshake more than once, a full queue
// is told apart from a connection that is over.
//
// It knows connections and datagrams. It does not know what is in them, and it
// paces nothing: whoever writes does.
package srt

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	gosrt "github.com/datarhei/gosrt"

	"github.com/headgate/gateway/sdk/secret"
)

// PayloadBytes is what a datagram carries at most: seven packets of a transport
// stream.
const PayloadBytes = 1316

// Limits.
const (
	DefaultLatency = 120 * time.Millisecond
	MaxLatency     = 20 * time.Second
	minPassphrase  = 10
	maxPassphrase  = 79
	maxStreamID    = 512
)

// A Mode says who begins.
type Mode string

// The modes.
const (
	Caller   Mode = "caller"
	Listener Mode = "listener"
)

// An Address is an SRT address with what belongs to it. The zero values of
// KeyBits and Latency leave the choice to [Address.Complete].
type Address struct {
	Mode       Mode
	HostPort   string
	StreamID   secret.String
	Passphrase secret.String // empty: not encrypted
	KeyBits    int           // of AES: 128, 192 or 256
	// Latency is how long a receiver waits for what was lost; the larger one of both
	// sides counts.
	Latency time.Duration
}

// ParseAddress parses srt://host:port?streamid=..&passphrase=..&pbkeylen=..&latency=..&mode=..
// with the names and units of srt-live-transmit: latency in milliseconds, pbkeylen
// in bytes. Without a host, or with mode=listener, it is one to listen on. Its
// errors quote nothing that may be secret.
func ParseAddress(raw secret.String) (Address, error) {
	u, err := url.Parse(raw.Reveal())
	switch {
	case err != nil:
		return Address{}, errors.New("not a URL; want srt://host:port")
	case u.Scheme != "srt":
		return Address{}, errors.New("want srt://host:port")
	case u.User != nil:
		return Address{}, errors.New("srt knows no user and password; want streamid and passphrase")
	case u.Path != "" && u.Path != "/":
		return Address{}, errors.New("an srt URL has no path; name the stream with streamid")
	case u.Fragment != "":
		return Address{}, errors.New("a # within an srt URL; write it as %23")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return Address{}, errors.New("the URL has no port; want srt://host:port")
	}
	a := Address{Mode: Caller, HostPort: net.JoinHostPort(u.Hostname(), strconv.FormatUint(port, 10))}
	if u.Hostname() == "" {
		a.Mode = Listener
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Address{}, errors.New("the query of the URL is none; write a % as %25")
	}
	for name, values := range query {
		if len(values) != 1 {
			return Address{}, fmt.Errorf("%s is in the URL more than once; leave one", plain(name))
		}
		if err := a.parameter(name, values[0]); err != nil {
			return Address{}, err
		}
	}
	return a, a.check()
}

// parameter takes one parameter of the URL.
func (a *Address) parameter(name, value string) error {
	number := func(into *int, unit string) error {
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return fmt.Errorf("%s: not a number; want a number of %s", name, unit)
		}
		*into = int(n)
		return nil
	}
	switch strings.ToLower(name) {
	case "mode":
		switch a.Mode = Mode(value); value {
		case "server":
			a.Mode = Listener
		case "client":
			a.Mode = Caller
		}
	case "streamid":
		a.StreamID = secret.New(value)
	case "passphrase":
		a.Passphrase = secret.New(value)
	case "pbkeylen":
		var bytes int
		if err := number(&bytes, "bytes"); err != nil {
			return err
		}
		a.KeyBits = 8 * bytes
	case "latency", "rcvlatency", "peerlatency":
		var ms int
		if err := number(&ms, "milliseconds"); err != nil {
			return err
		}
		a.Latency = max(a.Latency, time.Duration(ms)*time.Millisecond)
	case "transtype":
		if value != "live" {
			return errors.New("transtype: only live is carried; leave it out")
		}
	case "payloadsize", "pkt_size":
		var bytes int
		if err := number(&bytes, "bytes"); err != nil {
			return err
		}
		if bytes != PayloadBytes {
			return fmt.Errorf("%s: only %d is sent; leave it out", name, PayloadBytes)
		}
	default:
		return fmt.Errorf("unknown parameter %s in the URL; want mode, streamid, passphrase, pbkeylen or latency", plain(name))
	}
	return nil
}

// plain returns a name for an error, and nothing that could be a secret in its
// place.
func plain(name string) string {
	if len(name) > 20 || strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' }) {
		return "of that name"
	}
	return strconv.Quote(name)
}

// check returns what is wrong with a.
func (a Address) check() error {
	_, port, _ := net.SplitHostPort(a.HostPort)
	switch {
	case a.Mode != Caller && a.Mode != Listener:
		return errors.New("mode: there is no such mode; want caller or listener")
	case a.Mode == Caller && strings.HasPrefix(a.HostPort, ":"):
		return errors.New("no host to call; want srt://host:port")
	case a.Mode == Caller && port == "0":
		return errors.New("port 0 cannot be called; want a port from 1 to 65535")
	case !slices.Contains([]int{0, 128, 192, 256}, a.KeyBits):
		return errors.New("pbkeylen: not the length of an AES key; want 16, 24 or 32")
	case !a.Passphrase.Empty() && (len(a.Passphrase.Reveal()) < minPassphrase || len(a.Passphrase.Reveal()) > maxPassphrase):
		return fmt.Errorf("passphrase: too short or too long; want %d to %d characters", minPassphrase, maxPassphrase)
	case len(a.StreamID.Reveal()) > maxStreamID:
		return fmt.Errorf("streamid: too long; want at most %d bytes", maxStreamID)
	case a.Latency < 0 || a.Latency > MaxLatency:
		return fmt.Errorf("latency: too long; want at most %v", MaxLatency)
	}
	return nil
}

// Overlay returns a with what o has and a has not. What both have and differs is
// an error: one of the two is a mistake.
func (a Address) Overlay(o Address) (Address, error) {
	const twice = "is in the URL and beside it; leave one"
	if !o.StreamID.Empty() {
		if !a.StreamID.Empty() && !a.StreamID.Equal(o.StreamID) {
			return a, errors.New("the stream id " + twice)
		}
		a.StreamID = o.StreamID
	}
	if !o.Passphrase.Empty() {
		if !a.Passphrase.Empty() && !a.Passphrase.Equal(o.Passphrase) {
			return a, errors.New("the passphrase " + twice)
		}
		a.Passphrase = o.Passphrase
	}
	if o.KeyBits != 0 {
		if a.KeyBits != 0 && a.KeyBits != o.KeyBits {
			return a, errors.New("the length of the key " + twice)
		}
		a.KeyBits = o.KeyBits
	}
	if o.Latency != 0 {
		if a.Latency != 0 && a.Latency != o.Latency {
			return a, errors.New("the latency " + twice)
		}
		a.Latency = o.Latency
	}
	if o.Mode != "" {
		a.Mode = o.Mode
	}
	return a, a.check()
}

// config is what the library makes a connection of.
func (a Address) config() gosrt.Config {
	c := gosrt.DefaultConfig()
	c.PayloadSize = PayloadBytes // its own default is no multiple of a packet
	c.Latency = a.Latency
	if a.Latency == 0 {
		c.Latency = DefaultLatency
	}
	c.StreamId = a.StreamID.Reveal()
	c.Passphrase = a.Passphrase.Reveal()
	if a.KeyBits != 0 {
		c.PBKeylen = a.KeyBits / 8
	}
	c.Logger = silent{}
	return c
}

// silent is a logger of the library that keeps nothing.
type silent struct{}

func (silent) HasTopic(string) bool                     { return false }
func (silent) Print(string, uint32, int, func() string) {}
func (silent) Listen() <-chan gosrt.Log                 { return nil }
func (silent) Close()                                   {}
