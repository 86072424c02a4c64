package plugintest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// A tamper stands between a plugin that keeps the contract and the wire, and makes
// it break the sentence that its fault names.
type tamper struct {
	fault    string
	attached atomic.Int32
	conn     connection
}

func (f *tamper) plugin(p sdk.Plugin) Plugin {
	return Plugin{serve: func(o ...grpc.ServerOption) *grpc.Server {
		own := &tamper{fault: f.fault, conn: newConnection()} // each start is a plugin of its own
		o = append(append(o, wire.ServerOptions()...), grpc.StatsHandler(own.conn))
		s := grpc.NewServer(append(o, grpc.ChainStreamInterceptor(own.stream), grpc.ChainUnaryInterceptor(own.unary))...)
		sdk.Register(s, p)
		return s
	}}
}

func (f *tamper) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	answer, err := h(ctx, req)
	switch a := answer.(type) {
	case *wire.DescribeResponse:
		if f.fault == "describe" {
			a.Transforms, a.Ingest = nil, nil
		}
	case *wire.ValidateResponse:
		if f.fault == "options" {
			a.Diagnostics = nil
		}
	}
	return answer, err
}

func (f *tamper) stream(s any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	if f.attached.Add(1) > 1 && f.fault == "attach again" {
		return errors.New("attached before")
	}
	misbehave(f.fault)
	return h(s, &tampered{ServerStream: ss, fault: f.fault, conn: f.conn})
}

func isSocket(capability string) bool { return capability == wire.CapabilitySocket }

type tampered struct {
	grpc.ServerStream
	fault string
	conn  connection
	units int // sent

	sending sync.Mutex // one message at a time
	opened  atomic.Int32
	slow    atomic.Bool
	future  atomic.Bool
	bad     atomic.Value // a URL
}

func (t *tampered) send(m any) error {
	t.sending.Lock()
	defer t.sending.Unlock()
	return t.ServerStream.SendMsg(m)
}

func (t *tampered) RecvMsg(m any) error {
	for {
		if err := t.ServerStream.RecvMsg(m); err != nil {
			if t.fault == "lost Attach" && t.opened.Load() > 0 {
				<-t.conn.closed
			}
			return err
		}
		msg, first := m.(*wire.HostMsg) // the first message comes alone
		in, _ := m.(*wire.HostInbound)
		switch {
		case first:
		case in.Msg != nil:
			msg = in.Msg
		default:
			if t.fault == "bad unit" && string(in.Units[0].Unit.Payload) == "bad" {
				return errors.New("a bad unit")
			}
			return nil
		}
		if h := msg.GetHello(); h != nil {
			// The tamper stands in the stream: all must go over that.
			h.Capabilities = slices.DeleteFunc(h.Capabilities, isSocket)
			t.future.Store(len(h.Capabilities) > 0)
		}
		if o := msg.GetOpen(); o != nil {
			t.opened.Add(1)
			t.bad.Store(o.GetUrl())
			if t.fault == "credit" && o.InitialCreditBytes < wire.MinWindowBytes {
				o.InitialCreditBytes = wire.IngestWindowBytes
			}
		}
		if c := msg.GetClose(); c != nil {
			t.slow.Store(!c.GetDrain())
		}
		switch {
		case t.fault == "drain" && msg.GetDrain() != nil,
			t.fault == "ping" && msg.GetPing().GetId() > 1, // other checks ping once
			t.fault == "rejected" && msg.GetReject() != nil && t.send(state(1, wire.SessionState_READY)) == nil:
			continue
		case t.fault == "feedback" && msg.GetKeyframe() != nil,
			t.fault == "renewed files" && msg.GetConfigure() != nil,
			t.fault == "change of the track" && msg.GetTracks() != nil:
			return errors.New("cannot do that")
		}
		return nil
	}
}

func (t *tampered) SendMsg(m any) error {
	if media, ok := m.(*wire.PluginUnits); ok {
		for i := range media.Steps {
			// Only the check of the stream itself looks at so many.
			if t.units++; t.units > 60 && (t.fault == "publish" || t.fault == "derive") {
				u := media.Steps[i].Unit.Clone()
				u.DTS = 0
				media.Steps[i].Unit = u
			}
		}
		return t.send(m)
	}
	switch a := m.(*wire.PluginMsg).GetM().(type) {
	case *wire.PluginMsg_Hello:
		if t.fault == "unknown fields" && t.future.Load() {
			a.Hello.Error = "the gateway is too new"
		}
	case *wire.PluginMsg_State:
		if t.fault == "closed while idle" && t.slow.Load() && a.State.GetState() == wire.SessionState_CLOSED {
			time.Sleep(closeTime + time.Second/2) // the fault is that it takes longer
		}
		if t.fault == "bad source" && a.State.GetState() == wire.SessionState_FAILED {
			a.State.Message = "dial " + t.bad.Load().(string)
		}
		if t.fault == "unknown pair" {
			a.State.Permanent = false
		}
	case *wire.PluginMsg_Credit:
		if t.fault == "two at once" && t.opened.Load() == 2 && a.Credit.GetSession() == 1 {
			return nil
		}
	case *wire.PluginMsg_Credits:
		if t.fault == "two at once" && t.opened.Load() == 2 {
			for i, id := range a.Credits.GetSessions() {
				if id == 1 {
					a.Credits.Bytes[i] = 0
				}
			}
		}
	}
	return t.send(m)
}

