package egressrtmp

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"maps"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/test/peers"
)

// TestRefusals: what is told about a refusal, whose fault it is, and in which
// lane it is tried again.
func TestRefusals(t *testing.T) {
	f := func(code, description string, cause sdk.Cause, permanent bool, want string) {
		t.Helper()
		r := receive(t, func(s *rtmp.Server) {
			s.Check = func(p *rtmp.Publish) error {
				return &rtmp.StatusError{Code: code, Description: description + " " + p.Key.Reveal()}
			}
		})
		_, err := (&egress{}).open(t.Context(), target("rtmp://user:SECRETPASS@"+r.addr+"/app/SECRETKEY?SECRETQUERY"), Options{Interleave: InterleaveLow}, nil)
		var e *sdk.Error
		if !errors.As(err, &e) {
			t.Fatalf("%s: %v", code, err)
		}
		if e.Cause != cause || sdk.IsPermanent(err) != permanent || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), code) {
			t.Errorf("cause %s, permanent %v: %v", e.Cause, sdk.IsPermanent(err), err)
		}
		if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	f("NetStream.Publish.BadName", "Already publishing", sdk.CauseRemote, false, "Already publishing")
	f("NetStream.Publish.Unauthorized", "", sdk.CauseConfig, true, "stream key")
	f("NetStream.Publish.Denied", "", sdk.CauseConfig, true, "stream key")
	f("NetConnection.Connect.InvalidApp", "", sdk.CauseConfig, true, "path of the URL")
	f("NetStream.Publish.Failed", "overloaded", sdk.CauseRemote, false, "overloaded")
}

func TestConfigFaults(t *testing.T) {
	f := func(url, key string, opts Options, want string) {
		t.Helper()
		to := target(url)
		to.Key = secret.New(key)
		_, err := (&egress{}).open(t.Context(), to, opts, nil)
		var e *sdk.Error
		if !errors.As(err, &e) || e.Cause != sdk.CauseConfig || !sdk.IsPermanent(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	low := Options{Interleave: InterleaveLow}
	f("rtmp://host/SECRET", "", low, "no stream key")
	f("rtmp://host/app#SECRET", "SECRET", low, "leave one")
	f("rtmp://host:SECRET/app/key", "", low, "port")
	f("rtmp://host/app/SECRET", "", Options{Interleave: "fast"}, "want low or strict")
	f("rtmp://host/app/SECRET", "", Options{Interleave: InterleaveLow, CA: sdk.File{Name: "ca.pem", Content: []byte("x")}}, "want rtmps")
	f("rtmps://host/app/SECRET", "", Options{Interleave: InterleaveLow, CA: sdk.File{Name: "ca.pem", Content: []byte("no PEM")}}, "no certificate in ca.pem")
}

// TestRTMPS: the right root, none, and a wrong name.
func TestRTMPS(t *testing.T) {
	srv := httptest.NewTLSServer(nil) // for its certificate
	defer srv.Close()
	ca := sdk.File{Name: "ca.pem", Content: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})}
	r := receive(t, func(s *rtmp.Server) { s.TLS = &tls.Config{Certificates: srv.TLS.Certificates} })
	m := load(t, 0)
	s := open(t, "rtmps://"+r.addr+"/app/key", Options{CA: ca}, m.tracks)
	write(t, s, m.units[:100]...)
	closeSink(t, s)
	if got := r.all(t); len(got) != 100+3 {
		t.Errorf("%d messages", len(got))
	}
	_, port, _ := net.SplitHostPort(r.addr)
	f := func(url string, opts Options, want string) {
		t.Helper()
		opts.Interleave = InterleaveLow
		_, err := (&egress{}).open(t.Context(), target(url), opts, m.tracks)
		if err == nil || !sdk.IsPermanent(err) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
	f("rtmps://"+r.addr+"/app/SECRETKEY", Options{}, "option ca")
	f("rtmps://localhost:"+port+"/app/SECRETKEY", Options{CA: ca}, "localhost")
}

// TestUnreachable: tried again, the remote's fault, and quickly told.
func TestUnreachable(t *testing.T) {
	_, err := (&egress{}).open(t.Context(), target("rtmp://"+peers.FreeAddr(t)+"/app/SECRETKEY"), Options{Interleave: InterleaveLow}, nil)
	var e *sdk.Error
	if !errors.As(err, &e) || e.Cause != sdk.CauseRemote || sdk.IsPermanent(err) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%v", err)
	}
	// A server that accepts and says nothing: ctx bounds the opening.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = (&egress{}).open(ctx, target("rtmp://"+listener.Addr().String()+"/app/SECRETKEY"), Options{Interleave: InterleaveLow}, nil)
	if err == nil || !strings.Contains(err.Error(), "no answer in time") || time.Since(start) > 9*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestPlugin(t *testing.T) {
	p := Plugin()
	made := map[media.Codec]media.Codec{}
	for _, t := range p.Transforms {
		made[t.From] = t.To
	}
	want := map[media.Codec]media.Codec{
		media.Opus: media.AAC, media.PCMA: media.AAC, media.PCMU: media.AAC, media.MP2: media.AAC, media.MP3: media.AAC, "": media.AAC,
	}
	if p.Egress == nil || !p.Egress.OpensEarly || !maps.Equal(made, want) {
		t.Errorf("%+v", p)
	}
	var _ interface {
		sdk.Sink
		sdk.TrackSetter
		sdk.Accepter
		sdk.StatsReporter
		sdk.Failer
	} = (*sink)(nil)
}
