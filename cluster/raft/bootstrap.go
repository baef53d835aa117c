package raft

import (
	"errors"
	"fmt"
	"time"
)

// bootstrapSlow is how long a drive may take for a step of the bootstrap: all drives are needed, so there is nothing to be
// won by giving one up early.
const bootstrapSlow = 10 * time.Second

// createLog writes the first frame and then the first mirror set. Until the latter is on every drive nothing exists.
func createLog(c Config, groups []GroupID) error {
	l := newLog(c, c.Mirrors)
	l.slow = max(l.slow, bootstrapSlow)
	if len(l.up) < len(c.Mirrors) || len(c.Mirrors) == 0 {
		return fmt.Errorf("bootstrap: %d of %d drives are here, all are needed", len(l.up), len(c.Mirrors))
	}
	papers, blank := l.readPapers()
	if len(papers) < len(c.Mirrors) {
		return fmt.Errorf("bootstrap: %d of %d drives can be read, all are needed", len(papers), len(c.Mirrors))
	}
	if !blank {
		return errors.New("bootstrap: the drives hold a log already")
	}
	all := l.reachable()
	members := all[:min(len(all), l.want)]
	for _, id := range members {
		d := l.drives[id]
		d.files.Lock()
		d.io.Lock()
		err := d.wipe() // what a bootstrap that did not finish left
		d.io.Unlock()
		d.files.Unlock()
		if err != nil {
			return fmt.Errorf("bootstrap: drive %s: %w", d, err)
		}
	}
	var records []record
	for _, g := range groups {
		records = append(records,
			record{kind: kindMembership, group: g, term: c.Replica, payload: appendVoters(nil, c.Voters)},
			hardState{term: firstPoint.term, commit: firstPoint.index}.record(g))
	}
	l.mu.Lock()
	l.set = mirrorSet{members: members, electorate: all, previous: all}
	l.noted = l.set
	err := l.appendFrame(append(records, record{kind: kindSettle}))
	if err == nil && len(l.set.members) < len(members) {
		err = errors.New("a mirror failed")
	}
	if err == nil {
		l.set = mirrorSet{members: members, electorate: all}
		err = l.changeSet(members)
	}
	if err == nil && len(l.set.electorate) < len(all) {
		err = errors.New("a drive failed")
	}
	l.mu.Unlock()
	if err = errors.Join(err, l.close()); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return nil
}
