package peer

import (
	"context"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
	"github.com/holdfast/holdfast/cluster/topology"
)

const (
	// outAfter is how long a peer or a drive may be silent until what it holds is made again elsewhere: a restart, also of
	// a machine, must not move data about.
	outAfter = 15 * time.Minute
	// outEvery is how often the leader looks.
	outEvery = 10 * time.Second
)

// silence remembers since when peers and drives have been silent, as this peer saw it.
type silence struct {
	drives map[cluster.DriveID]time.Time
}

// outs takes peers and drives out of the placement that were silent for long, and back in when they work again, until
// ctx ends. It takes nothing out when fewer drives than a chunk has shards would be left: shards that double up protect
// no better than those that wait.
func (c *core) outs(ctx context.Context) error {
	seen := silence{drives: make(map[cluster.DriveID]time.Time)}
	ticker := time.NewTicker(outEvery)
	defer ticker.Stop()
	for {
		if err := c.outsOnce(ctx, &seen); err != nil && ctx.Err() == nil {
			c.peer.log.Warn("silent peers and drives were not taken out", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (c *core) outsOnce(ctx context.Context, seen *silence) error {
	now := c.peer.seams.Now()
	m := c.watcher.Map()
	seen.look(&m, c, now)
	if next := c.out(&m, seen, now); !changesOut(&m, &next) {
		return nil
	}
	done, err := topology.Change(ctx, c.root, func(m *topology.Map) (topology.Extra, error) {
		*m = c.out(m, seen, now)
		return topology.Extra{}, nil
	})
	if err != nil {
		return err
	}
	c.watcher.Take(done)
	c.peer.log.Warn("the placement follows peers and drives that came and went", "epoch", uint64(done.Epoch), "drives", len(done.Placeable()))
	return nil
}

// look notes which drives are silent.
func (s *silence) look(m *topology.Map, c *core, now time.Time) {
	for _, d := range m.Drives {
		if c.status(d.ID).Down == nil {
			delete(s.drives, d.ID)
		} else if s.drives[d.ID].IsZero() {
			s.drives[d.ID] = now
		}
	}
}

// out is the map as it should be.
func (c *core) out(m *topology.Map, seen *silence, now time.Time) topology.Map {
	next := *m
	next.Peers, next.Drives = append([]topology.Peer(nil), m.Peers...), append([]topology.Drive(nil), m.Drives...)
	for i := range next.Peers {
		p := &next.Peers[i]
		if p.State == topology.Removed || p.ID == c.peer.id() {
			p.Out = false
			continue
		}
		up, since := c.reachable(p.ID)
		switch {
		case up:
			p.Out = false
		case now.Sub(since) > outAfter:
			before := p.Out
			p.Out = true
			if !before && len(next.Placeable()) < placement.Width {
				p.Out = false
			}
		}
	}
	for i := range next.Drives {
		d := &next.Drives[i]
		silent, is := seen.drives[d.ID]
		switch {
		case !is:
			d.Out = false
		case now.Sub(silent) > outAfter:
			before := d.Out
			d.Out = true
			if !before && len(next.Placeable()) < placement.Width {
				d.Out = false
			}
		}
	}
	return next
}

func changesOut(a, b *topology.Map) bool {
	for i := range a.Peers {
		if a.Peers[i].Out != b.Peers[i].Out {
			return true
		}
	}
	for i := range a.Drives {
		if a.Drives[i].Out != b.Drives[i].Out {
			return true
		}
	}
	return false
}
