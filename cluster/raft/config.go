package raft

import (
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// MaxCommand is the longest command in bytes: with it an entry stays far below a segment and a message.
const MaxCommand = 4 << 20

// Limits of a host, each so that memory stays bounded and one group commit stays short.
const (
	// maxWaiting is how many proposals wait or are in flight; further callers of Propose wait outside.
	maxWaiting = 4096
	// maxWaitingBytes bounds their commands.
	maxWaitingBytes = 64 << 20
	// maxRound bounds the commands that one round takes, so a round's fsync and apply stay short.
	maxRound = 4 << 20
)

// Mirror names a drive of this peer and the directory where it is.
type Mirror struct {
	Drive cluster.DriveID
	Dir   string
}

// MirrorsFor is how many mirrors of the log a peer keeps when its groups have so many voters, such that the loss of
// any 4 drives of the cluster loses no name: 5 copies in all, at least.
func MirrorsFor(voters int) int {
	switch {
	case voters < 3:
		return 5
	case voters < 5:
		return 3
	case voters < 9:
		return 2
	default:
		return 1
	}
}

// MirrorStatus tells where the log is.
type MirrorStatus struct {
	// Want is how many mirrors there should be, as far as there are drives.
	Want    int
	Members []Mirror
	Epoch   uint64
	// Tolerated is how many further drives may be lost, across a restart too, without losing a name.
	Tolerated int
	// Failure is why nothing is accepted now; nil while all is well.
	Failure error
}

// Transport carries batches of Raft messages to other peers.
type Transport interface {
	// Send takes a batch for Host.Receive of a peer, of at most MaxBatch bytes. It must not block: a batch that cannot be
	// sent now is dropped, Raft repeats what matters. Batches may be lost, doubled, late and out of order.
	Send(to cluster.PeerID, batch []byte)
}

// PeerReplica is a replica of a group and where it is.
type PeerReplica struct {
	Peer    cluster.PeerID
	Group   GroupID
	Replica uint64
}

// Config says what a host is made of.
type Config struct {
	// FS is the file system of StateDir and of the mirrors.
	FS vfs.FS
	// StateDir is a directory of the host's own for the state DB. It may be removed while no host runs.
	StateDir string
	// Mirrors are all drives of this peer that are here, not only those that hold the log.
	Mirrors []Mirror
	Cluster cluster.ClusterID
	// Machines makes the state machine of a group. The host calls it whenever it makes a replica, and to
	// find out which keys a removed one had.
	Machines func(GroupID) Machine
	// Log hears what an operator should know. Nil means silence.
	Log *slog.Logger

	// WantMirrors is how many mirrors the log should have. Zero means MirrorsFor of the voters of the
	// group that has the fewest.
	WantMirrors int
	// Replica is this peer's Raft id in every group that Bootstrap makes. Zero means 1.
	Replica uint64
	// Applied is told the index up to which a group's commands are applied, before any proposer of these is answered.
	// Nil means that nobody asks.
	Applied func(group GroupID, index uint64)
	// Voters are the Raft ids of the groups that Bootstrap makes. Empty means this replica alone.
	Voters []uint64
	// Transport carries messages to other replicas. Nil means that there are none.
	Transport Transport
	// Snapshots carries the state of a group to replicas that are too far behind. Nil means that those wait.
	Snapshots SnapshotTransport
	// PeerOf tells on which peer a replica of a group is; false means that nobody knows now. It is asked often and must
	// not block.
	PeerOf func(group GroupID, replica uint64) (cluster.PeerID, bool)
	// SnapshotRate bounds the bytes a second of all snapshots that are sent. Zero means 64 MiB.
	SnapshotRate int64
	// Tick is the unit of Raft's clock; an election takes 10. Zero means 100 ms.
	Tick time.Duration
	// SlowMirror is how long a mirror may take for an append when most are done. Zero means 1 s.
	SlowMirror time.Duration
	// SegmentSize is the length of a log segment. Zero means 16 MiB; at least 64 KiB, rounded up to 4 KiB. A command may take a quarter.
	SegmentSize int64
	// CheckpointBytes is how much log is retained, unless twice the state is more: a checkpoint is taken when half of it
	// came since the last. Zero means 256 MiB.
	CheckpointBytes int64
	// WriteBuffer and BlockCache are those of kv.Config.
	WriteBuffer int
	BlockCache  int

	// closeCheckpointMin is the constant of that name, unless a test sets it.
	closeCheckpointMin int64
	// kept is how many bytes of applied entries a group keeps for followers, if a test sets it.
	kept int
}

// Defaults of Config.
const (
	defaultTick       = 100 * time.Millisecond
	defaultSlow       = time.Second
	defaultSegment    = 16 << 20
	minSegment        = 64 << 10
	defaultCheckpoint = 256 << 20
	// Half of a gigabit link, which repairs need too.
	defaultSnapshotRate = 64 << 20
	electionTicks       = 10
	heartbeatTicks      = 2
	maxInflightMsgs     = 256
	maxInflightBytes    = 32 << 20
	maxMessageBytes     = 1 << 20
	maxUncommitted      = 32 << 20
	maxCommittedApply   = 8 << 20
	stateDirName        = "/state"
	hostLockName        = "/lock"
	readPatience        = 5 * time.Second
	reopenPause         = time.Second
	closeCheckpointMax  = 32 << 20
)

// complete checks a config and fills its defaults.
func (c *Config) complete() error {
	if c.FS == nil || c.StateDir == "" || c.Machines == nil {
		return errors.New("raft host: FS, StateDir and Machines are needed")
	}
	c.StateDir = strings.TrimSuffix(c.StateDir, "/")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Replica == 0 {
		c.Replica = 1
	}
	if len(c.Voters) == 0 {
		c.Voters = []uint64{c.Replica}
	}
	if c.Transport != nil && c.PeerOf == nil {
		return errors.New("raft host: a Transport needs PeerOf")
	}
	if c.SnapshotRate == 0 {
		c.SnapshotRate = defaultSnapshotRate
	}
	if c.Tick == 0 {
		c.Tick = defaultTick
	}
	if c.SlowMirror == 0 {
		c.SlowMirror = defaultSlow
	}
	if c.SegmentSize == 0 {
		c.SegmentSize = defaultSegment
	}
	if c.SegmentSize < minSegment {
		c.SegmentSize = minSegment
	}
	c.SegmentSize = roundUp(c.SegmentSize, pageSize)
	if c.closeCheckpointMin == 0 {
		c.closeCheckpointMin = closeCheckpointMin
	}
	if c.CheckpointBytes == 0 {
		c.CheckpointBytes = defaultCheckpoint
	}
	return nil
}

// maxCommand is MaxCommand, or what a small segment takes.
func (c *Config) maxCommand() int { return int(min(MaxCommand, c.SegmentSize/4)) }

// firstMirrors is how many mirrors the log begins with.
func (c *Config) firstMirrors() int {
	if c.WantMirrors != 0 {
		return c.WantMirrors
	}
	return MirrorsFor(len(c.Voters))
}
