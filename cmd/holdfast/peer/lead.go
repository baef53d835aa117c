package peer

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster/worker"
	"github.com/holdfast/holdfast/metadata"
)

// leadership runs the work that changes rows on the peer that leads the tablet, and only there: repair, rebalance, the
// deletion of freed chunks. Two peers may do it for a moment while leadership moves; rows have revisions, so the slower
// one loses.
type leadership struct {
	core *core

	mu    sync.Mutex
	group *worker.Group // nil while another peer leads
	// stopped: what the work needs is about to be closed, and no other begins.
	stopped bool
}

// work does what the leader does until ctx ends: then another leads.
func (l *leadership) work(ctx context.Context, _ *metadata.Catalog) {
	group := worker.NewGroup(l.core.peer.log)
	defer group.Close()
	if !l.begin(group) {
		<-ctx.Done()
		return
	}
	for _, w := range l.core.leaderWork() {
		if err := group.Go(w); err != nil { // only after Close
			l.core.peer.log.Error("work of the leader was not started", "worker", w.Name(), "err", err)
		}
	}
	<-ctx.Done()
	l.end()
}

// begin makes group the work, unless the peer stops.
func (l *leadership) begin(group *worker.Group) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.group = group
	return true
}

func (l *leadership) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.group = nil
}

// workGrace is how long the work may take to end before what it works with is closed: a drive that hangs holds it up.
const workGrace = 3 * time.Second

// stop ends the work before its time, and lets none begin: a repair that is under way holds buffers of the chunk store.
func (l *leadership) stop() {
	l.mu.Lock()
	l.stopped = true
	group := l.group
	l.mu.Unlock()
	if group == nil {
		return
	}
	ended := make(chan struct{})
	go func() {
		group.Close()
		close(ended)
	}()
	timer := time.NewTimer(workGrace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}

// leads says that this peer does the work now.
func (l *leadership) leads() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.group != nil
}

// states are those of the work, none while another peer leads.
func (l *leadership) states() []worker.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.group == nil {
		return nil
	}
	return l.group.States()
}
