// Package auth decides who may publish to a route. It knows routes' tokens and
// nothing of streams, plugins or how credentials arrive.
package auth

import (
	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/sdk/secret"
)

// A Decision is the answer to who wants to publish.
type Decision int

// The decisions.
const (
	// Allowed: publish.
	Allowed Decision = iota
	// Unauthenticated: no credentials, or credentials that nobody gave out.
	Unauthenticated
	// Forbidden: the credentials are right for another route.
	Forbidden
	// NotFound: there is no such route, or nobody publishes to it.
	NotFound
)

func (d Decision) String() string {
	switch d {
	case Allowed:
		return "allowed"
	case Unauthenticated:
		return "unauthenticated"
	case Forbidden:
		return "forbidden"
	case NotFound:
		return "not found"
	default:
		return "unknown decision"
	}
}

// Tokens holds the publishing rules of all routes. It does not change.
type Tokens struct {
	routes []config.Route
}

// New takes the rules from routes.
func New(routes []config.Route) *Tokens { return &Tokens{routes: routes} }

// Decide says whether who shows credentials may publish to route. A route without
// a token is open to anyone: the configuration allows that where it is safe. All
// tokens are compared, each in constant time, whatever the outcome.
func (t *Tokens) Decide(route string, credentials secret.String) Decision {
	d := NotFound
	elsewhere := false
	for i := range t.routes {
		r := &t.routes[i]
		equal := !r.Publish.Token.Empty() && r.Publish.Token.Equal(credentials)
		switch {
		case r.Name != route:
			elsewhere = elsewhere || equal
		case r.From != nil:
			// The gateway fetches this stream itself.
		case equal || r.Publish.Token.Empty():
			d = Allowed
		default:
			d = Unauthenticated
		}
	}
	if d == Unauthenticated && elsewhere {
		d = Forbidden
	}
	return d
}
