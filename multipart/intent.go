package multipart

import (
	"encoding/binary"
	"fmt"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/metadata"
)

// IntentPrefix begins the key of every repair intent among the opaque rows of the catalog. Behind it stand volume,
// block and sequence of the chunk, big-endian, so rows are in the order of Volumes.Intents.
const IntentPrefix = "intent/"

const (
	intentFormat = 1
	intentKey    = len(IntentPrefix) + 8 + 8 + 4
	intentValue  = 1 + 4 + 16 + 2
)

// IntentKey returns the key of the intent row of a chunk. The zero chunk's key is before all others.
func IntentKey(c chunkstore.Chunk) []byte {
	b := make([]byte, 0, intentKey)
	b = append(b, IntentPrefix...)
	b = binary.BigEndian.AppendUint64(b, uint64(c.Volume))
	b = binary.BigEndian.AppendUint64(b, c.ID.Block)
	return binary.BigEndian.AppendUint32(b, c.ID.Seq)
}

// IntentRow writes an intent as a row of the catalog (FORMAT.md).
func IntentRow(in chunkstore.Intent) metadata.Row {
	v := make([]byte, 0, intentValue)
	v = append(v, intentFormat)
	v = binary.LittleEndian.AppendUint32(v, in.Chunk.Size)
	v = append(v, in.Chunk.Digest[:]...)
	v = binary.LittleEndian.AppendUint16(v, in.Missing)
	return metadata.Row{Key: IntentKey(in.Chunk), Value: v}
}

// ParseIntentRow reads what IntentRow wrote. Its errors wrap ErrManifest.
func ParseIntentRow(row metadata.Row) (chunkstore.Intent, error) {
	var in chunkstore.Intent
	k, v := row.Key, row.Value
	if len(k) != intentKey || string(k[:len(IntentPrefix)]) != IntentPrefix || len(v) != intentValue || v[0] != intentFormat {
		return in, fmt.Errorf("intent row %x: %w", k, ErrManifest)
	}
	k = k[len(IntentPrefix):]
	in.Chunk.Volume = chunkstore.VolumeID(binary.BigEndian.Uint64(k))
	in.Chunk.ID = chunkstore.ChunkID{Block: binary.BigEndian.Uint64(k[8:]), Seq: binary.BigEndian.Uint32(k[16:])}
	in.Chunk.Size = binary.LittleEndian.Uint32(v[1:])
	in.Chunk.Digest = [16]byte(v[5:21])
	in.Missing = binary.LittleEndian.Uint16(v[21:])
	if in.Missing>>chunkstore.Shards != 0 {
		return in, fmt.Errorf("intent row %x names shards that do not exist: %w", row.Key, ErrManifest)
	}
	return in, nil
}

// intentRows writes the intents of an attempt as rows.
func (a *attempt) intentRows() []metadata.Row {
	var rows []metadata.Row
	for _, in := range a.intents {
		rows = append(rows, IntentRow(in))
	}
	return rows
}
