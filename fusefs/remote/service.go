package remote

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/holdfast/holdfast/fusefs/remote/mountpb"
	"github.com/holdfast/holdfast/fusefs/remote/mountpb/mountpbconnect"
	"github.com/holdfast/holdfast/fusefs/tree"
)

// ServiceConfig is what the service in a gateway needs.
type ServiceConfig struct {
	// Open gives the Objects of a bucket, below prefix, for one session; ctx tells who asks. It is called again with the
	// same session when the gateway was restarted, and at every gateway that the mount uses. If the Objects implement
	// tree.Ender they are told of the end; if they implement Keeper, the session ends by the lease that they keep.
	Open func(ctx context.Context, bucket, prefix, session string) (tree.Objects, error)
	// Owner names who asks, so that nobody uses the session of another. Nil: everybody is the same.
	Owner func(ctx context.Context) string
	// Lease is how long a session lives without a renewal. Zero means the package's Lease.
	Lease time.Duration
	// Gateways are the URLs of all gateways of the cluster, as mounts reach them; nil, and an empty answer, say that none
	// are known. It must not block.
	Gateways func() []string
	// Mark shows every commit to the mounts of this machine. Nil: they ask.
	Mark *Mark
	// Log gets the errors of sessions that end by themselves. Nil means slog.Default().
	Log *slog.Logger
}

// Keeper is implemented by Objects whose session is known to every gateway, with a lease of its own that the renewals of
// the mount keep. A gateway that does not hear of the mount any more ends nothing then: the mount may be at another one.
// If it is at none, the lease ends.
type Keeper interface {
	// KeepSession begins the lease anew, of at least the service's Lease. ErrSessionOver says that it had ended.
	KeepSession(ctx context.Context) error
}

// ErrSessionOver says that the lease of a session has ended.
var ErrSessionOver = errors.New("the session of a mount is over")

// Service is the mount service of a gateway: an http.Handler for PathPrefix.
type Service struct {
	mountpbconnect.UnimplementedMountServiceHandler
	config ServiceConfig
	mux    *http.ServeMux
	reads  chan struct{}
	// procedures are what pipes can ask for.
	procedures map[string]procedure

	// ending counts the sessions that end by themselves.
	ending sync.WaitGroup

	mu       sync.Mutex
	sessions map[string]*session
	pipes    pipeServer
	closed   bool
}

// NewService makes the service and says at which path prefix to serve it.
func NewService(c ServiceConfig) (pathPrefix string, s *Service) {
	if c.Lease == 0 {
		c.Lease = Lease
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Owner == nil {
		c.Owner = func(context.Context) string { return "" }
	}
	s = &Service{config: c, mux: http.NewServeMux(), reads: make(chan struct{}, maxReads), sessions: map[string]*session{}}
	s.procedures, s.pipes.conns = procedures(), map[net.Conn]bool{}
	// What is sent is small or does not shrink.
	path, handler := mountpbconnect.NewMountServiceHandler(s, connect.WithReadMaxBytes(maxMessage), connect.WithCompression("gzip", nil, nil))
	prefix := PathPrefix[:len(PathPrefix)-1]
	s.mux.Handle(prefix+path, http.StripPrefix(prefix, handler))
	s.mux.HandleFunc("PUT "+pathPart, s.putPart)
	s.mux.HandleFunc("GET "+pathPart, s.getPart)
	s.mux.HandleFunc("GET "+pathRead, s.getRead)
	s.mux.HandleFunc("GET "+pathPipe, s.openPipe)
	return PathPrefix, s
}

// ServeHTTP answers requests whose signature was checked.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close ends every session of this gateway without ending it for the store: the mounts go on at another gateway, or at
// this one after its restart.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	errs := []error{s.endPipes()}
	s.mu.Lock()
	all := s.sessions
	s.sessions = map[string]*session{}
	s.countLocked()
	s.mu.Unlock()
	for _, sess := range all {
		sess.mu.Lock()
		ended := sess.ended
		sess.ended = true
		sess.timer.Stop()
		readers := sess.readers
		sess.readers = map[uint64]*served{}
		sess.mu.Unlock()
		if ended {
			continue
		}
		for _, r := range readers {
			r.uses.Wait()
			errs = append(errs, r.Close())
		}
	}
	s.ending.Wait()
	return errors.Join(errs...)
}

// session finds the session of a request.
func (s *Service) session(ctx context.Context, id string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errStopping
	}
	sess := s.sessions[id]
	if sess == nil || sess.owner != s.config.Owner(ctx) {
		return nil, errNoSession
	}
	sess.hear()
	return sess, nil
}

