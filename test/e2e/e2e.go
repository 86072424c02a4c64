// Package e2e proves what the gateway promises, with the real binary, real
// processes and real peers. Its tests know the command line, the configuration
// file, the HTTP API and the publish page, as users do, and nothing of what is
// inside. What a peer is needed for is skipped where that is absent.
package e2e
