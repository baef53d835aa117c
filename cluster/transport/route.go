package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/holdfast/holdfast/cluster/trust"
)

// pingPath answers whether the peer is alive.
const pingPath = "/-/ping"

// mux puts the routes together with the roles that may call them.
func (s *Server) mux(routes []Route, inlets []Inlet) (handler http.Handler, err error) {
	routes = append([]Route{{Pattern: "GET " + pingPath, Roles: trust.RolePeer | trust.RoleAdmin, Handler: HandlerFunc(ping)}}, routes...)
	for _, inlet := range inlets {
		routes = append(routes, Route{Pattern: "GET " + streamPath(inlet.Name), Roles: inlet.Roles, Handler: s.inlet(inlet)})
	}
	// Not a mistake of the network, but of who wrote the patterns: two that mean the same.
	defer func() {
		if wrong := recover(); wrong != nil {
			err = fmt.Errorf("routes of peers: %v", wrong)
		}
	}()
	mux := http.NewServeMux()
	for _, route := range routes {
		s.policy[route.Pattern] = route.Roles
		mux.Handle(route.Pattern, s.guard(route))
	}
	// What nobody registered is refused like what nobody may call: it tells nothing of what there is.
	mux.Handle("/", s.guard(Route{Pattern: "/", Handler: http.NotFoundHandler()}))
	return mux, nil
}

// Routes are the patterns of all that may be called here, those of streams and of the ping too, in order.
func (s *Server) Routes() []string { return slices.Sorted(maps.Keys(s.policy)) }

func ping(w http.ResponseWriter, _ *http.Request) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// connKey is where a request's context holds its connection.
type connKey struct{}

// callKey is where a request's context holds its call.
type callKey struct{}

type call struct {
	caller trust.Identity
	server *Server
}

// Caller is who called: the identity that was checked for this call. ok is false outside of a Server.
func Caller(ctx context.Context) (caller trust.Identity, ok bool) {
	c, ok := ctx.Value(callKey{}).(call)
	return c.caller, ok
}

// HandlerFunc is a handler that may return an error: the caller gets it as a RemoteError. When the answer has begun the
// connection breaks instead, so that nobody takes half an answer for a whole one.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// ServeHTTP implements http.Handler.
func (f HandlerFunc) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := f(w, r); err != nil {
		Fail(w, r, err)
	}
}

// Fail answers a request of a Server with an error.
func Fail(w http.ResponseWriter, r *http.Request, err error) {
	c, ok := r.Context().Value(callKey{}).(call)
	if !ok {
		panic("transport: Fail outside of a call")
	}
	if a, ok := w.(*answer); ok && a.begun {
		panic(http.ErrAbortHandler)
	}
	c.server.fail(w, err)
}

// fail sends an error. The status is for people who look on; programs read the header.
func (s *Server) fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var reason trust.Reason
	switch {
	case errors.As(err, &reason):
		status = http.StatusForbidden
	case errors.Is(err, ErrTooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrStopping):
		status = http.StatusServiceUnavailable
	}
	w.Header().Set(ErrorHeader, s.sentinels.Encode(err))
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
}

// guard is a route with everything that comes before its handler.
func (s *Server) guard(route Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.begin() {
			s.fail(w, ErrStopping)
			return
		}
		defer s.end()
		caller, err := s.authorize(r, route.Pattern)
		if err != nil {
			s.refuse(w, r, caller, err)
			return
		}
		s.serve(w, r.WithContext(context.WithValue(r.Context(), callKey{}, call{caller, s})), route)
	})
}

// authorize says who calls, and whether it may. The caller is known also when it may not for its role.
func (s *Server) authorize(r *http.Request, pattern string) (trust.Identity, error) {
	caller, err := s.trust.Caller(*r.TLS)
	if err == nil && s.policy.Allow(pattern, caller) != nil {
		_, err = s.trust.Authorize(*r.TLS, s.policy, pattern) // the same again, and counted
	}
	return caller, err
}

// refuse answers a call that may not be made.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, caller trust.Identity, err error) {
	who := caller.Peer.String()
	if caller == (trust.Identity{}) {
		who = hostOf(addressText(r.RemoteAddr))
		w.Header().Set("Connection", "close") // who is not trusted any more needs no connection
	}
	s.log.warn("call "+who, "a call was refused", "peer", who, "call", r.Method+" "+r.URL.Path, "err", err)
	s.fail(w, err)
}

