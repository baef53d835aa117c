package peer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/rebalance"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/join"
	"github.com/holdfast/holdfast/cluster/placement"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

// Errors of what an operator asks for.
var (
	errNotEmpty = errors.New("it still holds data")
	errVotes    = errors.New("it still has replicas of names")
	errAction   = errors.New("no such action")
)

// Token implements admin.Source.
func (s source) Token(ctx context.Context, life time.Duration) (*admin.Token, error) {
	if s.core == nil {
		return nil, errWaiting
	}
	m := s.core.watcher.Map()
	addresses := []string{s.core.links.address} // it answers for sure
	for _, other := range m.Members() {
		if other.Peer != "" && other.State == topology.Active && other.ID != s.peer.id() {
			addresses = append(addresses, other.Peer)
		}
	}
	const most = 3 // so that a token is a line that can be pasted
	token, err := join.NewToken(ctx, s.core.root, addresses[:min(most, len(addresses))], life, s.peer.seams.Now())
	if err != nil {
		return nil, err
	}
	s.peer.log.Info("a join token was made", "token", token.ID.String(), "expires", token.Expires)
	return &admin.Token{Token: token.Encode(), Expires: token.Expires, Addresses: token.Addresses}, nil
}

// mapNow is the topology as it is now, for what an operator decides.
func (c *core) mapNow(ctx context.Context) (topology.Map, error) {
	if err := c.watcher.Refresh(ctx); err != nil {
		return topology.Map{}, fmt.Errorf("read the topology: %w", err)
	}
	return c.watcher.Map(), nil
}

// ActOnPeer implements admin.Source.
func (s source) ActOnPeer(ctx context.Context, name, action string, force bool) (*admin.Done, error) {
	if s.core == nil {
		return nil, errWaiting
	}
	m, err := s.core.mapNow(ctx)
	if err != nil {
		return nil, err
	}
	target, err := m.Named(name)
	if err != nil {
		return nil, fmt.Errorf("%w %q; `holdfast peer ls` lists them", topology.ErrUnknownPeer, name)
	}
	switch action {
	case admin.Drain, admin.Undrain:
		var left remaining
		if action == admin.Drain {
			if left, err = whatIsLeft(&m, func(d topology.Drive) bool { return d.Peer == target.ID }); err != nil {
				return nil, fmt.Errorf("peer %s: %w", target.Name, err)
			}
		}
		if err := s.core.setPeerState(ctx, target.ID, stateAfter(action)); err != nil {
			return nil, err
		}
		return &admin.Done{Said: said(action, "peer "+target.Name) + left.warning()}, nil
	case admin.Remove:
		return s.removePeer(ctx, &m, target, force)
	}
	return nil, admin.Declined(fmt.Errorf("%q: %w", action, errAction))
}

func stateAfter(action string) topology.State {
	if action == admin.Drain {
		return topology.Draining
	}
	return topology.Active
}

func said(action, what string) string {
	if action == admin.Drain {
		return what + " is being drained: what it holds moves to others; `holdfast status` shows how much is left"
	}
	return what + " takes part again"
}

func (c *core) setPeerState(ctx context.Context, id cluster.PeerID, state topology.State) error {
	m, err := topology.Change(ctx, c.root, func(m *topology.Map) (topology.Extra, error) {
		row, ok := m.Peer(id)
		if !ok {
			return topology.Extra{}, topology.ErrUnknownPeer
		}
		row.State = state
		return topology.Extra{}, m.SetPeer(row)
	})
	if err == nil {
		c.watcher.Take(m)
	}
	return err
}

// removePeer takes a peer out for ever. Without force its drives must be empty.
func (s source) removePeer(ctx context.Context, m *topology.Map, target topology.Peer, force bool) (*admin.Done, error) {
	if len(m.Members()) == 1 {
		return nil, admin.Declined(fmt.Errorf("peer %s is the only one: there would be no cluster", target.Name))
	}
	var drives []cluster.DriveID
	for _, d := range m.Drives {
		if d.Peer == target.ID {
			drives = append(drives, d.ID)
		}
	}
	if !force {
		if err := s.core.mustBeEmpty(ctx, drives); err != nil {
			return nil, fmt.Errorf("peer %s: %w", target.Name, err)
		}
		if err := s.core.mustHaveNoReplica(ctx, target.ID); err != nil {
			return nil, fmt.Errorf("peer %s: %w", target.Name, err)
		}
	}
	if err := s.core.mustLead(ctx, target.ID); err != nil {
		return nil, admin.Declined(fmt.Errorf("peer %s: %w", target.Name, err))
	}
	now, err := join.Revoke(ctx, s.core.root, target.ID, true)
	if err != nil {
		return nil, err
	}
	s.core.watcher.Take(now)
	return &admin.Done{Said: "peer " + target.Name + " was removed; its certificate opens nothing any more, and the others take a new gossip key. Stop it where it still runs"}, nil
}

