package peer

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/transport"
)

const (
	leadersPath = "/peer/1/leaders"
	// leadersEvery is how often a peer without a replica asks who leads, and leadersPatience how long the one it asks may
	// take.
	leadersEvery    = 200 * time.Millisecond
	leadersPatience = time.Second
	maxLeaders      = 64 << 10
)

// leaders knows who leads each group. Where a replica is here, and its log is, it says so; else other peers are asked.
type leaders struct {
	peer *Peer
	host *raft.Host

	mu    sync.Mutex
	heard map[raft.GroupID]leading
	from  cluster.PeerID // who answered last
}

// leading is who leads a group, as somebody with a replica knows it.
type leading struct {
	Peer cluster.PeerID `json:"peer"`
	Term uint64         `json:"term"`
}

func newLeaders(p *Peer, host *raft.Host) *leaders {
	return &leaders{peer: p, host: host, heard: make(map[raft.GroupID]leading)}
}

// own asks the replica that is here.
func (l *leaders) own(group raft.GroupID) (leading, bool) {
	member := l.host.Group(group)
	if member == nil {
		return leading{}, false
	}
	at := member.Leader()
	peer, known := l.peer.peerOf(group, at.Replica)
	return leading{peer, at.Term}, at.Replica != 0 && known
}

// isHere tells whether a replica here knows. One that lost its log knows nothing, but others do, and this peer is still
// a gateway.
func (l *leaders) isHere(group raft.GroupID) bool {
	return l.host.Group(group) != nil && l.host.Failed() == nil
}

// of says who leads a group, and whether that is this peer.
func (l *leaders) of(group raft.GroupID) (peer cluster.PeerID, local, ok bool) {
	if l.isHere(group) {
		at, ok := l.own(group)
		return at.Peer, ok && at.Peer == l.peer.id(), ok
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.heard[group]
	return at.Peer, false, ok && at.Peer != l.peer.id() // it does not lead: it was heard before
}

// Name says what the worker is called in status.
func (l *leaders) Name() string { return "leaders" }

// Run asks who leads the groups that no replica here knows of, until ctx ends.
func (l *leaders) Run(ctx context.Context) error {
	ticker := time.NewTicker(leadersEvery)
	defer ticker.Stop()
	for {
		if !l.isHere(rootGroup) || !l.isHere(tabletGroup) {
			l.ask(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// ask asks one peer after another until one knows the leaders of all groups.
func (l *leaders) ask(ctx context.Context) {
	for _, id := range l.candidates() {
		heard, err := l.call(ctx, id)
		if err != nil || ctx.Err() != nil {
			continue
		}
		l.mu.Lock()
		missing := false
		for _, group := range []raft.GroupID{rootGroup, tabletGroup} {
			at, ok := heard[group]
			missing = missing || !ok
			if ok && at.Term >= l.heard[group].Term {
				l.heard[group] = at
			}
		}
		if !missing {
			l.from = id
		}
		l.mu.Unlock()
		if !missing {
			return
		}
	}
}

// candidates are the peers to ask: first the one that knew last time.
func (l *leaders) candidates() []cluster.PeerID {
	l.mu.Lock()
	from := l.from
	l.mu.Unlock()
	var list []cluster.PeerID
	for _, st := range l.peer.reachable() {
		switch st {
		case from:
			list = append([]cluster.PeerID{st}, list...)
		default:
			list = append(list, st)
		}
	}
	return list
}

func (l *leaders) call(ctx context.Context, id cluster.PeerID) (map[raft.GroupID]leading, error) {
	ctx, cancel := context.WithTimeout(ctx, leadersPatience)
	defer cancel()
	var heard map[raft.GroupID]leading
	return heard, l.peer.getJSON(ctx, id, leadersPath, maxLeaders, &heard)
}

// handler tells others what the replicas here know.
func (l *leaders) handler() http.Handler {
	return transport.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		known := make(map[raft.GroupID]leading)
		for _, group := range []raft.GroupID{rootGroup, tabletGroup} {
			if at, ok := l.own(group); ok {
				known[group] = at
			}
		}
		return writeAnswer(w, known)
	})
}

// getJSON asks another peer for a value of at most so many bytes.
func (p *Peer) getJSON(ctx context.Context, id cluster.PeerID, path string, most int64, into any) error {
	other, err := p.wire.peer(id)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return err
	}
	response, err := other.Do(request)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// writeAnswer answers another peer's question.
func writeAnswer(w http.ResponseWriter, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}
