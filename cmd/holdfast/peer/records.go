package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
	"github.com/holdfast/holdfast/cluster/root"
)

// The rows that a peer keeps in the root group, beside those of the catalog.
const (
	infoName = "info" // of kind root.Cluster: the row that says a first start got this far
	groupLen = chunkstore.Shards * len(cluster.DriveID{})
)

// infoRecord is the cluster's own row.
type infoRecord struct {
	Cluster string    `json:"cluster"`
	Created time.Time `json:"created"`
}

// driveRecord is one drive of the topology.
type driveRecord struct {
	Name string `json:"name"`
	Path string `json:"path"` // where it was last seen
	Peer string `json:"peer"`
	Zone string `json:"zone,omitempty"`
	Rack string `json:"rack,omitempty"`
}

// keyRecord is an access key.
type keyRecord struct {
	Secret string `json:"secret"`
	Root   bool   `json:"root"`
}

// foundCluster commits what a plan says, as one command: either all of the cluster exists or none of it.
func foundCluster(ctx context.Context, client *root.Client, p *plan, config *Config, key Credentials, devices map[string]uint64) error {
	switch _, err := client.Row(ctx, root.Cluster, infoName); {
	case err == nil:
		return nil // this step was done before a crash
	case !errors.Is(err, root.ErrNotFound):
		return err
	}
	rows, err := foundingRows(p, config, key, devices)
	if err != nil {
		return err
	}
	if _, err := client.PutRows(ctx, rows); err != nil && !errors.Is(err, root.ErrConflict) {
		return fmt.Errorf("write the first records of the cluster: %w", err)
	}
	return nil
}

func foundingRows(p *plan, config *Config, key Credentials, devices map[string]uint64) ([]root.Row, error) {
	var rows []root.Row
	add := func(kind root.Kind, name string, value any) error {
		text, err := json.Marshal(value)
		rows = append(rows, root.Row{Kind: kind, Name: name, Value: text})
		return err
	}
	peerID, err := cluster.ParseID(p.Peer)
	if err != nil {
		return nil, err
	}
	var drives []placement.Drive
	for _, d := range p.Drives {
		id, err := cluster.ParseID(d.Drive)
		if err != nil {
			return nil, err
		}
		record := driveRecord{Name: d.Name, Path: d.Path, Peer: p.Peer, Zone: config.Zone, Rack: config.Rack}
		if err := add(root.Drives, d.Drive, record); err != nil {
			return nil, err
		}
		drives = append(drives, placement.Drive{
			ID: cluster.DriveID(id), Peer: cluster.PeerID(peerID), Device: devices[d.Path], Zone: config.Zone, Rack: config.Rack,
		})
	}
	groups, err := placement.Groups(drives, placement.Count(len(drives)))
	if err != nil {
		return nil, err
	}
	for i, slots := range groups {
		row := root.Row{Kind: root.Groups, Name: fmt.Sprintf("%08d", i+1), Value: make([]byte, 0, groupLen)}
		for _, id := range slots {
			row.Value = append(row.Value, id[:]...)
		}
		rows = append(rows, row)
	}
	if err := add(root.Keys, key.AccessKey, keyRecord{Secret: string(key.Secret), Root: true}); err != nil {
		return nil, err
	}
	err = add(root.Cluster, infoName, infoRecord{Cluster: p.Cluster, Created: p.Created})
	return rows, err
}

// decodeGroup reads a row of kind root.Groups.
func decodeGroup(row root.Row) (chunkstore.Group, error) {
	var g chunkstore.Group
	if _, err := fmt.Sscanf(row.Name, "%d", &g.ID); err != nil || len(row.Value) != groupLen {
		return g, fmt.Errorf("placement group %q of %d bytes is malformed", row.Name, len(row.Value))
	}
	for i := range g.Slots {
		g.Slots[i] = cluster.DriveID(row.Value[i*len(cluster.DriveID{}):])
	}
	return g, nil
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

// knownDrives reads the topology's drives by id.
func knownDrives(ctx context.Context, client *root.Client) (map[cluster.DriveID]driveRecord, error) {
	rows, err := client.Rows(ctx, root.Drives, "", "", 0)
	if err != nil {
		return nil, err
	}
	drives := make(map[cluster.DriveID]driveRecord, len(rows))
	for _, row := range rows {
		id, err := cluster.ParseID(row.Name)
		if err != nil {
			return nil, fmt.Errorf("drive row %q: %w", row.Name, err)
		}
		var record driveRecord
		if err := json.Unmarshal(row.Value, &record); err != nil {
			return nil, fmt.Errorf("drive row %q: %w", row.Name, err)
		}
		drives[cluster.DriveID(id)] = record
	}
	return drives, nil
}
