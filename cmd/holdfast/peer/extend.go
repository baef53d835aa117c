package peer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

// AddDrive implements admin.Source. The directory is one of --drives that holds no drive: it gets an identity, and then is
// opened and announced like any other drive that comes. A crash between leaves a drive that the next start announces.
func (s source) AddDrive(ctx context.Context, dir string) (*admin.Done, error) {
	p := s.peer
	if s.core == nil {
		return nil, errWaiting
	}
	p.adding.Lock()
	defer p.adding.Unlock()
	if err := p.mayBeDrive(dir); err != nil {
		return nil, admin.Declined(err)
	}
	m, err := s.core.mapNow(ctx) // a drive that was removed a moment ago leaves its name
	if err != nil {
		return nil, err
	}
	identity := drive.Identity{
		Format: drive.IdentityFormat, Cluster: p.cluster, Drive: cluster.DriveID(cluster.NewID()), Name: p.freeDriveName(&m),
		Created: p.seams.Now().UTC(), IntegrityKey: p.integrityKey(),
	}
	if identity.IntegrityKey == ([32]byte{}) {
		return nil, errors.New("no drive of this peer is here that tells the cluster's key")
	}
	if err := p.removeStraySelf(dir); err != nil {
		return nil, err
	}
	if err := drive.Init(p.seams.FS, dir, identity); err != nil {
		if errors.Is(err, drive.ErrNotEmpty) {
			err = admin.Declined(err)
		}
		return nil, err
	}
	name := identity.Name
	if len(m.Members()) > 1 {
		name = p.config.Name + "/" + name
	}
	p.log.Info("a drive was added", "drive", identity.Name, "path", dir)
	return &admin.Done{Said: fmt.Sprintf("%s is drive %s now; it takes shards in a few seconds", dir, name)}, nil
}

// mayBeDrive says why a directory of this peer cannot become a drive.
func (p *Peer) mayBeDrive(dir string) error {
	for _, s := range p.slots {
		if s.path != filepath.Clean(dir) {
			continue
		}
		switch state := examine(p.seams.FS, s.path, p.cluster); state.kind {
		case slotBlank:
			return nil
		case slotUp:
			return fmt.Errorf("%s is drive %s already", s.path, state.identity.Name)
		default:
			return fmt.Errorf("%s is %s: %s", s.path, state.kind, state.reason)
		}
	}
	return fmt.Errorf("peer %s was not started with %q: name it in --drives, start the peer again, and then add it", p.config.Name, dir)
}

// freeDriveName is the first of d1, d2 … that no drive of this peer has.
func (p *Peer) freeDriveName(m *topology.Map) string {
	taken := make(map[string]bool)
	for _, d := range m.Drives {
		if d.Peer == p.id() && d.State != topology.Removed {
			taken[d.Name] = true
		}
	}
	for _, s := range p.slots { // one that is here and was removed, or that is not announced yet, or not looked at yet
		state := s.look()
		if state.kind == slotBlank {
			state = examine(p.seams.FS, s.path, p.cluster)
		}
		taken[state.identity.Name] = true
	}
	for n := 1; ; n++ {
		if name := fmt.Sprintf("d%d", n); !taken[name] {
			return name
		}
	}
}

// Set implements admin.Source.
func (s source) Set(ctx context.Context, settings admin.Settings) (*admin.Done, error) {
	if s.core == nil {
		return nil, errWaiting
	}
	for _, n := range []*int{settings.Voters, settings.RootVoters} {
		if n != nil && (*n < 0 || *n > replicas.MaxVoters || *n != 0 && *n%2 == 0) {
			return nil, admin.Declined(fmt.Errorf("%d voters: an odd number up to %d, or 0 for as many as suit the peers", *n, replicas.MaxVoters))
		}
	}
	m, err := topology.Change(ctx, s.core.root, func(m *topology.Map) (topology.Extra, error) {
		if settings.Voters != nil {
			m.Settings.Voters = *settings.Voters
		}
		if settings.RootVoters != nil {
			m.Settings.RootVoters = *settings.RootVoters
		}
		return topology.Extra{}, nil
	})
	if err != nil {
		return nil, err
	}
	s.core.watcher.Take(m)
	var said []string
	for _, group := range groups {
		set, target := setVoters(group, &m), wantVoters(group, &m)
		switch {
		case set == 0:
			said = append(said, fmt.Sprintf("%s: as many voters as suit the peers, now %d", groupNames[group], target))
		case target < set:
			said = append(said, fmt.Sprintf("%s: %d voters, now %d until there are more peers", groupNames[group], set, target))
		default:
			said = append(said, fmt.Sprintf("%s: %d voters", groupNames[group], set))
		}
	}
	return &admin.Done{Said: strings.Join(said, "; ")}, nil
}
