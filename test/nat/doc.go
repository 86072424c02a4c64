// Package nat proves how publishers reach the gateway across NATs and firewalls, in
// network namespaces that the tests make: a gateway behind a NAT, a publisher beyond
// it, and a STUN and TURN server (coturn) beside him.
//
// It needs root, iproute2, nftables, coturn and Chromium. The test binary plays the gateway
// and the publisher itself, started again inside of the namespaces.
package nat
