package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

// lastReads reads every key at every gateway after everything has healed, and lists there.
func (c *cluster) lastReads(h *history, end time.Time) {
	for _, n := range c.nodes {
		u := &client{h: h, n: n, id: 1000, last: map[string]string{}}
		retry := func(what func(ctx context.Context) error) {
			err := eventually(max(time.Second, time.Until(end)), func() error {
				store := n.store()
				if store == nil {
					return fmt.Errorf("%s does not serve", n.name)
				}
				if err := u.ensureBucket(store); err != nil {
					return err
				}
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				return what(ctx)
			})
			if err != nil {
				c.complain("not readable %v after everything healed: %s", recovery, oneLine(err))
			}
		}
		for k := range keys {
			retry(func(ctx context.Context) error { return u.read(ctx, n.store(), keyName(k), final) })
		}
		retry(func(ctx context.Context) error { return u.list(ctx, n.store(), final) })
	}
}

// lastChecks asks a peer for what an operator looks at: status and fsck. Chunks that lack shards are repaired by then,
// and volumes are at home; but for runs with a wrong clock: freed chunks are deleted by the leader's, and a volume with one
// that only some drives have deleted does not move.
func (c *cluster) lastChecks(random *rand.Rand, end time.Time) {
	status := isWhole
	if c.skewed.Load() {
		status = isReady
	}
	for _, check := range []func(context.Context, admin.Source) error{status, isSound} {
		err := eventually(max(time.Second, time.Until(end)), func() error {
			p := c.nodes[random.IntN(len(c.nodes))].up()
			if p == nil {
				return errors.New("a peer is down")
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			err := check(ctx, p.Admin())
			if err != nil {
				pause(5 * time.Second)
			}
			return err
		})
		if err != nil {
			c.complain("%v after everything healed: %s", recovery, oneLine(err))
		}
	}
}

// isWhole says what status finds wrong.
func isWhole(ctx context.Context, source admin.Source) error {
	s, err := source.Status(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("status: %w", err)
	case s.Whole():
		return nil
	}
	return fmt.Errorf("status is not whole: %s", wrongs(s))
}

// isReady says what status finds wrong, but for protection: it counts chunks that wait to be deleted, fsck does not.
func isReady(ctx context.Context, source admin.Source) error {
	s, err := source.Status(ctx)
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	text := wrongs(s)
	if s.Protection = (admin.Shortage{}); s.Whole() {
		return nil
	}
	return fmt.Errorf("status is not whole: %s", text)
}

// wrongs are what keeps a status from being whole.
func wrongs(s *admin.Status) string {
	list := append([]string{fmt.Sprintf("ready %v, %d of %d drives up, %+v", s.Ready, s.DrivesUp, len(s.Drives), s.Protection)}, s.Reasons...)
	for _, d := range s.Drives {
		if d.Reason != "" {
			list = append(list, fmt.Sprintf("drive %s is %s: %s", d.Name, d.State, d.Reason))
		}
	}
	for _, p := range s.Peers {
		if !p.Up {
			list = append(list, fmt.Sprintf("peer %s: %s", p.Name, p.Reason))
		}
	}
	for _, g := range s.Groups {
		if g.Leader == "" {
			list = append(list, g.Name+" has no leader")
		}
	}
	for _, w := range s.Work {
		if w.Error != "" {
			list = append(list, fmt.Sprintf("%s: %s", w.Name, w.Error))
		}
	}
	return strings.Join(list, "; ")
}

// isSound says what fsck finds wrong.
func isSound(ctx context.Context, source admin.Source) error {
	var problems []string
	report, err := source.Fsck(ctx, false, func(e admin.FsckEvent) error {
		if e.Problem != nil {
			problems = append(problems, fmt.Sprintf("%+v", *e.Problem))
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("fsck: %w", err)
	case report.Sound() && len(problems) == 0:
		return nil
	}
	return fmt.Errorf("fsck: %d chunks lost, %d degraded, %d records unreadable, %d drives down; %s", report.Lost, report.Degraded, report.Unreadable,
		report.DrivesDown, strings.Join(problems, "; "))
}
