package metadata

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
)

const (
	// tend is how often Run looks for sessions that are over.
	tend = time.Second
	// pruneEvery is how many rounds of Run pass between two looks at result rows, which live for days.
	pruneEvery = 60
	// pruneBatch bounds one command that prunes.
	pruneBatch = 1000
)

// Run does the background work until ctx ends: it ends the sessions whose lease is over (their stages are published),
// and removes the results of completed uploads after their time. It returns nil when ctx ends. Where a deposed Catalog
// still runs beside the next one it does nothing: all that it finds it must write first.
func (c *Catalog) Run(ctx context.Context) error {
	ticker := time.NewTicker(tend)
	defer ticker.Stop()
	for round := 0; ; round++ {
		c.endOverdue(ctx)
		if round%pruneEvery == 0 {
			c.pruneAll(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// endOverdue ends what is over; what fails is tried again in the next round.
func (c *Catalog) endOverdue(ctx context.Context) {
	for _, id := range c.sessions.overdue(c.config.Now()) {
		if id == c.session || !c.sessions.endIfOver(id, c.config.Now()) {
			continue
		}
		if err := c.endSession(ctx, id); err != nil && !c.over(err) {
			c.log.Error("session did not end", "session", id, "err", err)
		}
	}
}

// over tells that background work failed because the Catalog or its work ends: the next leader goes on with it.
func (c *Catalog) over(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, raft.ErrNotLeader) || c.life.Err() != nil
}

func (c *Catalog) pruneAll(ctx context.Context) {
	for {
		n, err := c.pruneResults(ctx, pruneBatch)
		if err != nil && !c.over(err) {
			c.log.Error("results of uploads were not pruned", "err", err)
		}
		if err != nil || n < pruneBatch {
			return
		}
	}
}
