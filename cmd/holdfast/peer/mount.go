package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast/holdfast/fusefs/local"
	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/metadata"
)

const (
	// mountLease is the lease of a mount's session in the catalog. The mount service watches the mount itself with a
	// shorter one; this lease only ends sessions of a gateway that died, so it may be long: a mount comes back within it.
	mountLease = 30 * time.Second
	renewEvery = mountLease / 3
)

// reserveMount serves what mounts need beside S3.
func (c *core) reserveMount() {
	c.mounts = &mountSessions{core: c, open: make(map[string]*mountSession)}
	prefix, service := remote.NewService(remote.ServiceConfig{Open: c.mounts.objects, Mark: c.peer.mark, Log: c.peer.log})
	c.service = service
	c.face.Reserve(prefix, service, false)
}

// mountSessions maps the sessions that mounts name to sessions of the catalog, which own their uploads and stages.
type mountSessions struct {
	core *core

	mu   sync.Mutex
	open map[string]*mountSession
}

// mountSession is one; renewal runs until cancel.
type mountSession struct {
	number uint64
	cancel context.CancelFunc
	ended  chan struct{}
}

// mountObjects is a bucket as one mount sees it.
type mountObjects struct {
	*local.Objects
	sessions *mountSessions
	session  string
}

// EndSession implements tree.Ender.
func (m mountObjects) EndSession(ctx context.Context) error { return m.sessions.end(ctx, m.session) }

var _ tree.Ender = mountObjects{}

// objects opens a bucket below a prefix for a mount.
func (m *mountSessions) objects(ctx context.Context, bucket, prefix, session string) (tree.Objects, error) {
	b, err := m.core.catalog.Bucket(ctx, bucket)
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return nil, fmt.Errorf("no such bucket %q: %w", bucket, tree.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tree.ErrIO, err)
	}
	number, err := m.number(ctx, session)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tree.ErrIO, err)
	}
	objects, err := local.New(local.Config{Store: m.core.objects, Bucket: b.ID, Prefix: prefix, Session: number})
	if err != nil {
		return nil, err
	}
	return mountObjects{Objects: objects, sessions: m, session: session}, nil
}

// number returns the catalog's session for a mount's, opening it the first time. After a restart of this process it is
// the same one: what the mount has under way goes on, and a change that it repeats is not made twice.
func (m *mountSessions) number(ctx context.Context, session string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock() // also while the catalog answers: two opens of one session must become one
	if s, ok := m.open[session]; ok {
		return s.number, nil
	}
	number, err := m.core.objects.TakeSession(ctx, "mount/"+session, mountLease)
	if err != nil {
		return 0, fmt.Errorf("open a session: %w", err)
	}
	life, cancel := context.WithCancel(context.Background())
	s := &mountSession{number: number, cancel: cancel, ended: make(chan struct{})}
	m.open[session] = s
	go func() {
		defer close(s.ended)
		m.renew(life, session, s)
	}()
	return number, nil
}

// renew keeps a session alive until it is ended here, or is found to have ended.
func (m *mountSessions) renew(ctx context.Context, session string, s *mountSession) {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := m.core.objects.RenewSession(ctx, s.number)
		switch {
		case errors.Is(err, metadata.ErrSessionFenced):
			m.core.peer.log.Warn("the session of a mount ended early", "session", session)
			m.mu.Lock()
			if m.open[session] == s {
				delete(m.open, session)
			}
			m.mu.Unlock()
			return
		case err != nil && ctx.Err() == nil:
			m.core.peer.log.Warn("renew the session of a mount", "session", session, "err", err)
		}
	}
}

// end ends a session: its stages are published, its uploads given back.
func (m *mountSessions) end(ctx context.Context, session string) error {
	m.mu.Lock()
	s := m.open[session]
	delete(m.open, session)
	m.mu.Unlock()
	if s == nil {
		return nil
	}
	s.cancel()
	<-s.ended
	return m.core.objects.CloseSession(ctx, s.number)
}

// stop ends the renewals. The sessions themselves stay: mounts come back to them, or their leases end.
func (m *mountSessions) stop() {
	m.mu.Lock()
	open := m.open
	m.open = make(map[string]*mountSession)
	m.mu.Unlock()
	for _, s := range open {
		s.cancel()
		<-s.ended
	}
}
