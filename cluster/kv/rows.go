package kv

import (
	"hash/maphash"
	"sync"

	"github.com/syndtr/goleveldb/leveldb"
)

// Bounds of the row cache: its shards keep their locks apart; together it takes some 8 MiB, with keys
// of a hundred bytes.
const (
	rowShards        = 16
	rowsInGeneration = 512
	maxRow           = 256
)

// rowCache keeps small rows that were read or written lately, absent ones too: every request reads a few that hardly
// ever change (bucket, fences) or that an earlier one wrote (clock, usage, the slot of a session, the version that it
// replaces), and goleveldb searches its tables anew for each.
//
// Writes go through it in the order of the DB. A reader may read a row before a write and put it here after it. So each
// shard counts its writes, and what was read is kept only when none came in between.
type rowCache struct {
	seed   maphash.Seed
	shards [rowShards]rowShard
}

// rowShard has two generations: when the young one is full it becomes the old one, and the old one goes with all that
// nobody asked for since.
type rowShard struct {
	mu         sync.Mutex
	writes     uint64
	young, old map[string][]byte // nil: the key has no value
}

func newRowCache() *rowCache { return &rowCache{seed: maphash.MakeSeed()} }

func (c *rowCache) shard(key []byte) *rowShard {
	return &c.shards[maphash.Bytes(c.seed, key)%rowShards]
}

// get returns a kept row. When there is none, writes goes to the keep that follows the read of the DB.
func (s *rowShard) get(key []byte) (value []byte, kept bool, writes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if value, kept = s.young[string(key)]; kept {
		return value, true, s.writes
	}
	if value, kept = s.old[string(key)]; kept {
		delete(s.old, string(key))
		s.put(key, value)
	}
	return value, kept, s.writes
}

// keep takes a row that was read.
func (s *rowShard) keep(key, value []byte, writes uint64) {
	if len(value) > maxRow {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writes == writes {
		s.put(key, value)
	}
}

// put is called with mu held, for a row that the old generation does not have.
func (s *rowShard) put(key, value []byte) {
	if s.young == nil {
		s.young = make(map[string][]byte)
	}
	if _, there := s.young[string(key)]; !there && len(s.young) >= rowsInGeneration {
		s.young, s.old = make(map[string][]byte, rowsInGeneration), s.young
	}
	s.young[string(key)] = value
}

// wrote takes a row that was written, or forgets it when it is large.
func (s *rowShard) wrote(key, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	delete(s.old, string(key))
	if len(value) > maxRow {
		delete(s.young, string(key))
		return
	}
	s.put(key, value)
}

// wrote takes the rows of a batch that was written. The caller sees to it that batches come in the order of the DB.
func (c *rowCache) wrote(b *leveldb.Batch) error { return b.Replay(written{c}) }

type written struct{ cache *rowCache }

// Put implements leveldb.BatchReplay. The batch keeps its memory.
func (w written) Put(key, value []byte) {
	if len(value) <= maxRow {
		value = append(make([]byte, 0, len(value)), value...)
	}
	w.cache.shard(key).wrote(key, value)
}

// Delete implements leveldb.BatchReplay.
func (w written) Delete(key []byte) { w.cache.shard(key).wrote(key, nil) }
