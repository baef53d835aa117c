package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// A volume row, little-endian: format (1 byte), state (1), group (4), epoch (8), owner (16, since format 2), 12 home
// drives, 12 slots (16 each). A row of format 1 is read as one without an owner, and written as format 2 when it changes.
// Its key is volumePrefix and the id, big-endian, so that rows are in the order of ids.
const (
	volumePrefix = "volume/"
	volumeFormat = 2
	volumeHead   = 1 + 1 + 4 + 8
	ownerLen     = 16
	volumeLen    = volumeHead + ownerLen + 2*groupLen
	// intentTries bounds how often AddIntent meets another writer of the same row: readers and repair, a few at most.
	intentTries = 16
)

var errVolumeRow = errors.New("volume row is malformed")

// volumes implements chunkstore.Volumes over rows of the catalog and of the root group.
type volumes struct {
	catalog metadata.Names
	root    *root.Client
	// groups are the placement groups of the newest topology.
	groups func(ctx context.Context) ([]topology.Group, error)
}

var _ chunkstore.Volumes = volumes{}

func volumeKey(id chunkstore.VolumeID) []byte {
	return binary.BigEndian.AppendUint64([]byte(volumePrefix), uint64(id))
}

func encodeVolume(v chunkstore.Volume) []byte {
	b := make([]byte, 0, volumeLen)
	b = append(b, volumeFormat, byte(v.State))
	b = binary.LittleEndian.AppendUint32(b, v.Group)
	b = binary.LittleEndian.AppendUint64(b, uint64(v.Epoch))
	b = append(b, v.Owner[:]...)
	for _, list := range [][chunkstore.Shards]cluster.DriveID{v.Home, v.Slots} {
		for _, id := range list {
			b = append(b, id[:]...)
		}
	}
	return b
}

func decodeVolume(row metadata.Row) (chunkstore.Volume, error) {
	var v chunkstore.Volume
	id, found := bytes.CutPrefix(row.Key, []byte(volumePrefix))
	b := row.Value
	if !found || len(id) != 8 || len(b) == 0 || b[0] != 1 && b[0] != volumeFormat {
		return v, fmt.Errorf("%q of %d bytes: %w", row.Key, len(b), errVolumeRow)
	}
	owner := 0 // bytes of it
	if b[0] == volumeFormat {
		owner = ownerLen
	}
	if len(b) != volumeHead+owner+2*groupLen {
		return v, fmt.Errorf("%q of %d bytes in format %d: %w", row.Key, len(b), b[0], errVolumeRow)
	}
	v.ID = chunkstore.VolumeID(binary.BigEndian.Uint64(id))
	v.State = chunkstore.VolumeState(b[1])
	v.Group = binary.LittleEndian.Uint32(b[2:])
	v.Epoch = cluster.Epoch(binary.LittleEndian.Uint64(b[6:]))
	if v.State != chunkstore.VolumeOpen && v.State != chunkstore.VolumeSealed {
		return v, fmt.Errorf("%q in state %d: %w", row.Key, v.State, errVolumeRow)
	}
	b = b[volumeHead:]
	copy(v.Owner[:], b[:owner])
	b = b[owner:]
	for _, list := range []*[chunkstore.Shards]cluster.DriveID{&v.Home, &v.Slots} {
		for i := range list {
			list[i] = cluster.DriveID(b)
			b = b[len(cluster.DriveID{}):]
		}
	}
	return v, nil
}

func (a volumes) read(ctx context.Context, id chunkstore.VolumeID) (chunkstore.Volume, metadata.Row, error) {
	row, err := a.catalog.Row(ctx, volumeKey(id))
	if errors.Is(err, metadata.ErrNoSuchKey) {
		return chunkstore.Volume{}, row, fmt.Errorf("volume %d: %w", id, chunkstore.ErrNotFound)
	}
	if err != nil {
		return chunkstore.Volume{}, row, fmt.Errorf("volume %d: %w", id, err)
	}
	v, err := decodeVolume(row)
	return v, row, err
}

// Volume implements chunkstore.Volumes.
func (a volumes) Volume(ctx context.Context, id chunkstore.VolumeID) (chunkstore.Volume, error) {
	v, _, err := a.read(ctx, id)
	return v, err
}

// CreateVolume implements chunkstore.Volumes.
func (a volumes) CreateVolume(ctx context.Context, v chunkstore.Volume) (chunkstore.Volume, error) {
	id, err := a.root.Allocate(ctx, root.Any)
	if err != nil {
		return chunkstore.Volume{}, fmt.Errorf("number a volume: %w", err)
	}
	v.ID, v.Epoch = chunkstore.VolumeID(id), 1
	if _, err := a.catalog.PutRow(ctx, metadata.Row{Key: volumeKey(v.ID), Value: encodeVolume(v)}); err != nil {
		return chunkstore.Volume{}, fmt.Errorf("create volume %d: %w", id, err)
	}
	return v, nil
}

