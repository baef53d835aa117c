package topology

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/root"
)

// epochName is the row of kind root.Cluster whose revision is the epoch. Its value is the settings as JSON; empty: none.
const epochName = "topology"

// changeTries bounds how often a change meets another one.
const changeTries = 64

// loadTries bounds how often a load meets a change.
const loadTries = 16

type rowName struct {
	kind root.Kind
	name string
}

// peerRow and driveRow are the rows as JSON. The fields of driveRow up to Peer are as old as the first clusters.
type peerRow struct {
	Number  uint16 `json:"number"`
	Name    string `json:"name"`
	Zone    string `json:"zone,omitempty"`
	Rack    string `json:"rack,omitempty"`
	Peer    string `json:"peer,omitempty"`
	Gossip  string `json:"gossip,omitempty"`
	S3      string `json:"s3,omitempty"`
	TLS     bool   `json:"tls,omitempty"`
	State   State  `json:"state"`
	Key     []byte `json:"key,omitempty"`
	Command uint32 `json:"command,omitempty"`
	Out     bool   `json:"out,omitempty"`
}

type driveRow struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	Peer   string `json:"peer"`
	Device uint64 `json:"device,omitempty"`
	Size   int64  `json:"size,omitempty"`
	State  State  `json:"state,omitempty"` // "": active
	Out    bool   `json:"out,omitempty"`
}

func encodePeer(p Peer) ([]byte, error) {
	return json.Marshal(peerRow{p.Number, p.Name, p.Zone, p.Rack, p.Peer, p.Gossip, p.S3, p.TLS, p.State, p.Key, p.Command, p.Out})
}

func decodePeer(row root.Row) (Peer, error) {
	var r peerRow
	id, err := cluster.ParseID(row.Name)
	if err == nil {
		err = json.Unmarshal(row.Value, &r)
	}
	if err != nil {
		return Peer{}, fmt.Errorf("peer row %q: %w", row.Name, err)
	}
	return Peer{
		ID: cluster.PeerID(id), Number: r.Number, Name: r.Name, Zone: r.Zone, Rack: r.Rack, Peer: r.Peer, Gossip: r.Gossip,
		S3: r.S3, TLS: r.TLS, State: r.State, Key: r.Key, Command: r.Command, Out: r.Out,
	}, nil
}

func encodeDrive(d Drive) ([]byte, error) {
	return json.Marshal(driveRow{d.Name, d.Path, d.Peer.String(), d.Device, d.Size, d.State, d.Out})
}

func decodeDrive(row root.Row) (Drive, error) {
	var r driveRow
	id, err := cluster.ParseID(row.Name)
	if err == nil {
		err = json.Unmarshal(row.Value, &r)
	}
	var peer cluster.ID
	if err == nil {
		peer, err = cluster.ParseID(r.Peer)
	}
	if err != nil {
		return Drive{}, fmt.Errorf("drive row %q: %w", row.Name, err)
	}
	return Drive{
		ID: cluster.DriveID(id), Name: r.Name, Path: r.Path, Peer: cluster.PeerID(peer), Device: r.Device, Size: r.Size,
		State: cmp.Or(r.State, Active), Out: r.Out,
	}, nil
}

func encodeGroup(g Group) (name string, value []byte) {
	for _, id := range g.Slots {
		value = append(value, id[:]...)
	}
	return fmt.Sprintf("%08d", g.Number), value
}

func decodeGroup(row root.Row) (Group, error) {
	var g Group
	const size = len(cluster.DriveID{})
	if _, err := fmt.Sscanf(row.Name, "%d", &g.Number); err != nil || len(row.Value) != len(g.Slots)*size {
		return g, fmt.Errorf("placement group %q of %d bytes is malformed", row.Name, len(row.Value))
	}
	for i := range g.Slots {
		g.Slots[i] = cluster.DriveID(row.Value[i*size:])
	}
	return g, nil
}

// rows are all rows of the map but the epoch, with the revisions that they were read at.
func (m *Map) rows() (map[rowName]root.Row, error) {
	rows := make(map[rowName]root.Row)
	add := func(kind root.Kind, name string, value []byte) {
		key := rowName{kind, name}
		rows[key] = root.Row{Kind: kind, Name: name, Value: value, Revision: m.revisions[key]}
	}
	for _, p := range m.Peers {
		value, err := encodePeer(p)
		if err != nil {
			return nil, err
		}
		add(root.Peers, p.ID.String(), value)
	}
	for _, d := range m.Drives {
		value, err := encodeDrive(d)
		if err != nil {
			return nil, err
		}
		add(root.Drives, d.ID.String(), value)
	}
	for _, g := range m.Groups {
		name, value := encodeGroup(g)
		add(root.Groups, name, value)
	}
	return rows, nil
}

