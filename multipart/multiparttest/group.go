package multiparttest

import (
	"context"
	"fmt"
	"sync"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/metadata/tablet"
)

// The groups of a Kit.
const (
	rootGroup raft.GroupID = iota + 1
	tabletGroup
)

const (
	// mirrors is on how many drives the log is kept, as with one voter.
	mirrors = 5
	// segment is small, so that a test's memory is; a command may take an eighth of it.
	segment = 2 << 20
)

// hostConfig is a raft host on a file system in memory.
func hostConfig(fs vfs.FS) raft.Config {
	c := raft.Config{
		FS: fs, StateDir: "/state", Cluster: cluster.ClusterID{1}, SegmentSize: segment,
		Machines: func(id raft.GroupID) raft.Machine {
			if id == rootGroup {
				return root.New()
			}
			return tablet.New()
		},
	}
	for i := range mirrors {
		c.Mirrors = append(c.Mirrors, raft.Mirror{Drive: cluster.DriveID{byte(i), 15: 1}, Dir: fmt.Sprintf("/drives/d%d", i)})
	}
	return c
}

// group is a raft group whose commands can be made to fail.
type group struct {
	raft.Group

	mu sync.Mutex
	// fail decides before a command whether it fails without being applied; nil: none does.
	fail func() error
}

func (g *group) Propose(ctx context.Context, command []byte) (any, error) {
	g.mu.Lock()
	fail := g.fail
	g.mu.Unlock()
	if fail != nil {
		if err := fail(); err != nil {
			return nil, err
		}
	}
	return g.Group.Propose(ctx, command)
}
