package peer

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// Errors of Start beside ErrConfig.
var (
	// ErrInUse says that another process uses the data directory, a drive or the address.
	ErrInUse = errors.New("in use by another process")
	// ErrClusters says that the drives belong to several clusters and nothing tells which is meant.
	ErrClusters = errors.New("the drives belong to different clusters")
)

// Config is what an operator decides.
type Config struct {
	Dir    string   // absolute
	Drives []string // absolute paths
	// Name is the peer's name; empty means the host's.
	Name string
	// Zone and Rack are failure domains; empty means the only one.
	Zone, Rack string
	// Listen is the address of the S3 listener, host:port.
	Listen string
	// Peer is the address of the listener for other peers, host:port; empty means the host of Listen, and the port of the
	// last start, or 9001, or a free one where these are taken.
	// Gossip is the one for gossip, on the same host; empty means the port above.
	Peer, Gossip string
	// Join, when not empty, is a token: a peer that is in no cluster joins the one that the token is of.
	Join string
	// Domain, when not empty, makes BUCKET.Domain a host of the S3 face (virtual-hosted style); several are separated by
	// commas.
	Domain string
	// TLSCert and TLSKey are PEM files; both empty means plain HTTP.
	TLSCert, TLSKey string
	// Memory is the budget of row buffers in bytes; zero means a quarter of RAM, at most 1 GiB.
	Memory int64
	// RootKey, when not nil, becomes the root access key of a cluster of one peer.
	RootKey *Credentials
	// HomeBucket, when not empty, is made when the peer becomes ready and there is no such bucket.
	HomeBucket string
	// Version is the program's, for status.
	Version string
}

// MemoryBudget is what row buffers may take of memory, in bytes.
func (c Config) MemoryBudget() (int64, error) {
	if c.Memory != 0 {
		return c.Memory, nil
	}
	return chunkstore.DefaultMemory()
}

func (c *Config) validate() error {
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("%w: --name is not set and the host has no name: %w", ErrConfig, err)
		}
		c.Name = host
	}
	if len(c.Drives) == 0 {
		return fmt.Errorf("%w: no drive is named", ErrConfig)
	}
	for _, d := range append([]string{c.Dir}, c.Drives...) {
		if !path.IsAbs(d) {
			return fmt.Errorf("%w: %q is not an absolute path", ErrConfig, d)
		}
	}
	if c.Memory != 0 && c.Memory < chunkstore.MinMemory {
		return fmt.Errorf("%w: --memory of %d bytes is less than the %d MiB that the store needs", ErrConfig, c.Memory, int64(chunkstore.MinMemory)>>20)
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("%w: --s3: %w", ErrConfig, err)
	}
	return nil
}

// Seams are what tests replace.
type Seams struct {
	FS  vfs.FS
	Now func() time.Time
	Log *slog.Logger
	// Mark shows commits to the mounts of this machine, and makes a start wait until none trusts an earlier process's.
	// Tests that start a thousand peers have no mounts.
	Mark bool
	// Network connects peers, and takes clients; nil means TCP. NoGossip leaves gossip out, which knows no other network.
	Network  transport.Network
	NoGossip bool
	// LogSegment is the length of the log's segments in bytes, StateBuffer what a group's state gathers in memory before
	// it writes a table; zero means their own defaults.
	LogSegment  int64
	StateBuffer int
	// RepairEvery is how often repair and rebalance look for work; zero means their own defaults.
	RepairEvery time.Duration
	// RotateEvery is how often gossip keys are looked at; zero means the default.
	RotateEvery time.Duration
	// Machine, Tablet and Drive, when not nil, wrap the state machine of a group, the tablet's replica and each drive of
	// this peer: a test watches them, or breaks one of their rules to see that it is noticed.
	Machine func(raft.GroupID, raft.Machine) raft.Machine
	Tablet  func(raft.Member) raft.Member
	Drive   func(chunkstore.Drive) chunkstore.Drive
}