// camera is an ingest that is pulled, or comes by itself.
type camera struct{ come chan struct{} }

func (c camera) Serve(ctx context.Context, h *sdk.IngestHost) error {
	for {
		select {
		case <-c.come:
		case <-ctx.Done():
			return nil
		}
		pub, err := h.Offer(ctx, sdk.Offer{Name: "live"})
		if err == nil {
			go func() { _ = c.Pull(ctx, secret.String{}, pub) }()
		}
	}
}

func (camera) Pull(ctx context.Context, u secret.String, pub *sdk.Publication) error {
	if strings.Contains(u.Reveal(), "nowhere") {
		return errors.New("nobody is there")
	}
	pub.SetTracks([]media.Track{{ID: 1, Codec: media.VP8}, {ID: 2, Codec: media.PCMA, SampleRateHz: 8000}})
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		for _, id := range []media.TrackID{1, 2} {
			pub.WriteAccessUnit(&media.AccessUnit{
				Track: id, DTS: time.Duration(n) * 20 * time.Millisecond, PTS: time.Duration(n) * 20 * time.Millisecond,
				RandomAccess: id == 2 || n%50 == 0, Payload: make([]byte, 160),
			})
		}
		select {
		case <-tick.C:
		case <-pub.Done():
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func TestEachFaultOfAnIngest(t *testing.T) {
	each(t, func(fault string, patience time.Duration) Suite {
		come := make(chan struct{})
		p := (&tamper{fault: fault}).plugin(sdk.Plugin{Name: "camera", Version: "1", Ingest: &sdk.IngestPlugin{
			Ingest: camera{come}, Codecs: []media.Codec{media.VP8, media.PCMA}, Schemes: []string{"cam"},
		}})
		o := IngestOptions{PullURL: "cam://1", BadURL: "cam://nowhere/s3cret", patience: patience}
		s := IngestSuite(p, o)
		// Whoever comes by himself is looked at in one check alone.
		o.PullURL, o.Publish = "", func(T, *Gateway) { come <- struct{}{} }
		rejected := func(c Check) bool { return c.Name == "rejected" }
		s.LeftOut = slices.DeleteFunc(s.LeftOut, func(c LeftOut) bool { return rejected(c.Check) })
		s.Checks = append(s.Checks, IngestSuite(p, o).Checks[slices.IndexFunc(IngestSuite(p, o).Checks, rejected)])
		return s
	})
}

func TestIngestThatOffers(t *testing.T) {
	come := make(chan struct{})
	p := sdk.Plugin{Name: "camera", Version: "1", Ingest: &sdk.IngestPlugin{Ingest: camera{come}, Codecs: []media.Codec{media.VP8}}}
	TestIngest(t, p, IngestOptions{Publish: func(T, *Gateway) { come <- struct{}{} }})
}

// echo is a transform that copies.
type echo struct{ in media.Track }

func (e *echo) Track() media.Track            { return media.Track{Codec: media.PCMA, SampleRateHz: 8000} }
func (e *echo) SetTrack(in media.Track) error { e.in = in; return nil }
func (e *echo) Close()                        {}
func (e *echo) Transform(u *media.AccessUnit, emit func(*media.AccessUnit)) error {
	if string(u.Payload) == "bad" {
		return errors.New("a bad unit")
	}
	emit(u.Clone())
	return nil
}

func TestEachFaultOfATransform(t *testing.T) {
	each(t, func(fault string, patience time.Duration) Suite {
		p := sdk.Plugin{Name: "echo", Version: "1", Transforms: []sdk.Transform{{From: media.PCMU, To: media.PCMA,
			Open: func(_ context.Context, in media.Track, _ sdk.TransformSettings) (sdk.Transformer, error) {
				return &echo{in}, nil
			}}}}
		return TransformSuite((&tamper{fault: fault}).plugin(p), TransformOptions{
			In: media.Track{Codec: media.PCMU, SampleRateHz: 8000}, To: media.PCMA, BadPayload: []byte("bad"), patience: patience,
		})
	})
}
