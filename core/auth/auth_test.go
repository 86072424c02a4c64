package auth

import (
	"testing"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/sdk/secret"
)

func TestDecide(t *testing.T) {
	tokens := New([]config.Route{
		{Name: "studio", Publish: config.Publish{Token: secret.New("s3cret")}},
		{Name: "stage", Publish: config.Publish{Token: secret.New("other")}},
		{Name: "lab", Publish: config.Publish{Open: true}},
		{Name: "loop"},
		{Name: "camera", From: &config.From{}},
	})
	f := func(route, credentials string, want Decision) {
		t.Helper()
		if got := tokens.Decide(route, secret.New(credentials)); got != want {
			t.Errorf("%s with %q: %v, want %v", route, credentials, got, want)
		}
	}
	f("studio", "s3cret", Allowed)
	f("studio", "", Unauthenticated)
	f("studio", "s3cre", Unauthenticated)
	f("studio", "s3cret ", Unauthenticated)
	f("studio", "other", Forbidden)
	f("lab", "", Allowed)
	f("lab", "whatever", Allowed)
	f("loop", "", Allowed)
	f("camera", "", NotFound)
	f("camera", "s3cret", NotFound)
	f("nowhere", "s3cret", NotFound)
}