// UpdateVolume implements chunkstore.Volumes.
func (a volumes) UpdateVolume(ctx context.Context, v chunkstore.Volume) (chunkstore.Volume, error) {
	stored, row, err := a.read(ctx, v.ID)
	if err != nil {
		return chunkstore.Volume{}, err
	}
	if stored.Epoch != v.Epoch {
		return chunkstore.Volume{}, fmt.Errorf("volume %d is at epoch %d, not %d: %w", v.ID, stored.Epoch, v.Epoch, chunkstore.ErrStaleVolume)
	}
	v.Epoch++
	row.Value = encodeVolume(v)
	_, err = a.catalog.PutRow(ctx, row)
	if errors.Is(err, metadata.ErrConflict) {
		return chunkstore.Volume{}, fmt.Errorf("volume %d was changed meanwhile: %w", v.ID, chunkstore.ErrStaleVolume)
	}
	if err != nil {
		return chunkstore.Volume{}, fmt.Errorf("update volume %d: %w", v.ID, err)
	}
	return v, nil
}

// ListVolumes implements chunkstore.Volumes.
func (a volumes) ListVolumes(ctx context.Context, after chunkstore.VolumeID, most int) ([]chunkstore.Volume, error) {
	rows, err := a.catalog.Rows(ctx, []byte(volumePrefix), volumeKey(after), most)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	list := make([]chunkstore.Volume, len(rows))
	for i, row := range rows {
		if list[i], err = decodeVolume(row); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// DropVolume implements chunkstore.Volumes.
func (a volumes) DropVolume(ctx context.Context, id chunkstore.VolumeID) error {
	v, row, err := a.read(ctx, id)
	if errors.Is(err, chunkstore.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if v.State != chunkstore.VolumeSealed {
		return fmt.Errorf("drop volume %d: it is open", id)
	}
	return a.catalog.DeleteRow(ctx, row.Key)
}

// LeaseChunkBlock implements chunkstore.Volumes.
func (a volumes) LeaseChunkBlock(ctx context.Context) (uint64, error) {
	return a.catalog.LeaseBlock(ctx)
}

// Groups implements chunkstore.Volumes.
func (a volumes) Groups(ctx context.Context) ([]chunkstore.Group, error) {
	all, err := a.groups(ctx)
	if err != nil {
		return nil, fmt.Errorf("placement groups: %w", err)
	}
	return chunkGroups(all), nil
}

func chunkGroups(all []topology.Group) []chunkstore.Group {
	groups := make([]chunkstore.Group, 0, len(all))
	for _, g := range all {
		groups = append(groups, chunkstore.Group{ID: g.Number, Slots: g.Slots})
	}
	return groups
}

// AddIntent implements chunkstore.Volumes: the missing shards of an intent that is there already stay in it.
func (a volumes) AddIntent(ctx context.Context, in chunkstore.Intent) error {
	for range intentTries {
		row, err := a.catalog.Row(ctx, multipart.IntentKey(in.Chunk))
		switch {
		case errors.Is(err, metadata.ErrNoSuchKey):
			row = metadata.Row{}
		case err != nil:
			return fmt.Errorf("read the intent of chunk %v: %w", in.Chunk.ID, err)
		default:
			there, err := multipart.ParseIntentRow(row)
			if err != nil {
				return err
			}
			if there.Missing|in.Missing == there.Missing {
				return nil
			}
			in.Missing |= there.Missing
		}
		next := multipart.IntentRow(in)
		next.Revision = row.Revision
		_, err = a.catalog.PutRow(ctx, next)
		if err == nil || !errors.Is(err, metadata.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("the intent of chunk %v keeps changing: %w", in.Chunk.ID, metadata.ErrConflict)
}

// Intents implements chunkstore.Volumes.
func (a volumes) Intents(ctx context.Context, after chunkstore.Chunk, most int) ([]chunkstore.Intent, error) {
	rows, err := a.catalog.Rows(ctx, []byte(multipart.IntentPrefix), multipart.IntentKey(after), most)
	if err != nil {
		return nil, fmt.Errorf("list intents: %w", err)
	}
	list := make([]chunkstore.Intent, len(rows))
	for i, row := range rows {
		if list[i], err = multipart.ParseIntentRow(row); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// ResolveIntent implements chunkstore.Volumes.
func (a volumes) ResolveIntent(ctx context.Context, chunk chunkstore.Chunk) error {
	return a.catalog.DeleteRow(ctx, multipart.IntentKey(chunk))
}