// serve runs the handler.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, route Route) {
	controller := http.NewResponseController(w)
	out := &answer{ResponseWriter: w, dog: watchdog{limit: s.stall}}
	out.dog.bite = func() { cutAnswer(r, controller) }
	if err := s.bound(w, r, route, controller); err != nil {
		s.fail(w, err)
		return
	}
	defer func() {
		if wrong := recover(); wrong != nil {
			s.crashed(out, route.Pattern, wrong)
		}
	}()
	route.Handler.ServeHTTP(out, r)
}

// cutAnswer ends an answer that nobody reads.
func cutAnswer(r *http.Request, controller *http.ResponseController) {
	if conn, ok := r.Context().Value(connKey{}).(*tls.Conn); ok && r.ProtoMajor == 1 {
		cut(conn) // after a deadline net/http would say farewell first, for 5 s
		return
	}
	_ = controller.SetWriteDeadline(time.Unix(1, 0)) // its error says that the call is over already
}

// crashed ends a call whose handler panicked. The process goes on: what a handler breaks by it is its package's to guard.
func (s *Server) crashed(out *answer, pattern string, wrong any) {
	err, _ := wrong.(error)
	if errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler) // on purpose: net/http breaks the connection without a word
	}
	s.log.log.Error("a call crashed", "call", pattern, "err", wrong, "stack", string(debug.Stack()))
	if out.begun {
		panic(http.ErrAbortHandler)
	}
	s.fail(out, fmt.Errorf("%s: %w", pattern, ErrCrashed))
}

// bound puts the route's limit and the watchdog on the request's body.
func (s *Server) bound(w http.ResponseWriter, r *http.Request, route Route, controller *http.ResponseController) error {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	if route.MaxBody >= 0 && r.ContentLength > route.MaxBody {
		return fmt.Errorf("%s: a body of %d bytes, at most %d: %w", route.Pattern, r.ContentLength, route.MaxBody, ErrTooLarge)
	}
	body := &requestBody{ReadCloser: r.Body, dog: watchdog{limit: s.stall}}
	if route.MaxBody >= 0 {
		body.ReadCloser = http.MaxBytesReader(w, r.Body, route.MaxBody)
	}
	// The error says that the call is over already.
	body.dog.bite = func() { _ = controller.SetReadDeadline(time.Unix(1, 0)) }
	r.Body = body
	return nil
}

// requestBody is what a caller sends.
type requestBody struct {
	io.ReadCloser
	dog watchdog
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.dog.enter()
	n, err := b.ReadCloser.Read(p)
	stalled := b.dog.leave()
	var long *http.MaxBytesError
	switch {
	case err == nil || err == io.EOF:
	case stalled:
		err = fmt.Errorf("read what the caller sends: %w: %w", ErrStalled, err)
	case errors.As(err, &long):
		err = fmt.Errorf("read what the caller sends: more than %d bytes: %w", long.Limit, ErrTooLarge)
	}
	return n, err
}

// answer is what a caller gets.
type answer struct {
	http.ResponseWriter
	dog   watchdog
	begun bool
}

// piece is how much is written at a time: what must move within the stall limit.
const piece = 256 << 10

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	a.begun = a.begun || status >= http.StatusOK
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	a.begun = true
	written := 0
	for {
		a.dog.enter()
		n, err := a.ResponseWriter.Write(p[written:min(len(p), written+piece)])
		if stalled := a.dog.leave(); stalled && err != nil {
			err = fmt.Errorf("answer: %w: %w", ErrStalled, err)
		}
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// FlushError is for http.ResponseController.
func (a *answer) FlushError() error {
	a.begun = true
	a.dog.enter()
	err := http.NewResponseController(a.ResponseWriter).Flush()
	if stalled := a.dog.leave(); stalled && err != nil {
		err = fmt.Errorf("answer: %w: %w", ErrStalled, err)
	}
	return err
}

// Flush implements http.Flusher. What goes wrong the next Write tells.
func (a *answer) Flush() { _ = a.FlushError() }
