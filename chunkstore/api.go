package chunkstore

import (
	"time"

	"github.com/holdfast/holdfast/chunkstore/hashkern"
	"github.com/holdfast/holdfast/cluster"
)

// WriteOptions tells Write about a body.
type WriteOptions struct {
	// Size is the number of bytes that the body must have, -1 when unknown.
	Size int64
	// Owner says for whom the chunks are written; a diagnostic in every shard's header.
	Owner [16]byte
	// Tee, when not nil, sees all bytes of the body in order, in one goroutine of its own, while they are coded. It
	// must not keep or change p. It has seen everything when Write returns nil, and is not running when Write returns.
	Tee func(p []byte)
	// MD5, when not nil, is given all bytes of the body in order. It costs next to nothing beside the digests of the
	// leaves, which it is stitched into, where Tee would cost a core of its own. It is complete when Write returns nil
	// and not used any more when Write returns.
	MD5 *hashkern.MD5
}

// Written is a stored body: its chunks in order, and an intent for each chunk that has shards still missing.
type Written struct {
	Size    int64
	Chunks  []Chunk
	Intents []Intent
}

// CheckResult tells of each shard of a chunk how it is, as masks (bit i: shard i). The masks are disjoint and cover
// all shards.
type CheckResult struct {
	Good        uint16
	Missing     uint16 // the drive is up and holds no such shard
	Damaged     uint16
	Unreachable uint16 // the drive is missing, down, or did not answer
	// Losses is how many more drives may be lost before the chunk is; negative when it cannot be read now.
	Losses int
}

// Health tells how well everything that is stored is protected at this moment.
type Health struct {
	Drives       []DriveHealth
	Up           int // drives that take part
	Volumes      int
	Open         int
	UnderVolumes int // volumes with shards on a drive that is down, or doubled up (Volume.DoubledUp)
	// Intents is the number of chunks recorded as having shards missing.
	Intents int
	// DriveLosses and those after it say how many more drives (devices, peers, racks, zones) may be lost, whichever they
	// are, before the first chunk is; negative when some chunk cannot be read now. Where all is in one domain it is 0.
	// Where nothing is stored they tell what a write would get.
	DriveLosses  int
	DeviceLosses int
	PeerLosses   int
	RackLosses   int
	ZoneLosses   int
	MemoryTotal  int64 // bytes of row buffers
	MemoryUsed   int64
}

// DriveHealth is a drive's own status and what the Store sees of it.
type DriveHealth struct {
	DriveStatus
	// Suspect says that calls on the drive hang or fail, so that reads and writes go around it.
	Suspect bool
	// Hanging is for how long calls have been waiting for the drive, zero while it answers. What it holds counts as
	// gone meanwhile.
	Hanging time.Duration
}

// Stats are counters since the Store was made.
type Stats struct {
	Rows         int64 // rows encoded
	BytesWritten int64 // data bytes acknowledged
	BytesRead    int64 // data bytes given to readers
	Chunks       int64 // chunks acknowledged
	ShardBytes   int64 // payload bytes read from drives
	Rebuilt      int64 // spans rebuilt from other shards
	Around       int64 // reads that went around a slow drive
	Retried      int64 // chunks sent again under a new id
	Short        int64 // chunks acknowledged with shards missing
	Intents      int64 // intents recorded for damage found by reads
	Refused      int64 // requests that ended with ErrSlowDown
	Hedges       int64 // reads that asked other drives because some were late
	HedgesWon    int64 // those that rebuilt a shard before its drive answered
	HedgeReads   int64 // shards that they asked for
	Avoided      int64 // shards rebuilt because their drive is known to be slow
	Nearer       int64 // parity shards read on this peer in the place of data shards of others
	Restored     int64 // shards copied or rebuilt, and put on a drive
	RestoredSize int64 // their payload, in bytes
}

// Domains are the failure domains that a drive lies in, beside its device. Racks of one name in two zones are two.
type Domains struct {
	Peer cluster.PeerID
	Rack string
	Zone string
}

// DriveIDs is a set of drives by slot.
type DriveIDs = [Shards]cluster.DriveID
