package route

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/metadata"
)

const (
	// watchSeat is how often a Seat looks who leads: two atomic loads, against an election of a second.
	watchSeat = 20 * time.Millisecond
	// firstReopen and lastReopen are the waits after a Catalog could not be opened.
	firstReopen = 50 * time.Millisecond
	lastReopen  = time.Second
)

// Seat has a Catalog on this peer for as long as its replica leads the tablet in one term, and the work that only the
// leader does. Its methods Leader and Local are those that Config asks for.
type Seat struct {
	// Member is the replica of the tablet on this peer, nil while there is none. It must not block.
	Member func() raft.Member
	// PeerOf tells on which peer a replica is; false while that is not known. It must not block.
	PeerOf func(replica uint64) (cluster.PeerID, bool)
	// Self is this peer.
	Self cluster.PeerID
	// Open makes the Catalog. Its context ends when this replica does not lead any more.
	Open func(ctx context.Context) (*metadata.Catalog, error)
	// Lead is what else the leader does (repair, rebalance): it is called beside Catalog.Run once the Catalog is open,
	// and must return soon after its context has ended: the Catalog refuses what it asks for then. Nil means nothing.
	Lead func(ctx context.Context, c *metadata.Catalog)
	// Log takes events; nil means none.
	Log *slog.Logger

	catalog atomic.Pointer[metadata.Catalog]
}

// Leader is who leads, as far as this replica knows: Config.Leader. With local, Local may have no Catalog yet.
func (s *Seat) Leader() (peer cluster.PeerID, local, ok bool) {
	_, peer, ok = s.leader()
	return peer, ok && peer == s.Self, ok
}

// leader is who leads in which term, as far as the replica here knows.
func (s *Seat) leader() (term uint64, peer cluster.PeerID, ok bool) {
	member := s.Member()
	if member == nil {
		return 0, cluster.PeerID{}, false
	}
	leader := member.Leader()
	if leader.Replica == 0 {
		return leader.Term, cluster.PeerID{}, false
	}
	peer, ok = s.PeerOf(leader.Replica)
	return leader.Term, peer, ok
}

// Local is the Catalog, nil while there is none: Config.Local.
func (s *Seat) Local() metadata.Names {
	if c := s.catalog.Load(); c != nil {
		return c
	}
	return nil
}

// Catalog is what Local is, for those who need more than its names; nil while there is none.
func (s *Seat) Catalog() *metadata.Catalog { return s.catalog.Load() }

// Run opens and closes Catalogs until ctx ends; none is open when it returns nil. It runs once.
func (s *Seat) Run(ctx context.Context) error {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	ticker := time.NewTicker(watchSeat)
	defer ticker.Stop()
	pause, wait := firstReopen, time.Time{}
	for {
		if term, leads := s.leads(); leads && !time.Now().Before(wait) {
			if s.sit(ctx, term) {
				pause, wait = firstReopen, time.Time{}
			} else {
				wait, pause = time.Now().Add(pause), min(2*pause, lastReopen)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Seat) leads() (term uint64, leads bool) {
	term, peer, ok := s.leader()
	return term, ok && peer == s.Self
}

// sit has a Catalog while this replica leads in a term. It is false when none could be opened.
func (s *Seat) sit(ctx context.Context, term uint64) bool {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() {
		defer cancel()
		s.watch(ctx, term)
	})
	c, err := s.Open(ctx)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, raft.ErrNotLeader) {
			s.Log.Error("names were not opened", "term", term, "err", err)
		}
		return ctx.Err() != nil
	}
	s.catalog.Store(c)
	s.Log.Info("this peer leads the names", "term", term)
	work.Go(func() {
		if err := c.Run(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("background work of the names ended", "err", err)
		}
	})
	if s.Lead != nil {
		work.Go(func() { s.Lead(ctx, c) })
	}
	<-ctx.Done()
	s.catalog.Store(nil)
	// Callers are turned away first: those who wait for this peer must not wait for its work to end.
	if err := c.Close(); err != nil {
		s.Log.Error("names were not closed", "term", term, "err", err)
	}
	s.Log.Info("this peer does not lead the names any more", "term", term)
	return true
}

// watch returns when this replica does not lead in the term any more.
func (s *Seat) watch(ctx context.Context, term uint64) {
	ticker := time.NewTicker(watchSeat)
	defer ticker.Stop()
	for {
		if now, leads := s.leads(); !leads || now != term {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
