package multiparttest

import (
	"context"
	"sync"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
)

// group is a raft.Group of one voter that applies what it is given at once, without a log: what a replica does between
// restarts.
type group struct {
	id      raft.GroupID
	machine raft.Machine
	db      *kv.DB

	mu    sync.Mutex // one command after the other
	index uint64
	// fail decides before a command whether it fails without being applied; nil: none does.
	fail func() error
}

// firstTerm is the term in which the only voter leads.
const firstTerm = 1

func (g *group) ID() raft.GroupID { return g.id }

func (g *group) Propose(ctx context.Context, command []byte) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		if err := g.fail(); err != nil {
			return nil, err
		}
	}
	g.index++
	b := g.db.NewBatch()
	result := g.machine.Apply(g.index, firstTerm, command, g.db, b)
	if err := g.db.Write(b); err != nil {
		return nil, err
	}
	return result, nil
}

func (g *group) Barrier(ctx context.Context) (uint64, error) { return firstTerm, ctx.Err() }

func (g *group) State() kv.Reader { return g.db }

func (g *group) Snapshot() (raft.Snapshot, error) { return g.db.Snapshot() }
