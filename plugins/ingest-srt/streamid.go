package ingestsrt

import (
	"errors"
	"net/url"
	"strings"

	"github.com/headgate/gateway/sdk/secret"
)

// A wish is what a stream id asks for.
type wish struct {
	name  string
	token secret.String
}

// parseStreamID reads a stream id, in one of the ways in which encoders write it:
//
//	studio?token=TOKEN
//	publish:studio?token=TOKEN
//	#!::r=studio,m=publish,s=TOKEN
//
// The last one is that of the SRT access control guidelines; its key token is ours.
// Errors quote nothing of it.
func parseStreamID(id secret.String) (wish, error) {
	text := id.Reveal()
	if rest, ok := strings.CutPrefix(text, "#!::"); ok {
		return parseKeys(rest)
	}
	if strings.HasPrefix(text, "#!") {
		return wish{}, errors.New("a stream id of nested keys: want #!::r=NAME,m=publish")
	}
	if mode, rest, ok := strings.Cut(text, ":"); ok {
		if mode != "publish" {
			return wish{}, errors.New("the stream id asks for something else than publish")
		}
		text = rest
	}
	name, query, _ := strings.Cut(text, "?")
	w := wish{name: strings.Trim(name, "/")}
	values, err := url.ParseQuery(query)
	if err != nil {
		return wish{}, errors.New("the query of the stream id is none")
	}
	w.token = secret.New(values.Get("token"))
	return w, w.check()
}

func parseKeys(text string) (wish, error) {
	var w wish
	for pair := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return wish{}, errors.New("the stream id has a key without a value")
		}
		switch key {
		case "r":
			w.name = strings.Trim(value, "/")
		case "s", "token":
			w.token = secret.New(value)
		case "m":
			if value != "publish" {
				return wish{}, errors.New("the stream id asks for something else than m=publish")
			}
		}
	}
	return w, w.check()
}

func (w wish) check() error {
	if w.name == "" {
		return errors.New("the stream id names no stream: want NAME?token=TOKEN")
	}
	return nil
}
