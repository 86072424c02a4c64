package sdk

import (
	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk/wire"
)

// Serve runs the plugin process: the whole main function of a plugin. It
// returns when the gateway ends the process.
func Serve(p Plugin) { panic("sdk: contract only") }

// ServeEgress runs a plugin process with one egress that carries H.264 and AAC,
// one track of each. [Serve] offers the rest.
func ServeEgress(name, version string, schemes []string, e Egress) {
	panic("sdk: contract only")
}

// Register adds the plugin's services to s, for tests that speak the wire
// without a process.
func Register(s grpc.ServiceRegistrar, p Plugin) { panic("sdk: contract only") }

// Describe returns what the plugin says of itself on the wire. It opens nothing.
func Describe(p Plugin) *wire.DescribeResponse { panic("sdk: contract only") }

// Options decodes the target's own options into v, a pointer to the type that
// was declared in [EgressPlugin.TargetOptions]. Fields of type [File] are filled
// with the content that the gateway read, durations are written as "250ms".
// Unknown keys are an error. Without options v stays as it is.
func (t Target) Options(v any) error { panic("sdk: contract only") }
