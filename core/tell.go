package core

import (
	"context"
	"time"

	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/push"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/wire"
)

// tellPause is how long news of targets are gathered before the publisher hears them.
const tellPause = 250 * time.Millisecond

// targetChanged notes that there is something to tell. It does not block.
func (s *stream) targetChanged() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// tell tells the publishers how the targets are doing, now and whenever that changes,
// until ctx ends.
func (s *stream) tell(ctx context.Context) {
	for {
		snap, changed := s.router.Watch()
		s.publish.SetTargetStates(targetStates(s.targets.status(), snap.State == router.Live))
		select {
		case <-s.news:
		case <-changed:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(tellPause):
		case <-ctx.Done():
			return
		}
	}
}

// targetStates are the states of the targets that are switched on, as publishers may
// see them: without addresses, and with reasons that nobody has to look up.
func targetStates(targets []status.Target, live bool) []pluginhost.TargetState {
	out := []pluginhost.TargetState{}
	for _, t := range targets {
		if t.Disabled {
			continue
		}
		s := pluginhost.TargetState{Name: t.Name}
		switch t.State {
		case status.TargetLive:
			s.State = wire.TargetStates_LIVE
		case status.TargetFailed:
			s.State, s.Reason = wire.TargetStates_FAILED, plainReason(t.LastError)
		case status.TargetWaiting:
			s.State = wire.TargetStates_WAITING
			if t.NextRetry != nil {
				s.Reason = plainReason(t.LastError)
			}
		case status.TargetIdle:
			s.State = wire.TargetStates_WAITING
			if live {
				s.Reason = "nobody has called for the stream"
			}
		default:
			s.State = wire.TargetStates_CONNECTING
			// One that fails again and again is told so between its tries, too.
			if t.LastError != nil && t.LastError.At.After(t.Since.Add(-retryNews)) {
				s.State, s.Reason = wire.TargetStates_WAITING, plainReason(t.LastError)
			}
		}
		out = append(out, s)
	}
	return out
}

// retryNews is how old a failure may be to be told during the next try.
const retryNews = 5 * time.Second

// plainReasons say in plain words what the classes of failures mean, after "because".
var plainReasons = map[string]string{
	"key":       "its server does not accept the stream key",
	"in_use":    "its server says that somebody is sending there already",
	"auth":      "its server does not accept user name or password",
	"app":       "its server does not know the place that the stream is sent to",
	"protocol":  "its server answers something unexpected",
	"tls":       "no secure connection with its server came about",
	"dns":       "the name of its server is not known",
	"timeout":   "its server does not answer",
	"refused":   "nothing listens at its address",
	"reset":     "its server broke the connection off",
	"closed":    "its server ended the connection",
	"stalled":   "its server takes nothing any more",
	"address":   "its address may not be used",
	"reconnect": "its server asked for a new connection",
}

// plainReason says why a target does not work without showing where it leads: the
// message of the failure itself is for the one who runs the gateway.
func plainReason(e *status.Error) string {
	if e == nil {
		return ""
	}
	if e.Class == push.ClassCodec {
		return e.Message
	}
	if r, ok := plainReasons[e.Class]; ok {
		return r
	}
	switch pluginhost.Cause(e.Cause) {
	case pluginhost.CauseConfig:
		return "its settings cannot be used"
	case pluginhost.CauseRemote:
		return "its server did not take the stream"
	default:
		return "of a fault in the gateway, which tries again"
	}
}
