// Package endpoint has what plugins that listen share: what is wrong with the
// addresses that they are told, and the certificate that they show there.
//
// It opens nothing, and does not know what is spoken at an address.
package endpoint

import (
	"errors"
	"fmt"
	"net"
	"strconv"
)

// Check returns what is wrong with the address of an option, for a person, as
// [sdk.Checker] has it; nil if it is absent.
//
// [sdk.Checker]: https://pkg.go.dev/github.com/headgate/gateway/sdk#Checker
func Check(option, address string) error {
	if address == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%s: %q is not an address; want host:port, or :port for every address of this machine", option, address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%s: %q has no valid port; want a port from 1 to 65535", option, address)
	}
	return nil
}

// Apart returns what is wrong where two options name the same address; one of a port
// that the system chooses is never the same.
func Apart(option, address, other, otherAddress string) error {
	host, port, err := net.SplitHostPort(address)
	otherHost, otherPort, otherErr := net.SplitHostPort(otherAddress)
	if err := errors.Join(err, otherErr); err != nil || port != otherPort || port == "0" {
		return nil //nolint:nilerr // Check has said it
	}
	if host == otherHost || everyAddress(host) || everyAddress(otherHost) {
		return fmt.Errorf("%s: the same address as that of %s; want another port", option, other)
	}
	return nil
}

func everyAddress(host string) bool {
	return host == "" || net.ParseIP(host).IsUnspecified()
}
