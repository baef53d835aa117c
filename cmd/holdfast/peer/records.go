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

// keyRecord is an access key.
type keyRecord struct {
	Secret string `json:"secret"`
	Root   bool   `json:"root"`
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

// rootKeyOf finds the root access key among the rows of keys, nil when there is none.
func rootKeyOf(rows []root.Row) (*Credentials, error) {
	for _, row := range rows {
		var record keyRecord
		if err := json.Unmarshal(row.Value, &record); err != nil {
			return nil, fmt.Errorf("access key row %q: %w", row.Name, err)
		}
		if record.Root {
			return &Credentials{AccessKey: row.Name, Secret: Secret(record.Secret)}, nil
		}
	}
	return nil, nil
}

// settleRootKey makes config's key the root key when it demands one, and returns the one that holds.
func settleRootKey(ctx context.Context, client *root.Client, demanded *Credentials) (Credentials, error) {
	rows, err := client.Rows(ctx, root.Keys, "", "", 0)
	if err != nil {
		return Credentials{}, err
	}
	var current *Credentials
	for _, row := range rows {
		var record keyRecord
		if err := json.Unmarshal(row.Value, &record); err != nil {
			return Credentials{}, fmt.Errorf("access key row %q: %w", row.Name, err)
		}
		if !record.Root {
			continue
		}
		found := Credentials{AccessKey: row.Name, Secret: Secret(record.Secret)}
		if demanded == nil || found == *demanded {
			return found, nil
		}
		current = &found
		if err := client.DeleteRow(ctx, root.Keys, row.Name, row.Revision); err != nil {
			return Credentials{}, fmt.Errorf("replace the root access key: %w", err)
		}
	}
	if demanded == nil {
		if current != nil {
			return *current, nil
		}
		made := NewCredentials()
		demanded = &made
	}
	value, err := json.Marshal(keyRecord{Secret: string(demanded.Secret), Root: true})
	if err != nil {
		return Credentials{}, err
	}
	if _, err := client.PutRow(ctx, root.Row{Kind: root.Keys, Name: demanded.AccessKey, Value: value}); err != nil {
		return Credentials{}, fmt.Errorf("store the root access key: %w", err)
	}
	return *demanded, nil
}
