package raft

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/holdfast/holdfast/cluster/kv"
)

// The driver's own rows in the state DB. Keys that begin with a zero byte belong to it, machines use others.
const (
	appliedRow = "\x00applied/"
	votersRow  = "\x00voters/"
)

func rowKey(prefix string, group GroupID) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefix), uint64(group))
}

// rowGroup reads the group of a row's key.
func rowGroup(key []byte) (GroupID, error) {
	if len(key) < 8 {
		return 0, fmt.Errorf("row key of %d bytes", len(key))
	}
	return GroupID(binary.BigEndian.Uint64(key[len(key)-8:])), nil
}

// putApplied writes how far a group is, in the batch that brings it there.
func putApplied(b kv.Batch, group GroupID, a applied) {
	value := binary.LittleEndian.AppendUint64(nil, a.index)
	value = binary.LittleEndian.AppendUint64(value, a.term)
	b.Put(rowKey(appliedRow, group), append(value, a.hash[:]...))
}

// getApplied returns kv.ErrNotFound when the group is not in the state.
func getApplied(r kv.Reader, group GroupID) (applied, error) {
	value, err := r.Get(rowKey(appliedRow, group))
	if err != nil {
		return applied{}, err
	}
	if len(value) != 16+sha256.Size {
		return applied{}, fmt.Errorf("applied row of group %d has %d bytes", group, len(value))
	}
	return applied{
		index: binary.LittleEndian.Uint64(value),
		term:  binary.LittleEndian.Uint64(value[8:]),
		hash:  digest(value[16:]),
	}, nil
}

// entryDigest covers everything that makes an entry what it is.
func entryDigest(index, term uint64, entryType uint8, data []byte) digest {
	var head [17]byte
	binary.LittleEndian.PutUint64(head[:], index)
	binary.LittleEndian.PutUint64(head[8:], term)
	head[16] = entryType
	h := sha256.New()
	h.Write(head[:])
	h.Write(data)
	var sum digest
	h.Sum(sum[:0])
	return sum
}

// after is the applied point after one more entry.
func (a applied) after(index, term uint64, entry digest) applied {
	var both [2 * sha256.Size]byte
	copy(both[:], a.hash[:])
	copy(both[sha256.Size:], entry[:])
	return applied{index: index, term: term, hash: sha256.Sum256(both[:])}
}

// The first entry of every group is never written: a group begins as if it had applied entry 1 of term 1, so that a
// replica that is added later cannot take an empty log for the whole of it.
var firstPoint = applied{index: 1, term: 1}
