package multipart

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast/holdfast/metadata"
)

const (
	// sessionTTL is the lease of the store's own session, under which long readers hold replaced versions. It is renewed
	// three times in that time, and much shorter than the time that freed chunks wait.
	sessionTTL   = time.Minute
	sessionRenew = sessionTTL / 3
)

// sessionID returns the store's own session, opening it when there is none.
func (s *Store) sessionID(ctx context.Context) (uint64, error) {
	s.mu.Lock()
	id := s.session
	s.mu.Unlock()
	if id != 0 {
		return id, nil
	}
	opened, err := s.catalog.OpenSession(ctx, sessionTTL)
	if err != nil {
		return 0, fmt.Errorf("open session: %w", err)
	}
	s.mu.Lock()
	id = s.session
	if id == 0 {
		s.session = opened
	}
	s.mu.Unlock()
	if id != 0 { // another reader was faster
		return id, s.catalog.CloseSession(ctx, opened)
	}
	return opened, nil
}

// dropSession forgets a session that has expired.
func (s *Store) dropSession(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == id {
		s.session = 0
	}
}

// holdVersion keeps the chunks of a version from being deleted for as long as the store's session lives. It returns
// the session, for releaseVersion.
func (s *Store) holdVersion(ctx context.Context, bucket metadata.BucketID, v *metadata.Version) (uint64, error) {
	for try := 1; ; try++ {
		id, err := s.sessionID(ctx)
		if err != nil {
			return 0, err
		}
		err = s.catalog.Hold(ctx, id, bucket, v.Key, v.ID)
		if errors.Is(err, metadata.ErrSessionFenced) && try == 1 {
			s.dropSession(id)
			continue
		}
		return id, err
	}
}

// releaseVersion ends a hold. A session that has expired has taken its holds with it.
func (s *Store) releaseVersion(ctx context.Context, session uint64, bucket metadata.BucketID, v *metadata.Version) error {
	err := s.catalog.Release(ctx, session, bucket, v.Key, v.ID)
	if errors.Is(err, metadata.ErrSessionFenced) {
		return nil
	}
	return err
}

// renewSession keeps the store's session alive.
func (s *Store) renewSession(ctx context.Context) {
	s.mu.Lock()
	id := s.session
	s.mu.Unlock()
	if id == 0 {
		return
	}
	err := s.catalog.RenewSession(ctx, id)
	switch {
	case errors.Is(err, metadata.ErrSessionFenced):
		s.dropSession(id) // readers take their holds again under the next one
	case err != nil && ctx.Err() == nil:
		s.log.Warn("session of long reads was not renewed", "session", id, "err", err)
	}
}

// closeSession ends the store's session and its holds.
func (s *Store) closeSession() {
	s.mu.Lock()
	id := s.session
	s.session = 0
	s.mu.Unlock()
	if id == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), discardTimeout)
	defer cancel()
	if err := s.catalog.CloseSession(ctx, id); err != nil {
		s.log.Info("session of long reads ends with its lease", "session", id, "err", err)
	}
}

// currentSession tells which session holds are taken under now, 0 when there is none.
func (s *Store) currentSession() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session
}

// openObjects is the objects that are open and would lose chunks when they are replaced.
type openObjects struct {
	mu      sync.Mutex
	objects map[*object]struct{}
}

func (p *openObjects) add(o *object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects == nil {
		p.objects = make(map[*object]struct{})
	}
	p.objects[o] = struct{}{}
}

func (p *openObjects) remove(o *object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.objects, o)
}

func (p *openObjects) all() []*object {
	p.mu.Lock()
	defer p.mu.Unlock()
	objects := make([]*object, 0, len(p.objects))
	for o := range p.objects {
		objects = append(objects, o)
	}
	return objects
}

// holdOpen takes holds for objects that have been open for long, read or not: a mounted file may be left open for days
// between two reads.
func (s *Store) holdOpen(ctx context.Context) {
	for _, o := range s.open.all() {
		err := o.hold(ctx)
		if err != nil && !errors.Is(err, errClosedObject) && ctx.Err() == nil {
			s.log.Warn("open object is not held", "key", o.version.Key, "err", err)
		}
	}
}
