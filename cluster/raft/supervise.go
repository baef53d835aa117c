package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// supervise runs one core after another until the host closes.
func (h *Host) supervise(ctx context.Context, c *core, opened chan<- error) {
	defer close(h.done)
	for {
		err := h.serve(ctx, c, opened)
		ctx, opened = context.Background(), nil
		closing := errors.Is(err, errEnd)
		if !closing {
			h.config.Log.Error("raft host interrupted", "err", err)
		}
		broken := errors.Is(err, errStateBroken)
		spent := isNoSpace(err) && h.spendReserve()
		// Without space the next state will break as well: nobody waits for it, and it is not tried at once.
		again := broken && !spent && isNoSpace(err)
		if broken && !again {
			h.pause()
		} else {
			h.fail(err)
		}
		h.core.Store(nil)
		h.noteReached(c)
		closeErr := c.close()
		if closing {
			h.mu.Lock()
			h.closeErr = closeErr
			h.mu.Unlock()
			return
		}
		h.leave(c.log)
		if closeErr != nil {
			h.config.Log.Warn("raft host closed its log with an error", "err", closeErr)
		}
		if again && !h.rest() {
			return
		}
		if c = h.reopen(broken); c == nil {
			return
		}
	}
}

// serve runs a core to its end. It tells opened when the core is ready.
func (h *Host) serve(ctx context.Context, c *core, opened chan<- error) error {
	keeperCtx, stopKeeper := context.WithCancel(context.Background())
	ended := c.ended
	var endLife context.CancelFunc
	c.life, endLife = context.WithCancel(context.Background())
	h.core.Store(c)
	var result error
	var keeper sync.WaitGroup
	go func() {
		defer close(ended)
		result = c.run(h.stop)
		endLife()
	}()
	if h.config.Snapshots != nil {
		for range sendsAtOnce {
			keeper.Go(func() { c.sendSnapshots(c.life) })
		}
	}
	keeper.Go(func() { c.keep(keeperCtx, ended) })
	h.wakeWorker() // groups that are alone campaign at once
	h.changed()
	err := c.waitReady(ctx, ended)
	if err == nil {
		h.resume(c)
	}
	if opened != nil {
		opened <- err
	}
	<-ended
	stopKeeper()
	keeper.Wait()
	c.writing.Lock() // nobody writes files any more, since life has ended
	defer c.writing.Unlock()
	if errors.Is(result, errEnd) {
		c.closeCheckpoint()
	}
	return result
}

// noteReached notes how far the groups of a core that ended were applied.
func (h *Host) noteReached(c *core) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reached = map[GroupID]uint64{}
	for _, r := range c.order {
		h.reached[r.id] = max(r.point.index, r.must)
	}
}

// reachedBefore is what readers may have seen of a group.
func (h *Host) reachedBefore(group GroupID) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reached[group]
}

// resume proposes again what was on its way to Raft when the last core ended and is not in the log: all that is in the
// log has been applied and answered by now. Only a host without other voters knows that; others do not know the outcome.
func (h *Host) resume(c *core) {
	h.mu.Lock()
	h.failure, h.known = nil, map[GroupID]bool{}
	for id := range *c.groups.Load() {
		h.known[id] = true
	}
	var again, unknown []*proposal
	for id, p := range h.pending {
		if r := c.find(p.group); r == nil || !r.alone {
			unknown = append(unknown, p)
			delete(h.pending, id)
		} else {
			again = append(again, p)
			delete(h.pending, id)
		}
	}
	h.serving = true
	h.waiting.proposals = append(again, h.waiting.proposals...)
	h.mu.Unlock()
	for _, p := range unknown {
		p.finish(proposalResult{err: ErrUnknownOutcome})
	}
	h.changed()
	h.wakeWorker()
}

// reopen opens the next core, after a broken state at once, after the loss of the log as soon as drives allow. It
// returns nil when the host closes first.
func (h *Host) reopen(broken bool) *core {
	for {
		c, err := openCore(h, h.here(), broken)
		if err == nil {
			return c
		}
		h.config.Log.Warn("raft host cannot open its log yet", "err", err)
		h.fail(err)
		if isNoSpace(err) && h.spendReserve() {
			continue
		}
		if !h.rest() {
			return nil
		}
	}
}

// rest pauses until a drive returns, or for reopenPause. False: the host closes.
func (h *Host) rest() bool {
	select {
	case <-h.stop:
		return false
	case <-h.returned:
	case <-time.After(reopenPause):
	}
	return true
}

// here lists the drives that are here and on which nothing hangs.
func (h *Host) here() []Mirror {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []Mirror
	for _, m := range h.mirrors {
		if !h.hangs(m.Drive) {
			list = append(list, m)
		}
	}
	return list
}

// leave notes the drives of a log that was given up on which an operation hangs. A write that comes late would replace
// what the next log has written there, so that one does without them until they have answered.
func (h *Host) leave(l *mirroredLog) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range l.drives {
		if d.retireHandle() != nil {
			h.left = append(h.left, d)
			h.config.Log.Warn("drive is left out until it answers", "drive", d.String(), "err", errHangs)
		}
	}
}

// hangs tells whether an operation of a log that was given up hangs on a drive. Caller holds mu; nothing here waits,
// and what is closed is at most the segment of a drive that has just answered.
func (h *Host) hangs(id cluster.DriveID) bool {
	h.left = slices.DeleteFunc(h.left, func(d *drive) bool { return d.id == id && d.retireHandle() == nil })
	return slices.ContainsFunc(h.left, func(d *drive) bool { return d.id == id })
}

// fail refuses everything that waits. Commands in Raft's hands may still be applied later.
func (h *Host) fail(err error) {
	h.mu.Lock()
	h.failure, h.serving = err, false
	waiting := h.waiting.proposals
	h.waiting = inbox{}
	h.mu.Unlock()
	for _, p := range waiting {
		p.finish(proposalResult{err: fmt.Errorf("%w: %w", ErrStopped, err)})
	}
	h.giveUp(func(*proposal) bool { return true }, errors.Join(ErrUnknownOutcome, ErrStopped))
	h.changed()
}

// pause keeps proposals waiting until the next core is ready.
func (h *Host) pause() {
	h.mu.Lock()
	h.serving = false
	h.mu.Unlock()
}
