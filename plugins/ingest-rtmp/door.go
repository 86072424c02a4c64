package ingestrtmp

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/secret"
)

// A door lets publishers of one server in.
type door struct {
	host   *sdk.IngestHost
	server *rtmp.Server
}

const (
	// offerTimeout is how long the gateway has to decide, which takes it moments.
	offerTimeout = 5 * time.Second
	// wrongTokenDelay makes guessing slow: one address has maxOpening connections.
	wrongTokenDelay = time.Second
)

// admit asks the gateway whether p may publish.
func (d *door) admit(ctx context.Context, p *rtmp.Publish) error {
	w, err := parseWish(p.App, p.AppQuery, p.Key)
	p.App = w.name // from here on logs say this, and the token may have been in the app
	log := sdk.Logger().With("stream", w.name, "remote", p.Remote, "agent", p.Agent)
	if err != nil {
		log.Warn("refused a publisher", "why", err)
		return refusal("NetStream.Publish.Rejected", err.Error())
	}
	agent := p.Agent
	if agent == "" {
		agent = scheme(p.TLS)
	}
	offering, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	pub, err := d.host.Offer(offering, sdk.Offer{
		Name: w.name, Credentials: w.token, Remote: p.Remote, Agent: agent, Codecs: carried(),
	})
	if err != nil {
		log.Warn("refused a publisher", "why", err)
		return explain(ctx, w, err)
	}
	p.Session = newSession(d.server, pub, log)
	return nil
}

func refusal(code, text string) error {
	return &rtmp.StatusError{Stage: rtmp.StagePublish, Code: code, Description: text}
}

// explain is what a publisher hears of a refusal by the gateway. The codes are those
// that encoders know.
func explain(ctx context.Context, w wish, err error) error {
	var rejected *sdk.RejectedError
	if !errors.As(err, &rejected) {
		return refusal("NetStream.Publish.Failed", "the gateway does not answer: try again")
	}
	switch rejected.Reason {
	case sdk.Unauthenticated, sdk.Forbidden:
		select {
		case <-time.After(wrongTokenDelay):
		case <-ctx.Done():
		}
		return refusal("NetStream.Publish.Denied", rejected.Message)
	case sdk.NotFound:
		return refusal("NetStream.Publish.Rejected", rejected.Message+w.hint())
	case sdk.Conflict:
		return refusal("NetStream.Publish.BadName", rejected.Message)
	case sdk.Unusable:
		return refusal("NetStream.Publish.Rejected", rejected.Message)
	default:
		return refusal("NetStream.Publish.Failed", rejected.Message)
	}
}

func (d *door) begin(p *rtmp.Publish) { sessionOf(p).begin(p.ID) }

func (d *door) message(p *rtmp.Publish, m rtmp.Message, arrived time.Time) {
	sessionOf(p).message(m, arrived)
}

func (d *door) end(p *rtmp.Publish, err error) { sessionOf(p).end(err) }

func sessionOf(p *rtmp.Publish) *session { return p.Session.(*session) }

// A wish is what a URL asks for.
type wish struct {
	name  string
	token secret.String
	// cut: the last part of the path is taken for the token.
	cut bool
}

func (w wish) hint() string {
	if w.cut {
		return "; the last part of the URL is taken for the token: where it belongs to the name, add ?token=TOKEN"
	}
	return ""
}

// parseWish reads app, its query and the key of a publisher, which together are the
// path and the query of his URL:
//
//	rtmp://gateway/NAME/TOKEN
//	rtmp://gateway/NAME?token=TOKEN
//	rtmp://gateway/NAME?user=ANY&pass=TOKEN
//
// NAME may have slashes. Encoders divide the path into app and key in different
// places, so that where they do means nothing. Errors quote nothing of it.
func parseWish(app string, appQuery, key secret.String) (wish, error) {
	keyPath, keyQuery, _ := strings.Cut(strings.TrimSpace(key.Reveal()), "?")
	var parts []string
	for part := range strings.SplitSeq(app+"/"+keyPath, "/") {
		if part != "" {
			parts = append(parts, part)
		}
	}
	token, said, err := tokenOf(keyQuery + "&" + appQuery.Reveal())
	w := wish{token: token}
	if !said && len(parts) > 1 {
		last := len(parts) - 1
		w.token, w.cut = secret.New(parts[last]), true
		parts = parts[:last]
	}
	w.name = strings.Join(parts, "/")
	if err == nil && w.name == "" {
		err = errors.New("the URL names no stream: want rtmp://gateway/NAME and TOKEN as the stream key")
	}
	return w, err
}

// tokenOf finds the token in a query; said reports whether there is a place for it,
// be it empty. Unlike in forms + stands for itself: tokens have it.
func tokenOf(query string) (token secret.String, said bool, err error) {
	values, err := url.ParseQuery(strings.ReplaceAll(query, "+", "%2B"))
	if err != nil {
		return token, true, errors.New("the query of the URL has a % that begins no escape; write %25")
	}
	for _, key := range []string{"token", "pass"} {
		if values.Has(key) {
			return secret.New(values.Get(key)), true, nil
		}
	}
	return token, false, nil
}