// OpenSession implements the service.
func (s *Service) OpenSession(ctx context.Context, r *connect.Request[mountpb.OpenSessionRequest]) (*connect.Response[mountpb.OpenSessionResponse], error) {
	id := r.Msg.GetSession()
	if len(id) < 16 || len(id) > 128 {
		return nil, toWire(tree.ErrInvalid)
	}
	welcome := connect.NewResponse(&mountpb.OpenSessionResponse{LeaseMs: s.config.Lease.Milliseconds(), Gateways: s.gateways()})
	s.tellMark(r, welcome.Header())
	switch _, err := s.session(ctx, id); {
	case err == nil:
		return welcome, nil
	case errors.Is(err, errStopping):
		return nil, toWire(err)
	}
	objects, err := s.config.Open(ctx, r.Msg.GetBucket(), r.Msg.GetPrefix(), id)
	if err != nil {
		return nil, toWire(err)
	}
	sess := &session{
		id: id, bucket: r.Msg.GetBucket(), prefix: r.Msg.GetPrefix(), owner: s.config.Owner(ctx), objects: objects,
		readers: map[uint64]*served{}, answers: map[uint64]*answer{},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch there := s.sessions[id]; {
	case s.closed:
		return nil, toWire(errStopping)
	case there != nil && there.owner != sess.owner:
		return nil, toWire(tree.ErrAccess)
	case there != nil:
		there.hear()
		return welcome, nil
	}
	sess.hear()
	sess.timer = time.AfterFunc(s.config.Lease, func() { s.expire(sess) })
	s.sessions[id] = sess
	s.countLocked()
	return welcome, nil
}

// countLocked lets the mark be kept while there are sessions.
func (s *Service) countLocked() {
	if m := s.config.Mark; m != nil {
		m.use(len(s.sessions))
	}
}

// tellMark says where the mark is to a mount that may be on this machine.
func (s *Service) tellMark(r *connect.Request[mountpb.OpenSessionRequest], header http.Header) {
	if m := s.config.Mark; m != nil && isLoopback(r.Peer().Addr) {
		if place := m.offer(); place != "" {
			header.Set(markHeader, place)
		}
	}
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback()
}

// left is how much of its lease a session has, whose timer ran out. A gateway that stood still begins the lease anew.
func (s *Service) left(sess *session) time.Duration {
	left := s.config.Lease - sess.silent()
	if left < -stalled {
		s.config.Log.Warn("this gateway stood still; its mounts keep their leases", "session", sess.id, "took", -left)
		sess.hear()
		return s.config.Lease
	}
	return left
}

// expire ends a session whose mount was not heard of for the lease.
func (s *Service) expire(sess *session) {
	s.mu.Lock()
	if s.closed || s.sessions[sess.id] != sess {
		s.mu.Unlock()
		return
	}
	if left := s.left(sess); left > 0 {
		sess.timer.Reset(left)
		s.mu.Unlock()
		return
	}
	delete(s.sessions, sess.id)
	s.countLocked()
	s.ending.Add(1)
	s.mu.Unlock()
	defer s.ending.Done()
	if _, kept := sess.objects.(Keeper); kept {
		s.config.Log.Info("a mount was not heard of here any more", "session", sess.id, "bucket", sess.bucket)
	} else {
		s.config.Log.Warn("a mount is gone; what it synced is published", "session", sess.id, "bucket", sess.bucket)
	}
	if err := sess.expire(context.Background()); err != nil {
		s.config.Log.Error("end of a session", "session", sess.id, "bucket", sess.bucket, "err", err)
	}
}

func (s *Service) gateways() []string {
	if s.config.Gateways == nil {
		return nil
	}
	return s.config.Gateways()
}

// RenewSession implements the service.
func (s *Service) RenewSession(ctx context.Context, r *connect.Request[mountpb.SessionRequest]) (*connect.Response[mountpb.SessionResponse], error) {
	sess, err := s.session(ctx, r.Msg.GetSession())
	if err != nil {
		return nil, toWire(err)
	}
	if err := s.keep(ctx, sess); err != nil {
		return nil, toWire(err)
	}
	answer := &mountpb.SessionResponse{LeaseMs: s.config.Lease.Milliseconds()}
	if r.Msg.GetGateways() {
		answer.Gateways = s.gateways()
	}
	return connect.NewResponse(answer), nil
}

// keep renews the lease that other gateways see too. A session that is over is forgotten here: its mount begins another.
func (s *Service) keep(ctx context.Context, sess *session) error {
	keeper, ok := sess.objects.(Keeper)
	if !ok {
		return nil
	}
	err := keeper.KeepSession(ctx)
	if !errors.Is(err, ErrSessionOver) {
		return err
	}
	s.config.Log.Warn("the session of a mount ended before its mount did", "session", sess.id, "bucket", sess.bucket)
	s.forget(sess)
	return errors.Join(errNoSession, sess.leave())
}

// forget takes a session out of those that are known.
func (s *Service) forget(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[sess.id] == sess {
		delete(s.sessions, sess.id)
		s.countLocked()
	}
}

// CloseSession implements the service.
func (s *Service) CloseSession(ctx context.Context, r *connect.Request[mountpb.SessionRequest]) (*connect.Response[mountpb.SessionResponse], error) {
	sess, err := s.session(ctx, r.Msg.GetSession())
	if err != nil {
		return nil, toWire(err) // where it is not known it is opened once more: it may have been left by another gateway
	}
	s.forget(sess)
	if err := sess.end(context.WithoutCancel(ctx)); err != nil {
		return nil, toWire(err)
	}
	return connect.NewResponse(&mountpb.SessionResponse{}), nil
}
