package kv

import (
	"hash/maphash"
	"sync"

	"github.com/syndtr/goleveldb/leveldb"
)

// Bounds of the row cache: its shards keep their locks apart; together it takes 2 MiB at most.
const (
	rowShards   = 16
	rowsInShard = 256
	maxRow      = 512
)

// rowCache keeps small rows that were read, absent ones too: every request reads a few that hardly ever change
// (bucket, fences, clock), and goleveldb searches its tables anew for each.
//
// A reader may read a row before a write and put it here after it. So each shard counts its writes, and a row is kept
// only when none came in between.
type rowCache struct {
	seed   maphash.Seed
	shards [rowShards]rowShard
}

type rowShard struct {
	mu     sync.Mutex
	writes uint64
	rows   map[string][]byte // nil: the key has no value
}

func newRowCache() *rowCache { return &rowCache{seed: maphash.MakeSeed()} }

func (c *rowCache) shard(key []byte) *rowShard {
	return &c.shards[maphash.Bytes(c.seed, key)%rowShards]
}

// get returns a kept row. When there is none, writes goes to the keep that follows the read of the DB.
func (s *rowShard) get(key []byte) (value []byte, kept bool, writes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, kept = s.rows[string(key)]
	return value, kept, s.writes
}

func (s *rowShard) keep(key, value []byte, writes uint64) {
	if len(value) > maxRow {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writes != writes {
		return
	}
	if s.rows == nil || len(s.rows) >= rowsInShard {
		s.rows = make(map[string][]byte, rowsInShard) // rows in steady use are here again soon
	}
	s.rows[string(key)] = value
}

// forget drops the rows of a batch that was written.
func (c *rowCache) forget(b *leveldb.Batch) error { return b.Replay(forgetting{c}) }

type forgetting struct{ cache *rowCache }

// Put implements leveldb.BatchReplay.
func (f forgetting) Put(key, _ []byte) { f.Delete(key) }

// Delete implements leveldb.BatchReplay.
func (f forgetting) Delete(key []byte) {
	s := f.cache.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	delete(s.rows, string(key))
}
