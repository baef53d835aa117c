package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/join"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
)

// The rows that a peer keeps in the root group, beside those of the catalog.
const (
	infoName = "info"                                     // of kind root.Cluster: the row that says a first start got this far
	groupLen = chunkstore.Shards * len(cluster.DriveID{}) // of a list of slots in a row
)

// infoRecord is the cluster's own row.
type infoRecord struct {
	Cluster string    `json:"cluster"`
	Created time.Time `json:"created"`
}

// foundCluster commits what a plan says, as one command: either all of the cluster exists or none of it. It tells whether
// it was this call that did.
func foundCluster(ctx context.Context, client *root.Client, p *plan, config *Config, founding *join.Founding, key Credentials, drives []topology.Drive) (bool, error) {
	switch _, err := client.Row(ctx, root.Cluster, infoName); {
	case err == nil:
		return false, nil // this step was done before a crash
	case !errors.Is(err, root.ErrNotFound):
		return false, err
	}
	rows, err := foundingRows(p, config, founding, key, drives)
	if err != nil {
		return false, err
	}
	switch _, err := client.PutRows(ctx, rows); {
	case errors.Is(err, root.ErrConflict):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("write the first records of the cluster: %w", err)
	}
	return true, nil
}

func foundingRows(p *plan, config *Config, founding *join.Founding, key Credentials, drives []topology.Drive) ([]root.Row, error) {
	peerID, err := cluster.ParseID(p.Peer)
	if err != nil {
		return nil, err
	}
	var m topology.Map
	if _, err := m.AddPeer(firstPeer(cluster.PeerID(peerID), config, founding)); err != nil {
		return nil, err
	}
	for _, d := range drives {
		d.Peer = cluster.PeerID(peerID)
		if err := m.SetDrive(d); err != nil {
			return nil, err
		}
	}
	rows, err := topology.FoundingRows(m)
	if err != nil {
		return nil, err
	}
	rows = append(rows, founding.Rows...)
	for _, row := range []struct {
		kind  root.Kind
		name  string
		value any
	}{
		{root.Keys, key.AccessKey, keyRecord{Secret: string(key.Secret), Root: true}},
		{root.Cluster, infoName, infoRecord{Cluster: p.Cluster, Created: p.Created}},
	} {
		text, err := json.Marshal(row.value)
		if err != nil {
			return nil, err
		}
		rows = append(rows, root.Row{Kind: row.kind, Name: row.name, Value: text})
	}
	return rows, nil
}

// firstPeer is the row of a cluster's first peer. Its addresses follow when it listens.
func firstPeer(id cluster.PeerID, config *Config, founding *join.Founding) topology.Peer {
	return topology.Peer{
		ID: id, Name: config.Name, Zone: config.Zone, Rack: config.Rack, State: topology.Active,
		Key: founding.Credentials.PublicKey(), Command: commandFormat,
	}
}
