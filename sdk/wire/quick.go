package wire

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/headgate/gateway/sdk/quickio"
)

// quickConn are the credentials of a connection within the machine: none. Where
// gRPC would have them encrypt the connection they make it quick.
type quickConn struct {
	credentials.TransportCredentials
}

func quickCredentials() credentials.TransportCredentials { return quickConn{insecure.NewCredentials()} }

// ClientHandshake implements [credentials.TransportCredentials].
func (q quickConn) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := q.TransportCredentials.ClientHandshake(ctx, authority, c)
	return quickio.Conn(c), info, err
}

// ServerHandshake implements [credentials.TransportCredentials].
func (q quickConn) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := q.TransportCredentials.ServerHandshake(c)
	return quickio.Conn(c), info, err
}

// Clone implements [credentials.TransportCredentials].
func (q quickConn) Clone() credentials.TransportCredentials {
	return quickConn{q.TransportCredentials.Clone()}
}
