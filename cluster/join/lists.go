package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
)

// How a Lists waits.
const (
	// listCheck is how often the list is read although the topology stays as it is.
	listCheck = 5 * time.Minute
	// listPause is how long after a read that failed. Others serve a revoked peer until they know.
	listPause = time.Second
)

// Lists is the worker that keeps a peer's list of whom the cluster trusts the newest: it reads the row whenever there is
// a new map, and revocation makes one.
type Lists struct {
	Root  *root.Client
	Trust *trust.Store
	// Current gives the newest map and a channel that is closed when there is a newer one: topology.Watcher's.
	Current func() (topology.Map, <-chan struct{})
	// Save stores a list beside the credentials, for the next start. It may be nil.
	Save func(trust.List) error
	// Changed is told when a list has come into use: it calls TrustChanged of the transport's Server and Peers.
	Changed func(trust.List)
	// Log hears of reads that failed. Nil means slog.Default.
	Log *slog.Logger

	// mu makes one Refresh wait for the other.
	mu sync.Mutex
	// unsaved: the list in use was not stored yet.
	unsaved bool
}

// Name says what the worker is called in status.
func (l *Lists) Name() string { return "trust" }

// Refresh reads the list and uses it when it is newer. It may be called beside Run.
func (l *Lists) Refresh(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, list, err := loadList(ctx, l.Root)
	if err != nil {
		return err
	}
	before := l.Trust.List().Epoch
	switch err := l.Trust.SetList(list); {
	case errors.Is(err, trust.ErrOldList):
		return nil // somebody else gave the Store a newer one, and stores that
	case err != nil:
		return fmt.Errorf("use the list of whom the cluster trusts: %w", err)
	}
	if list.Epoch != before {
		l.unsaved = l.Save != nil
		if l.Changed != nil {
			l.Changed(list)
		}
	}
	if !l.unsaved {
		return nil
	}
	if err := l.Save(list); err != nil {
		return fmt.Errorf("store the list of whom the cluster trusts: %w", err)
	}
	l.unsaved = false
	return nil
}

// Run keeps the list until ctx ends. While the root group does not answer the list stays as it is.
func (l *Lists) Run(ctx context.Context) error {
	if l.Log == nil {
		l.Log = slog.Default()
	}
	for {
		_, news := l.Current()
		wait := listCheck
		if err := l.Refresh(ctx); err != nil && ctx.Err() == nil {
			l.Log.Warn("the list of whom the cluster trusts was not renewed", "err", err)
			wait = listPause
		}
		timer := time.NewTimer(wait)
		select {
		case <-news:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}
