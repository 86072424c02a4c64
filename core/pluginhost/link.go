package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/headgate/gateway/sdk/wire"
)

const (
	// lastWordsTime is how long a plugin that closed its socket may take to say why.
	lastWordsTime = 3 * time.Second
	// leftTime is how long what a plugin wrote may be read when it has detached.
	leftTime = time.Second
)

// A link is the socket of a plugin over which goes what its Attach stream would carry.
// That the plugin lives, and why it ends, is the stream's to say.
type link struct {
	*wire.Socket // its owner closes it
	attached     grpc.ClientStream
	detached     <-chan struct{} // closed when the gateway wants no more of it
	ended        chan struct{}   // closed once why is set
	why          error           // attached ended with
}

// connect connects to the socket that the plugin has made under that name. ctx is that
// of the Attach stream.
func (p *process) connect(ctx context.Context, name string) (*link, error) {
	path, err := p.launched.socketPath(name)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("attaching: %w; %s", err, remedy)
	}
	return &link{Socket: wire.NewSocket(conn), attached: p.attached, detached: ctx.Done(), ended: make(chan struct{})}, nil
}

// watch returns when the Attach stream has ended, and the socket with it.
func (l *link) watch() {
	l.why = l.attached.RecvMsg(&wire.PluginMsg{})
	if l.why == nil {
		l.why = status.Error(codes.Internal, "a message on the Attach stream beside its socket")
	}
	close(l.ended)
	l.CloseAfter(leftTime) // the process may have said goodbye before it went
	select {
	case <-l.detached:
		_ = l.Close() // what it still says is of no interest
	default:
	}
}

// RecvMsg implements [wire.Stream].
func (l *link) RecvMsg(m any) error {
	err := l.Socket.RecvMsg(m)
	if err == nil || status.Code(err) == codes.Internal || status.Code(err) == codes.ResourceExhausted {
		return err
	}
	timer := time.NewTimer(lastWordsTime)
	defer timer.Stop()
	select {
	case <-l.ended:
		return l.why
	case <-timer.C:
		return errors.New("it closed its socket and stays attached; " + remedy)
	}
}
