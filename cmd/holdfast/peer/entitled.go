package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	chunkremote "github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/transport"
)

const (
	// ownerPatience is how long the row of a volume is waited for: an election. A caller may have given up by then.
	ownerPatience = 3 * time.Second
	// leadPatience is how long a peer may lead before this one has heard of it, and leadEvery how often it looks.
	leadPatience = 2 * time.Second
	leadEvery    = 50 * time.Millisecond
	// maxOwners bounds the cache of owners: some 3 MiB.
	maxOwners = 1 << 16
)

// entitled says which peer may change what on the drives of this one. Its certificate says who calls:
//
//	put, delete, seal    the peer that opened the volume, and the one that leads the names: it repairs, moves and frees
//	seal                 anybody, of a volume that has no owner
//	all else             any peer: it only reads
//
// A volume's owner never changes, so its row is read once, while the first bytes arrive, and costs the calls after it
// nothing.
type entitled struct {
	leads func(cluster.PeerID) bool
	// owner reads the row of a volume. It is nil until there are names to read it from.
	owner atomic.Pointer[func(context.Context, chunkstore.VolumeID) (cluster.PeerID, error)]
	// refusals count also what the handler refuses by itself.
	refusals chunkremote.Refusals

	mu     sync.Mutex
	owners map[chunkstore.VolumeID]cluster.PeerID
}

var errNoNames = errors.New("this peer has just started and does not know whose volumes are")

// allow is chunkremote.HandlerOptions.Allow.
func (e *entitled) allow(ctx context.Context, volume chunkstore.VolumeID, change chunkremote.Change) error {
	who, ok := transport.Caller(ctx)
	if !ok {
		return fmt.Errorf("a call of nobody: %w", chunkremote.ErrNotEntitled)
	}
	owner, err := e.ownerOf(ctx, volume)
	switch {
	case err != nil && !errors.Is(err, chunkstore.ErrNotFound): // a volume that is gone is the leader's to clean up
		return fmt.Errorf("whose volume it is: %w", err)
	case err == nil && owner == who.Peer:
		return nil
	case err == nil && owner == cluster.PeerID{} && change == chunkremote.Seal:
		return nil
	case e.soonLeads(ctx, who.Peer):
		return nil
	}
	return fmt.Errorf("%v by %v, of a volume of %v: %w", change, who, owner, chunkremote.ErrNotEntitled)
}

// ownerOf says who opened a volume.
func (e *entitled) ownerOf(ctx context.Context, volume chunkstore.VolumeID) (cluster.PeerID, error) {
	e.mu.Lock()
	owner, known := e.owners[volume]
	e.mu.Unlock()
	if known {
		return owner, nil
	}
	read := e.owner.Load()
	if read == nil {
		return owner, errNoNames
	}
	ctx, cancel := context.WithTimeout(ctx, ownerPatience)
	defer cancel()
	owner, err := (*read)(ctx, volume)
	if err != nil {
		return owner, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.owners == nil || len(e.owners) >= maxOwners {
		e.owners = make(map[chunkstore.VolumeID]cluster.PeerID)
	}
	e.owners[volume] = owner
	return owner, nil
}

// soonLeads says whether a peer leads the names, or is about to as far as this one knows: who was just elected begins
// its work before all have heard of it.
func (e *entitled) soonLeads(ctx context.Context, id cluster.PeerID) bool {
	ctx, cancel := context.WithTimeout(ctx, leadPatience)
	defer cancel()
	ticker := time.NewTicker(leadEvery)
	defer ticker.Stop()
	for !e.leads(id) {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
	return true
}

// readOwners lets the owners be read from now on.
func (e *entitled) readOwners(rows volumes) {
	read := func(ctx context.Context, id chunkstore.VolumeID) (cluster.PeerID, error) {
		v, err := rows.Volume(ctx, id)
		return v.Owner, err
	}
	e.owner.Store(&read)
}
