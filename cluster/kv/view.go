package kv

import (
	"sync"

	"github.com/syndtr/goleveldb/leveldb"
	leveliter "github.com/syndtr/goleveldb/leveldb/iterator"
)

// Snapshot is a frozen Reader of a DB. Its methods may be called concurrently.
type Snapshot struct {
	db    *DB
	level *leveldb.Snapshot
	once  sync.Once
}

// Get implements Reader.
func (s *Snapshot) Get(key []byte) ([]byte, error) {
	if err := s.db.enter(); err != nil {
		return nil, err
	}
	defer s.db.mu.RUnlock()
	value, err := s.level.Get(key, nil)
	if err := s.db.settle(err); err != nil {
		return nil, err
	}
	return value, nil
}

// Iterate implements Reader.
func (s *Snapshot) Iterate(span Span) Iterator {
	if err := s.db.enter(); err != nil {
		return &iterator{err: err}
	}
	defer s.db.mu.RUnlock()
	s.db.views.Add(1)
	return &iterator{db: s.db, it: s.level.NewIterator(bounds(span), nil)}
}

// Close lets the snapshot go. It may be called twice.
func (s *Snapshot) Close() {
	s.once.Do(func() {
		s.level.Release()
		s.db.views.Done()
	})
}

// iterator walks one span. It ends with an error as soon as its DB breaks or closes, so that no caller takes a part
// of a span for the whole.
type iterator struct {
	db  *DB
	it  leveliter.Iterator // nil when the iterator failed to begin, and after Close
	err error
}

// move does one step and turns its failure into an error.
func (i *iterator) move(step func() bool) bool {
	if i.it == nil || i.err != nil {
		return false
	}
	if i.db.closing.Load() {
		i.err = ErrClosed
		return false
	}
	ok := step()
	if err := i.it.Error(); err != nil {
		i.err = i.db.settle(err)
		return false
	}
	if err := i.db.Broken(); err != nil {
		i.err = err
		return false
	}
	return ok
}

func (i *iterator) Next() bool { return i.move(func() bool { return i.it.Next() }) }

func (i *iterator) Seek(key []byte) bool { return i.move(func() bool { return i.it.Seek(key) }) }

func (i *iterator) Last() bool { return i.move(func() bool { return i.it.Last() }) }

func (i *iterator) Prev() bool { return i.move(func() bool { return i.it.Prev() }) }

func (i *iterator) Key() []byte {
	if i.it == nil {
		return nil
	}
	return i.it.Key()
}

func (i *iterator) Value() []byte {
	if i.it == nil {
		return nil
	}
	return i.it.Value()
}

func (i *iterator) Err() error { return i.err }

// Close may be called twice.
func (i *iterator) Close() {
	if i.it == nil {
		return
	}
	i.it.Release()
	i.it = nil
	i.db.views.Done()
}
