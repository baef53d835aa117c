package metadata

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
)

// Config says what a Catalog stands on.
type Config struct {
	// Root is the root group's replica, whose machine is a root.Machine.
	Root raft.Group
	// Tablet is the replica of the one tablet, whose machine is a tablet.Machine.
	Tablet raft.Group
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Rand gives the randomness of version and upload ids; nil means crypto/rand.
	Rand io.Reader
	// Log takes events; nil means none.
	Log *slog.Logger
	// FreeAfter is how long freed chunks are kept for readers. Zero means 15 minutes, negative means no time.
	FreeAfter time.Duration
	// ResultsFor is how long a completed upload answers a retry. Zero means 7 days.
	ResultsFor time.Duration
}

// Catalog is the name space.
type Catalog struct{ config Config }

// New opens the name space over its groups.
func New(ctx context.Context, config Config) (*Catalog, error) { return nil, ErrUnavailable }

// Run does the background work until ctx ends.
func (c *Catalog) Run(ctx context.Context) error { return ErrUnavailable }

// Close waits for what is under way.
func (c *Catalog) Close() error { return ErrUnavailable }
