package peer

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/metadata"
	nameremote "github.com/holdfast/holdfast/metadata/remote"
)

func (c *core) tabletMember() raft.Member {
	member := c.host.Group(tabletGroup)
	if wrap := c.peer.seams.Tablet; wrap != nil && member != nil {
		return wrap(member)
	}
	return member
}

// replicaOf finds the replica of a group on this peer.
func (c *core) replicaOf(group raft.GroupID) func() raft.Group {
	return func() raft.Group {
		if member := c.host.Group(group); member != nil {
			return member
		}
		return nil
	}
}

// namesOf asks another peer for names.
func (c *core) namesOf(id cluster.PeerID) metadata.Names {
	if c.links == nil {
		return nil
	}
	return nameremote.New(callsTo(c.links.peers, id), base, nameremote.Options{})
}

// rowsOf asks another peer for rows of the root group.
func (c *core) rowsOf(id cluster.PeerID) root.Seat {
	other, err := c.peer.wire.peer(id)
	if err != nil {
		return nil
	}
	return root.Remote(other, base)
}

// namesAlone says that this peer has the only replica of the tablet, and leads it.
func (c *core) namesAlone() bool {
	member := c.tabletMember()
	if member == nil || c.seat.Catalog() == nil {
		return false
	}
	voters, learners := member.Members()
	return len(voters) == 1 && len(learners) == 0
}

// openCatalog opens the names when this peer begins to lead them.
func (c *core) openCatalog(ctx context.Context) (*metadata.Catalog, error) {
	return metadata.New(ctx, metadata.Config{
		Root: c.root, Tablet: c.tabletMember(), Now: c.peer.seams.Now, Log: c.peer.log,
	})
}

// makeHome makes the bucket that `up --mount` shows.
func (c *core) makeHome(ctx context.Context) error {
	name := c.peer.config.HomeBucket
	if name == "" {
		_, err := c.names.Buckets(ctx) // the names are open when it answers
		return err
	}
	_, err := c.names.CreateBucket(ctx, name, c.peer.AccessKey())
	if errors.Is(err, metadata.ErrBucketExists) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make bucket %s: %w", name, err)
	}
	return nil
}
