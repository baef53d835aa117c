package raft

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/holdfast/holdfast/cluster"
)

// inbox is what waits for the worker.
type inbox struct {
	proposals   []*proposal
	messages    []GroupMessage
	bytes       int // of the batches that brought the messages
	unreachable []cluster.PeerID
}

// proposal is a command or a read on its way.
type proposal struct {
	id    uint64
	group GroupID
	data  []byte
	read  bool
	index uint64 // of a read, once it is known
	done  chan proposalResult
	ctx   context.Context // tells a waiting read that nobody waits for it
}

type proposalResult struct {
	value any
	term  uint64
	err   error
}

// proposalHeader is the id before the command in an entry; by it the proposer is found again after a restart of the
// core too.
const proposalHeader = 8

// finish answers the proposer. Only the first answer counts.
func (p *proposal) finish(r proposalResult) {
	select {
	case p.done <- r:
	default:
	}
}

func (p *proposal) abandoned() bool { return p.ctx.Err() != nil }

// submit queues a proposal for the worker.
func (h *Host) submit(p *proposal) error {
	h.mu.Lock()
	if h.closed || h.failure != nil {
		err := errors.Join(ErrStopped, h.failure)
		h.mu.Unlock()
		return err
	}
	if !p.read {
		h.nextID++
		p.id = h.nextID
		binary.LittleEndian.PutUint64(p.data, p.id)
	}
	h.waiting.proposals = append(h.waiting.proposals, p)
	h.mu.Unlock()
	h.wakeWorker()
	return nil
}

// number gives a proposal an id that it will be found by.
func (h *Host) number(p *proposal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nextID++
	p.id = h.nextID
}

// withdraw takes a proposal back that the worker has not seen, and tells whether it could.
func (h *Host) withdraw(p *proposal) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, q := range h.waiting.proposals {
		if q == p {
			h.waiting.proposals = append(h.waiting.proposals[:i:i], h.waiting.proposals[i+1:]...)
			return true
		}
	}
	return false
}

// take takes what waits, at most one round's worth of commands.
func (h *Host) take() inbox {
	h.mu.Lock()
	defer h.mu.Unlock()
	work := h.waiting
	if !h.serving {
		h.waiting.messages, h.waiting.bytes, h.waiting.unreachable = nil, 0, nil
		work.proposals = nil
		return work
	}
	size := 0
	for n, p := range work.proposals {
		if size += len(p.data); size > maxRound && n > 0 {
			h.waiting = inbox{proposals: work.proposals[n:]}
			work.proposals = work.proposals[:n]
			return work
		}
	}
	h.waiting = inbox{}
	return work
}

// adopt notes a proposal that goes to Raft.
func (h *Host) adopt(p *proposal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending[p.id] = p
}

// adoptAll notes proposals that go to Raft; those that are nil do not.
func (h *Host) adoptAll(list []*proposal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range list {
		if p != nil {
			h.pending[p.id] = p
		}
	}
}

// claim takes the proposal with an id out of those in Raft's hands; nil when it is of another peer or process.
func (h *Host) claim(id uint64) *proposal {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pending[id]
	delete(h.pending, id)
	return p
}

// giveUp answers proposals in Raft's hands whose outcome is unknown.
func (h *Host) giveUp(which func(*proposal) bool, err error) {
	h.mu.Lock()
	var list []*proposal
	for id, p := range h.pending {
		if which(p) {
			list = append(list, p)
			delete(h.pending, id)
		}
	}
	h.mu.Unlock()
	for _, p := range list {
		p.finish(proposalResult{err: err})
	}
}

func (h *Host) wakeWorker() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// changed wakes everybody who watches.
func (h *Host) changed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.news)
	h.news = make(chan struct{})
}

// watch returns a channel that is closed at the next change.
func (h *Host) watch() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.news
}
