package raft

import (
	"context"
	"slices"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

const (
	// keeperPause is how often the keeper looks without being woken.
	keeperPause = time.Second
	// retryDrive is how long a drive that failed, and is still here, stays out of use.
	retryDrive = 30 * time.Second
	// closeCheckpointMin is the log that makes a checkpoint at a clean end worth its writes.
	closeCheckpointMin = 64 << 10
)

// keep looks after the log until the worker has ended: the next segments, missing mirrors, checkpoints.
func (c *core) keep(ctx context.Context, ended <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ticker := time.NewTicker(keeperPause)
	defer ticker.Stop()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	log := c.host.config.Log
	c.scrubCheckpoints(ctx)
	retry := time.Now().Add(retryDrive)
	for ctx.Err() == nil {
		c.host.keepReserve()
		if !c.host.Scarce() { // what was reserved is for the state; an append that needs a segment makes it
			c.log.prepareNext()
		}
		if err := c.log.shrink(); err != nil {
			log.Warn("log mirrors cannot be reduced", "err", err)
		}
		if err := c.log.fill(ctx, c.keptFiles); err != nil && ctx.Err() == nil {
			log.Warn("log mirror cannot be made", "err", err)
		}
		if c.checkpointDue() {
			if err := c.checkpoint(ctx, true); err != nil && ctx.Err() == nil {
				log.Warn("checkpoint not taken", "err", err)
			}
		}
		if time.Now().After(retry) {
			retry = time.Now().Add(retryDrive)
			c.retryDrives()
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-c.log.work:
		}
	}
}

// prepareNext makes the next segment on every member. A drive that fails at it is found out by its next append.
func (l *mirroredLog) prepareNext() {
	l.mu.Lock()
	number := l.next.segment + 1
	members := l.set.members
	drives := l.drivesOf(members)
	l.mu.Unlock()
	_, failed := l.fanOut(members, func(id cluster.DriveID) error {
		return drives[slices.Index(members, id)].prepare(number, l.segmentSize)
	})
	for id, err := range failed {
		l.log.Warn("next log segment cannot be made", "drive", id.String(), "err", err)
	}
}

// retryDrives brings drives back into use that failed a while ago and are here.
func (c *core) retryDrives() {
	for _, m := range c.host.here() {
		c.log.mu.Lock()
		up := c.log.up[m.Drive]
		c.log.mu.Unlock()
		if up {
			continue
		}
		d, err := newDrive(c.host.config.FS, m)
		if err == nil {
			err = c.log.driveUp(d)
		}
		if err != nil {
			c.host.config.Log.Warn("drive stays out of use", "drive", m.Drive.String(), "err", err)
		}
	}
}
