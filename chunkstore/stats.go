package chunkstore

import "sync/atomic"

// counters are the live form of Stats.
type counters struct {
	rows, written, read, chunks, shardBytes, rebuilt, around, retried, short, intents, refused,
	hedges, hedgesWon, hedgeReads, avoided, nearer, restored, restoredSize atomic.Int64
}

// Stats returns the counters since the Store was made.
func (s *Store) Stats() Stats {
	c := &s.stats
	return Stats{
		Rows: c.rows.Load(), BytesWritten: c.written.Load(), BytesRead: c.read.Load(), Chunks: c.chunks.Load(),
		ShardBytes: c.shardBytes.Load(), Rebuilt: c.rebuilt.Load(), Around: c.around.Load(),
		Retried: c.retried.Load(), Short: c.short.Load(), Intents: c.intents.Load(), Refused: c.refused.Load(),
		Hedges: c.hedges.Load(), HedgesWon: c.hedgesWon.Load(), HedgeReads: c.hedgeReads.Load(), Avoided: c.avoided.Load(),
		Nearer: c.nearer.Load(), Restored: c.restored.Load(), RestoredSize: c.restoredSize.Load(),
	}
}
