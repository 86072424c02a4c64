package session

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what TURN servers expect
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pion/stun/v4"
	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
	"github.com/headgate/gateway/sdk/secret"
)

const (
	// publisherCredentialLife is how long the TURN credentials of a publisher can be
	// used, and ownCredentialLife the same of the gateway's: servers refuse to keep
	// an allocation whose credentials have expired.
	publisherCredentialLife = 24 * time.Hour
	ownCredentialLife       = 30 * 24 * time.Hour

	// relayEvery is how often a TURN server is asked whether it is there, and
	// relayAgain the same after it was not.
	relayEvery = 30 * time.Second
	relayAgain = 5 * time.Second
)

// An ICEServer is a STUN or TURN server and what it takes to use it: a user name
// and its credential, or the secret of which both are made for each session (the
// REST API of TURN servers: use-auth-secret of coturn).
type ICEServer struct {
	URL        string
	Username   string
	Credential secret.String
	Secret     secret.String
}

func (s ICEServer) check() error {
	u, err := stun.ParseURI(s.URL)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not the URL of a STUN or TURN server such as turn:turn.example.org:3478?transport=udp", s.URL)
	case u.Scheme == stun.SchemeTypeTURN || u.Scheme == stun.SchemeTypeTURNS:
		if s.Secret.Empty() && (s.Username == "" || s.Credential.Empty()) {
			return fmt.Errorf("%s needs a secret, or username and credential", s.URL)
		}
	case !s.Secret.Empty() || s.Username != "":
		return fmt.Errorf("%s: STUN servers take no credentials", s.URL)
	}
	return nil
}

// credentials are those to use for so long.
func (s ICEServer) credentials(user string, life time.Duration) (username string, credential secret.String) {
	if s.Secret.Empty() {
		return s.Username, s.Credential
	}
	username = strconv.FormatInt(time.Now().Add(life).Unix(), 10) + ":" + user
	mac := hmac.New(sha1.New, []byte(s.Secret.Reveal()))
	_, _ = mac.Write([]byte(username)) // never fails
	return username, secret.New(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// forPublisher is s as a publisher is told of it.
func (s ICEServer) forPublisher(id string) whip.ICEServer {
	if strings.HasPrefix(s.URL, "stun") {
		return whip.ICEServer{URL: s.URL}
	}
	username, credential := s.credentials(id, publisherCredentialLife)
	return whip.ICEServer{URL: s.URL, Username: username, Credential: credential}
}

// relays are the TURN servers through which the gateway itself can be reached. One
// that does not answer is left out until it does: no publisher waits for it.
type relays struct {
	servers []ICEServer

	mu sync.Mutex // guards the field below
	up map[string]bool
}

// alive are the servers that answered when they were asked last.
func (r *relays) alive(user string) []webrtc.ICEServer {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []webrtc.ICEServer
	for _, s := range r.servers {
		if r.up[s.URL] {
			username, credential := s.credentials(user, ownCredentialLife)
			out = append(out, webrtc.ICEServer{URLs: []string{s.URL}, Username: username, Credential: credential.Reveal()})
		}
	}
	return out
}

// set notes whether the server with that URL answers and reports whether that is news.
func (r *relays) set(url string, up bool) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, known := r.up[url]
	if r.up == nil {
		r.up = map[string]bool{}
	}
	r.up[url] = up
	return !known || before != up
}

// suspect takes all servers for dead until they are asked again.
func (r *relays) suspect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.up)
}

// probe asks a TURN server for nothing but an answer.
func (s ICEServer) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	u, err := stun.ParseURI(s.URL)
	if err != nil {
		return err
	}
	var d interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	if u.Scheme == stun.SchemeTypeTURNS {
		d = &tls.Dialer{Config: &tls.Config{ServerName: u.Host, MinVersion: tls.VersionTLS12}}
	}
	network := "udp"
	if u.Proto == stun.ProtoTypeTCP {
		network = "tcp"
	}
	conn, err := d.DialContext(ctx, network, net.JoinHostPort(u.Host, strconv.Itoa(u.Port)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing that could be lost
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	if err != nil {
		return err
	}
	const resendEvery = probeTimeout / 3 // where a packet can be lost
	answer := make([]byte, 1500)
	for {
		if _, err := conn.Write(request.Raw); err != nil {
			return err
		}
		if network == "udp" {
			if err := conn.SetReadDeadline(time.Now().Add(resendEvery)); err != nil {
				return err
			}
		}
		n, err := io.ReadAtLeast(conn, answer, len(request.Raw))
		switch {
		case err == nil && stun.IsMessage(answer[:n]):
			return nil
		case err == nil:
			return errors.New("what answers is no TURN server")
		case network == "udp" && ctx.Err() == nil && errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case ctx.Err() != nil:
			return fmt.Errorf("no answer within %v", probeTimeout)
		default:
			return err
		}
	}
}
