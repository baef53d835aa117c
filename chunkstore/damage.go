package chunkstore

import (
	"sync"
	"time"
)

const (
	// maxDamage bounds the chunks that wait to be recorded. Beyond it findings are dropped: the next read or the next
	// check finds them again.
	maxDamage = 4096
	// damageAgain is how long damage that was recorded is not recorded again. Another peer may have repaired it by then,
	// and of that this Store is not told.
	damageAgain = 10 * time.Minute
)

// damageLog records, in the background and once, intents for the damage that reads find.
type damageLog struct {
	store *Store

	mu      sync.Mutex
	waiting map[Chunk]uint16
	known   map[Chunk]knownDamage // recorded already; forgotten when full, when old, or when repair resolved it
	kick    chan struct{}
}

// knownDamage is what was recorded of a chunk, and when first.
type knownDamage struct {
	shards uint16
	since  time.Time
}

func newDamageLog(s *Store) *damageLog {
	return &damageLog{
		store: s, waiting: make(map[Chunk]uint16), known: make(map[Chunk]knownDamage), kick: make(chan struct{}, 1),
	}
}

// report notes that the shards in mask are damaged or missing on drives that are up.
func (d *damageLog) report(c Chunk, mask uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	mask |= d.waiting[c]
	known, ok := d.known[c]
	if ok && d.store.config.Now().Sub(known.since) > damageAgain {
		delete(d.known, c)
		known = knownDamage{}
	}
	if mask&^known.shards == 0 || len(d.waiting) >= maxDamage {
		return
	}
	d.waiting[c] = mask
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// forget says that a chunk was repaired, so that new damage of it is recorded again.
func (d *damageLog) forget(c Chunk) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, c)
}

func (d *damageLog) next() (Chunk, uint16, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c, mask := range d.waiting {
		delete(d.waiting, c)
		if len(d.known) >= maxDamage {
			clear(d.known)
		}
		known, ok := d.known[c]
		if !ok {
			known.since = d.store.config.Now()
		}
		known.shards |= mask
		d.known[c] = known
		return c, mask, true
	}
	return Chunk{}, 0, false
}

func (d *damageLog) run() {
	s := d.store
	for {
		select {
		case <-s.life.Done():
			return
		case <-d.kick:
		}
		for c, mask, ok := d.next(); ok; c, mask, ok = d.next() {
			err := s.config.Volumes.AddIntent(s.life, Intent{Chunk: c, Missing: mask})
			if err != nil {
				d.forget(c)
				if s.life.Err() == nil {
					s.config.Log.Warn("damage could not be recorded; the next read finds it again",
						"chunk", c.ID.String(), "volume", c.Volume, "err", err)
				}
				continue
			}
			s.stats.intents.Add(1)
			s.config.Log.Warn("shards are damaged or missing; repair will rebuild them",
				"chunk", c.ID.String(), "volume", c.Volume, "shards", mask)
		}
	}
}