// ActOnDrive implements admin.Source. A drive is named PEER/NAME, or by its id, or in a cluster of one peer by its name.
func (s source) ActOnDrive(ctx context.Context, name, action string, force bool) (*admin.Done, error) {
	if s.core == nil {
		return nil, errWaiting
	}
	m, err := s.core.mapNow(ctx)
	if err != nil {
		return nil, err
	}
	target, err := findDrive(&m, name)
	if err != nil {
		return nil, err
	}
	change := func(m *topology.Map) error {
		row, ok := m.Drive(target.ID)
		if !ok {
			return topology.ErrUnknownDrive
		}
		row.State = stateAfter(action)
		return m.SetDrive(row)
	}
	done := admin.Done{Said: said(action, "drive "+driveName(&m, target.ID))}
	switch action {
	case admin.Drain:
		left, err := whatIsLeft(&m, func(d topology.Drive) bool { return d.ID == target.ID })
		if err != nil {
			return nil, fmt.Errorf("drive %s: %w", driveName(&m, target.ID), err)
		}
		done.Said += left.warning()
	case admin.Undrain:
	case admin.Remove:
		if !force {
			if err := s.core.mustBeEmpty(ctx, []cluster.DriveID{target.ID}); err != nil {
				return nil, fmt.Errorf("drive %s: %w", driveName(&m, target.ID), err)
			}
		}
		change = func(m *topology.Map) error { // the row stays, or its peer would announce it again
			row, ok := m.Drive(target.ID)
			if !ok {
				return topology.ErrUnknownDrive
			}
			row.State = topology.Removed
			return m.SetDrive(row)
		}
		done.Said = "drive " + driveName(&m, target.ID) + " was removed; take its directory out of --drives before its peer starts again"
	default:
		return nil, admin.Declined(fmt.Errorf("%q: %w", action, errAction))
	}
	now, err := topology.Change(ctx, s.core.root, func(m *topology.Map) (topology.Extra, error) { return topology.Extra{}, change(m) })
	if err != nil {
		return nil, err
	}
	s.core.watcher.Take(now)
	return &done, nil
}

// findDrive finds a drive by what a person calls it. A removed one has no name any more.
func findDrive(m *topology.Map, name string) (topology.Drive, error) {
	peerName, short, both := strings.Cut(name, "/")
	var found []topology.Drive
	for _, d := range m.Drives {
		owner, _ := m.Peer(d.Peer)
		if d.State == topology.Removed {
			continue
		}
		if d.ID.String() == name || both && owner.Name == peerName && d.Name == short || !both && d.Name == name {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return topology.Drive{}, fmt.Errorf("%w %q; `holdfast drive ls` lists them", topology.ErrUnknownDrive, name)
	case 1:
		return found[0], nil
	}
	return topology.Drive{}, admin.Declined(fmt.Errorf("%d peers have a drive %q: write PEER/%s", len(found), name, name))
}

// errNeeded says that a group would lose its majority.
var errNeeded = errors.New("the names need it: bring other peers back first, or drain it until others vote in its place")

// mustLead says why the names could not go on without a peer: of a group that it votes in, no majority would be left to
// take its vote away.
func (c *core) mustLead(ctx context.Context, gone cluster.PeerID) error {
	reports, err := c.reports(ctx)
	if err != nil {
		return err
	}
	for _, group := range []raft.GroupID{rootGroup, tabletGroup} {
		g, found := c.groupReport(group, reports)
		if !found || !slices.Contains(g.Voters, gone) {
			continue
		}
		left := 0
		for _, id := range g.Voters {
			if _, up := reports[id]; up && id != gone {
				left++
			}
		}
		if left < len(g.Voters)/2+1 {
			return fmt.Errorf("%w: of the %d voters of the %s only %d others are up", errNeeded, len(g.Voters), groupNames[group], left)
		}
	}
	return nil
}

// mustBeEmpty says what these drives still hold.
func (c *core) mustBeEmpty(ctx context.Context, drives []cluster.DriveID) error {
	empty, left, err := rebalance.Empty(ctx, c.volumes(), drives...)
	if err != nil {
		return err
	}
	if !empty {
		return admin.Declined(fmt.Errorf("%w, shards of %s: drain it and wait (or --force, when it is lost for good)", errNotEmpty, counted(left, "volume")))
	}
	return nil
}

// mustHaveNoReplica says that a peer is still a member of a group.
func (c *core) mustHaveNoReplica(ctx context.Context, id cluster.PeerID) error {
	reports, err := c.reports(ctx)
	if err != nil {
		return err
	}
	for _, group := range groups {
		if best, found := c.groupReport(group, reports); found && (slices.Contains(best.Voters, id) || slices.Contains(best.Learners, id)) {
			return admin.Declined(fmt.Errorf("%w (%s): drain it and wait (or --force, when it is lost for good)", errVotes, groupNames[group]))
		}
	}
	return nil
}

func counted(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + one + "s"
}

// remaining are the drives that take shards when some are gone.
type remaining struct{ drives int }

// whatIsLeft counts the drives that stay when those that go are drained. With fewer than placement.Least nothing could be
// written, and what is drained would have nowhere to go.
func whatIsLeft(m *topology.Map, goes func(topology.Drive) bool) (remaining, error) {
	staying := 0
	for _, at := range m.Placeable() {
		if d, ok := m.Drive(at.ID); ok && !goes(d) {
			staying++
		}
	}
	if staying < placement.Least {
		return remaining{}, admin.Declined(fmt.Errorf("%s would be left to take its shards, and %d are needed; add drives first",
			counted(staying, "drive"), placement.Least))
	}
	return remaining{staying}, nil
}

// warning says what fewer drives than shards mean.
func (r remaining) warning() string {
	if r.drives == 0 || r.drives >= chunkstore.Shards {
		return ""
	}
	return fmt.Sprintf("; %s are left for %d shards of each chunk, so some will hold two, and fewer losses are survived", counted(r.drives, "drive"), chunkstore.Shards)
}
