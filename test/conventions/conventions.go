// Package conventions holds the tests that keep the house in order: who may
// import whom, what every package says of itself, that examples are valid. It
// reads the source tree and knows the rules; it runs nothing of the gateway.
package conventions