// FoundingRows are the rows of the first map of a cluster, its groups made, for the command that makes the cluster.
func FoundingRows(m Map) ([]root.Row, error) {
	if err := m.place(); err != nil {
		return nil, err
	}
	rows, err := m.rows()
	if err != nil {
		return nil, err
	}
	list := []root.Row{{Kind: root.Cluster, Name: epochName}}
	for _, row := range rows {
		list = append(list, row)
	}
	slices.SortFunc(list, func(a, b root.Row) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	return list, nil
}

// Reader gives the rows of the root group: a root.Client, or a replica's own state.
type Reader interface {
	Rows(ctx context.Context, kind root.Kind, prefix, after string, max int) ([]root.Row, error)
}

// Load reads the map. A cluster that was made before there were epochs has epoch 0.
func Load(ctx context.Context, r Reader) (Map, error) {
	for range loadTries {
		before, settings, err := epoch(ctx, r)
		if err != nil {
			return Map{}, err
		}
		m, err := load(ctx, r)
		if err != nil {
			return Map{}, err
		}
		after, _, err := epoch(ctx, r)
		if err != nil {
			return Map{}, err
		}
		if before == after {
			m.Epoch, m.Settings = before, settings
			return m, nil
		}
	}
	return Map{}, errors.New("the topology keeps changing while it is read")
}

func epoch(ctx context.Context, r Reader) (cluster.Epoch, Settings, error) {
	rows, err := r.Rows(ctx, root.Cluster, epochName, "", 0)
	if err != nil {
		return 0, Settings{}, err
	}
	for _, row := range rows {
		if row.Name != epochName {
			continue
		}
		var s Settings
		if len(row.Value) > 0 {
			if err := json.Unmarshal(row.Value, &s); err != nil {
				return 0, Settings{}, fmt.Errorf("settings of the cluster: %w", err)
			}
		}
		return cluster.Epoch(row.Revision), s, nil
	}
	return 0, Settings{}, nil
}

func load(ctx context.Context, r Reader) (Map, error) {
	m := Map{revisions: make(map[rowName]uint64)}
	each := func(kind root.Kind, take func(root.Row) error) error {
		rows, err := r.Rows(ctx, kind, "", "", 0)
		for _, row := range rows {
			if err != nil {
				break
			}
			m.revisions[rowName{kind, row.Name}] = row.Revision
			err = take(row)
		}
		return err
	}
	err := errors.Join(
		each(root.Peers, func(row root.Row) error {
			p, err := decodePeer(row)
			m.Peers = append(m.Peers, p)
			return err
		}),
		each(root.Drives, func(row root.Row) error {
			d, err := decodeDrive(row)
			m.Drives = append(m.Drives, d)
			return err
		}),
		each(root.Groups, func(row root.Row) error {
			g, err := decodeGroup(row)
			m.Groups = append(m.Groups, g)
			return err
		}),
	)
	slices.SortFunc(m.Peers, func(a, b Peer) int { return cmp.Compare(a.Number, b.Number) })
	return m, err
}

// Change edits the map and commits what became different, with any other rows that must change in the same command. An
// edit that fails changes nothing; it may run several times, each time on the map as it then is.
func Change(ctx context.Context, client *root.Client, edit func(m *Map) (extra Extra, err error)) (Map, error) {
	for range changeTries {
		before, err := Load(ctx, client)
		if err != nil {
			return Map{}, err
		}
		after := before.clone()
		extra, err := edit(&after)
		if err != nil {
			return Map{}, err
		}
		done, err := commit(ctx, client, &before, &after, extra)
		if err == nil {
			return done, nil
		}
		if !errors.Is(err, root.ErrConflict) {
			return Map{}, err
		}
	}
	return Map{}, fmt.Errorf("change the topology: %w", root.ErrConflict)
}

// Extra are rows that change together with a map.
type Extra struct{ Put, Remove []root.Row }

func commit(ctx context.Context, client *root.Client, before, after *Map, extra Extra) (Map, error) {
	if !slices.Equal(before.Placeable(), after.Placeable()) {
		if err := after.place(); err != nil {
			return Map{}, err
		}
	}
	old, err := before.rows()
	if err != nil {
		return Map{}, err
	}
	now, err := after.rows()
	if err != nil {
		return Map{}, err
	}
	put, remove := extra.Put, extra.Remove
	for key, row := range now {
		if was, ok := old[key]; !ok || string(was.Value) != string(row.Value) {
			put = append(put, row)
		}
	}
	for key, row := range old {
		if _, ok := now[key]; !ok {
			remove = append(remove, row)
		}
	}
	if len(put) == 0 && len(remove) == 0 && before.Settings == after.Settings {
		return *before, nil
	}
	row := root.Row{Kind: root.Cluster, Name: epochName, Revision: uint64(before.Epoch)}
	if after.Settings != (Settings{}) {
		if row.Value, err = json.Marshal(after.Settings); err != nil {
			return Map{}, err
		}
	}
	put = append(put, row)
	if _, err := client.Change(ctx, put, remove); err != nil {
		return Map{}, fmt.Errorf("change the topology: %w", err)
	}
	return Load(ctx, client)
}
