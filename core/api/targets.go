package api

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/status"
)

// streamPrefix is where single streams and their targets are.
const streamPrefix = "/v1/streams/"

// under takes the part of a path behind [streamPrefix] apart, escaped as the
// client sent it. The name of a stream may have slashes, plain or as %2F; of a
// path that can be read in two ways the target is meant.
func under(escaped string) (stream, target string, list, ok bool) {
	segments := strings.Split(escaped, "/")
	n := len(segments)
	switch {
	case n >= 3 && segments[n-2] == "targets" && segments[n-1] != "":
		target, segments = segments[n-1], segments[:n-2]
	case n >= 2 && segments[n-1] == "targets":
		list, segments = true, segments[:n-1]
	}
	stream, err := url.PathUnescape(strings.Join(segments, "/"))
	if err != nil {
		return "", "", false, false
	}
	target, err = url.PathUnescape(target)
	return stream, target, list, err == nil && stream != ""
}

// streamTree answers below /v1/streams/.
func (s *Server) streamTree(w http.ResponseWriter, r *http.Request) {
	stream, target, list, ok := under(strings.TrimPrefix(r.URL.EscapedPath(), streamPrefix))
	switch {
	case !ok:
		problem(w, http.StatusNotFound, "There is nothing at this address. / says what there is.")
	case target != "":
		s.target(w, r, stream, target)
	default:
		only(func(w http.ResponseWriter, _ *http.Request) {
			st := s.stream(stream)
			switch {
			case st == nil:
				refused(w, status.ErrNoStream)
			case list:
				answer(w, targetList{st.Targets})
			default:
				answer(w, st)
			}
		})(w, r)
	}
}

// targetList is the answer of GET /v1/streams/NAME/targets.
type targetList struct {
	Targets []status.Target `json:"targets"`
}

// stream is the stream of a name as it is answered; nil if there is none.
func (s *Server) stream(name string) *status.Stream {
	for _, st := range s.opt.Gateway.Streams() {
		if st.Name == name {
			st = shown(st)
			return &st
		}
	}
	return nil
}

// A targetAnswer is a target, and what is to be known of its definition.
type targetAnswer struct {
	status.Target
	Diagnostics config.Diagnostics `json:"diagnostics,omitempty"`
}

// target answers for one target: GET, PUT, PATCH and DELETE.
func (s *Server) target(w http.ResponseWriter, r *http.Request, stream, name string) {
	var ds config.Diagnostics
	code := http.StatusOK
	var err error
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPut:
		body, ok := jsonBody(w, r, "application/json")
		if !ok {
			return
		}
		var created bool
		created, ds, err = s.opt.Gateway.PutTarget(stream, name, body, replaces(r))
		if created {
			code = http.StatusCreated
		}
	case http.MethodPatch:
		body, ok := jsonBody(w, r, "application/merge-patch+json", "application/json")
		if !ok {
			return
		}
		ds, err = s.opt.Gateway.PatchTarget(stream, name, body, matches(r))
	case http.MethodDelete:
		if err = s.opt.Gateway.RemoveTarget(stream, name, matches(r)); err == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT, PATCH, DELETE")
		problem(w, http.StatusMethodNotAllowed, "A target can be read, given (PUT), changed (PATCH) and removed (DELETE).")
		return
	}
	if err == nil {
		var st status.Target
		var tag string
		if st, tag, err = s.opt.Gateway.Target(stream, name); err == nil {
			w.Header().Set("ETag", `"`+tag+`"`)
			if st.UnitsDropped == nil {
				st.UnitsDropped = map[string]uint64{}
			}
			answerAs(w, code, targetAnswer{st, ds})
			return
		}
	}
	refused(w, err)
}

// errMustMatch and its like are why a precondition of the request does not hold.
var (
	errChanged   = errors.New("the target was changed since; get it anew and look whether you still want this")
	errThere     = errors.New("there is a target of this name already")
	errNotThere  = errors.New("there is no target of this name any more")
	errMustMatch = errors.New("the target is there already: send If-Match with the ETag of GET, so that nobody's change is lost, or If-Match: * to replace it whatever it is")
)

// matches checks If-Match, if there is one. The tag is that of the target, empty
// without one.
func matches(r *http.Request) func(tag string) error {
	fields := r.Header.Values("If-Match")
	return func(tag string) error {
		if len(fields) == 0 {
			return nil
		}
		if tag == "" {
			return errNotThere
		}
		for _, f := range fields {
			for t := range strings.SplitSeq(f, ",") {
				if t = strings.TrimSpace(t); t == "*" || t == `"`+tag+`"` {
					return nil
				}
			}
		}
		return errChanged
	}
}

// replaces checks what a PUT may do: make a target that is not there, or replace
// one that its sender has seen.
func replaces(r *http.Request) func(tag string) error {
	match := matches(r)
	return func(tag string) error {
		switch {
		case strings.TrimSpace(r.Header.Get("If-None-Match")) == "*" && tag != "":
			return errThere
		case tag != "" && len(r.Header.Values("If-Match")) == 0:
			return errMustMatch
		}
		return match(tag)
	}
}

// jsonBody reads the body, which must be of one of the types.
func jsonBody(w http.ResponseWriter, r *http.Request, types ...string) ([]byte, bool) {
	is, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	ok := false
	for _, t := range types {
		ok = ok || err == nil && is == t
	}
	if !ok {
		w.Header().Set("Accept", strings.Join(types, ", "))
		problem(w, http.StatusUnsupportedMediaType, "Send the body as "+types[0]+".")
		return nil, false
	}
	body, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		problem(w, http.StatusRequestEntityTooLarge, "The body is larger than 64 KiB.")
		return nil, false
	case err != nil:
		problem(w, http.StatusBadRequest, "The body did not arrive whole.")
		return nil, false
	}
	return body, true
}

// refused answers with the problem that err is.
func refused(w http.ResponseWriter, err error) {
	var invalid *status.InvalidTargetError
	if errors.As(err, &invalid) {
		problemWith(w, http.StatusUnprocessableEntity, sentence(err), invalid.Diagnostics)
		return
	}
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, status.ErrNoStream), errors.Is(err, status.ErrNoTarget):
		code = http.StatusNotFound
	case errors.Is(err, errChanged), errors.Is(err, errThere), errors.Is(err, errNotThere):
		code = http.StatusPreconditionFailed
	case errors.Is(err, errMustMatch):
		code = http.StatusPreconditionRequired
	case errors.Is(err, status.ErrTooManyTargets):
		code = http.StatusConflict
	case errors.Is(err, status.ErrEnding):
		w.Header().Set("Retry-After", "5")
		code = http.StatusServiceUnavailable
	}
	problem(w, code, sentence(err))
}

// sentence is an error as the detail of a problem document.
func sentence(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:] + "."
}
