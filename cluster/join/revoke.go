package join

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
)

// ErrLastPeer says that a cluster cannot lose its last peer.
var ErrLastPeer = errors.New("it is the last peer of the cluster")

func revoked(list trust.List, id cluster.PeerID) bool {
	_, found := slices.BinarySearchFunc(list.Revoked, id, func(a, b cluster.PeerID) int { return bytes.Compare(a[:], b[:]) })
	return found
}

// Revoke removes a peer for ever, in one command: it is Removed in the map, and refused by the list of whom the cluster
// trusts, of the next epoch. Its name is free, its id and number are not. Its drives stay in the map, where no new shard
// goes to them, unless drives is set: then they are taken out of it. Whoever wants to lose nothing drains the peer
// first. Doing it again does what is left. The errors are topology.ErrUnknownPeer, ErrLastPeer and ErrNoSecrets.
func Revoke(ctx context.Context, client *root.Client, id cluster.PeerID, drives bool) (topology.Map, error) {
	m, err := topology.Change(ctx, client, func(m *topology.Map) (topology.Extra, error) { return revoke(ctx, client, m, id, drives) })
	if err != nil {
		return topology.Map{}, fmt.Errorf("remove peer %v: %w", id, err)
	}
	return m, nil
}

func revoke(ctx context.Context, client *root.Client, m *topology.Map, id cluster.PeerID, drives bool) (topology.Extra, error) {
	peer, err := member(m, id)
	switch {
	case errors.Is(err, ErrRemoved):
	case err != nil:
		return topology.Extra{}, err
	case len(m.Members()) == 1:
		return topology.Extra{}, ErrLastPeer
	default:
		peer.State = topology.Removed
		if err := m.SetPeer(peer); err != nil {
			return topology.Extra{}, err
		}
	}
	if drives {
		m.Drives = slices.DeleteFunc(m.Drives, func(d topology.Drive) bool { return d.Peer == id })
	}
	row, list, err := loadList(ctx, client)
	if err != nil || revoked(list, id) {
		return topology.Extra{}, err
	}
	row.Value = list.Revoke(id).Marshal()
	return topology.Extra{Put: []root.Row{row}}, nil
}
