// Package wire is the contract between the gateway and its plugins: the
// messages of gateway.proto, how they map to package media, the handshake, the
// limits, and the one scheduler with which both ends decide what an Attach
// stream carries next.
//
// It knows messages, media and credit. It knows nothing of processes, of what a
// plugin does with media, or of what the gateway decides.
package wire

import (
	"time"

	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// ProtocolVersion is the major version of the wire. What can be added without
// breaking older plugins does not change it.
const ProtocolVersion = 1

// PluginName is the name under which go-plugin dispenses the one service.
const PluginName = "plugin"

// Handshake is what a plugin process checks before it believes that it was
// started by a gateway. It is a courtesy to people who start a plugin by hand,
// not a security measure.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{
		ProtocolVersion:  ProtocolVersion,
		MagicCookieKey:   "GATEWAY_PLUGIN",
		MagicCookieValue: "6f0d3a52-headgate",
	}
}

// SocketDirEnv names the directory in which a plugin makes its unix sockets.
const SocketDirEnv = plugin.EnvUnixSocketDir

// LogLevelEnv tells a plugin the least level of what it should log: debug or info.
const LogLevelEnv = "GATEWAY_LOG_LEVEL"

// DirsEnv names the directories in which a plugin may read and write files, as a JSON
// list. [github.com/headgate/gateway/sdk.Serve] keeps the process out of all others.
const DirsEnv = "GATEWAY_PLUGIN_FILES"

// ReattachEnv tells a plugin that is started by hand, under a debugger, to serve all
// the same, and a gateway which plugins were started so: NAME=SOCKET, more of them
// separated by commas.
const ReattachEnv = "GATEWAY_PLUGIN_REATTACH"

// ClientHeader carries the address of the HTTP client to a plugin's mounts. The
// gateway sets it, and removes whatever a client sent.
const ClientHeader = "Gateway-Client-Address"

// Limits of one Attach stream, in both directions.
const (
	// MaxMessageBytes is the largest message that either side accepts.
	MaxMessageBytes = 16 << 20
	// MaxPayloadBytes is the largest payload of one access unit: a message less
	// generous room for its other fields.
	MaxPayloadBytes = MaxMessageBytes - 64<<10
	// BatchBytes is how much payload one message gathers at most; a larger unit
	// travels alone. Control messages wait no longer than one batch.
	BatchBytes = 256 << 10
	// RoundBytes is how much payload one session sends before its neighbours' turn.
	RoundBytes = 64 << 10
	// MinWindowBytes is the least credit of a session.
	MinWindowBytes = 64 << 10
	// WindowTime is the media time that a session's credit covers.
	WindowTime = 250 * time.Millisecond
	// IngestWindowBytes is the credit of ingest sessions and of the output of
	// transforms. It is a safety net, not a regulator.
	IngestWindowBytes = 4 << 20
)

// MaxAge bounds how long before its arrival a plugin may say that a unit was
// received from the network.
const MaxAge = 5 * time.Second

// Sizes of the gRPC connection. The default stream window of 64 KB would cost a
// keyframe several round trips.
const (
	bufferBytes     = 256 << 10
	streamWindow    = 1 << 20
	connWindow      = 8 << 20
	messageHeadroom = 64 << 10
	maxFrameBytes   = MaxMessageBytes + messageHeadroom // of one message
)

// ServerOptions are those of the plugin's gRPC server.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(quickCredentials()),
		grpc.ForceServerCodecV2(Codec()),
		grpc.MaxRecvMsgSize(maxFrameBytes),
		grpc.MaxSendMsgSize(maxFrameBytes),
		grpc.ReadBufferSize(bufferBytes),
		grpc.WriteBufferSize(bufferBytes),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
	}
}

// DialOptions are those of the gateway's connection to a plugin.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(quickCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(Codec()),
			grpc.MaxCallRecvMsgSize(maxFrameBytes),
			grpc.MaxCallSendMsgSize(maxFrameBytes)),
		grpc.WithReadBufferSize(bufferBytes),
		grpc.WithWriteBufferSize(bufferBytes),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
	}
}
