package pluginhost

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/headgate/gateway/sdk/wire"
)

// errBroken: the connection ended without having been asked to.
var errBroken = errors.New("the connection to its process broke")

// told is the end of a connection in words: what the plugin did, and what to do.
func told(err error) error {
	if errors.Is(err, io.EOF) {
		return errBroken
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch st.Code() {
	case codes.ResourceExhausted:
		return fmt.Errorf("it sent a message larger than the %d MiB that the wire carries; %s", wire.MaxMessageBytes>>20, remedy)
	case codes.Internal:
		return fmt.Errorf("it sent what is no message of the wire: %s; %s", st.Message(), remedy)
	case codes.Unimplemented:
		return fmt.Errorf("it does not serve gateway.plugin.v1.Plugin: %s; name a plugin for this gateway", st.Message())
	case codes.Unavailable, codes.Canceled:
		return errBroken
	default:
		return fmt.Errorf("it ended the connection: %s", st.Message())
	}
}

// silent reports whether a start failed because standard output ended without a line:
// the process ends, or has ended.
func silent(err error) bool {
	return strings.Contains(err.Error(), "Failed to read any lines from plugin's stdout")
}

// notStarted is the failure of a start in words. text is go-plugin's, of which only the
// wording is used; ended says how the process ended, if it did.
func notStarted(err error, ended string) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "incompatible API version"), strings.Contains(text, "Incompatible core API version"):
		return fmt.Errorf("it speaks another version of the wire, and this gateway speaks version %d; build it with an SDK for that, or use a gateway that fits it",
			wire.ProtocolVersion)
	case ended == "exit status 127":
		return errors.New("it ended before it said hello, because a program was not found that it is run by or calls; see the log for which, and install that")
	case ended != "":
		return errors.New("it ended before it said hello; start it by hand, where it says what it is, and see what it prints")
	case strings.Contains(text, "Unrecognized remote plugin message"):
		return errors.New("the first line that it printed is no handshake; name a plugin for this gateway, and have it print nothing to standard output before")
	}
	return err
}

// A handshakeReader is the standard output of a process: its first line is the
// handshake, and is all that comes out. What follows should not be there: it is read,
// so that the process does not block, and logged.
type handshakeReader struct {
	io.ReadCloser
	rest *logWriter

	over    bool // the first line is through
	printed sync.Once
}

func (h *handshakeReader) Read(p []byte) (int, error) {
	for {
		n, err := h.ReadCloser.Read(p)
		read := p[:n]
		if !h.over {
			line, rest, found := strings.Cut(string(read), "\n")
			if !found {
				return n, err
			}
			h.over = true
			if rest != "" {
				h.tell([]byte(rest))
			}
			return len(line) + 1, err
		}
		if n > 0 {
			h.tell(read)
		}
		if err != nil {
			return 0, err
		}
	}
}

func (h *handshakeReader) tell(b []byte) {
	h.printed.Do(func() {
		h.rest.log.Warn("the plugin prints to standard output, which is for the handshake alone", "remedy", "print to standard error, which is the log")
	})
	_, _ = h.rest.Write(b) // it never fails
}
