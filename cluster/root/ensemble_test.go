package root

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
)

// ensemble is a root group on some peers, of which one at a time leads. What is acknowledged is the same to all of them.
type ensemble struct {
	state *localGroup

	mu     sync.Mutex
	leader cluster.PeerID // zero: nobody
	peers  map[cluster.PeerID]*peer
	// proposed are the commands, and repeats how many came more than once.
	proposed map[string]bool
	repeats  int
}

// peer is one of them: its replica, its Router and what others reach.
type peer struct {
	ensemble *ensemble
	id       cluster.PeerID
	router   *Router
	client   *Client
	handler  http.Handler
	// asked counts the questions of others.
	asked atomic.Int64
	// fault decides what becomes of a question; nil, or a nil answer without an error: it is answered.
	fault func(r *http.Request) (*http.Response, error)
}

// newEnsemble makes peers 1 to n, of which the first voters have a replica, and 1 leads.
func newEnsemble(t *testing.T, voters, n byte) *ensemble {
	t.Helper()
	e := &ensemble{state: newGroup(t), peers: map[cluster.PeerID]*peer{}, proposed: map[string]bool{}}
	for i := byte(1); i <= n; i++ {
		p := &peer{ensemble: e, id: cluster.PeerID{i}}
		config := Config{Self: p.id, Known: e.known, Remote: e.remote}
		config.Leader = func() (cluster.PeerID, bool, bool) { return cluster.PeerID{}, false, false }
		if i <= voters {
			config.Local = Local(func() raft.Group { return p })
			config.Leader = func() (cluster.PeerID, bool, bool) {
				leader := e.leads()
				return leader, leader == p.id, leader != cluster.PeerID{}
			}
		}
		p.restart(config)
		e.peers[p.id] = p
	}
	e.lead(1)
	return e
}

// restart makes the peer's Router anew: it remembers nothing.
func (p *peer) restart(config Config) {
	p.router = NewRouter(config)
	p.client = At(p.router)
	p.handler = Handler(p.router.Here())
}

func (e *ensemble) peer(id byte) *peer { return e.peers[cluster.PeerID{id}] }

func (e *ensemble) lead(id byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leader = cluster.PeerID{id}
}

func (e *ensemble) leads() cluster.PeerID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leader
}

func (e *ensemble) note(command []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.proposed[string(command)] {
		e.repeats++
	}
	e.proposed[string(command)] = true
}

func (e *ensemble) known() []cluster.PeerID {
	var ids []cluster.PeerID
	for id := range e.peers {
		ids = append(ids, id)
	}
	return ids
}

func (e *ensemble) remote(id cluster.PeerID) Seat {
	if p := e.peers[id]; p != nil {
		return Remote(p, "http://"+id.String())
	}
	return nil
}

// asked is how many questions the peers got in all.
func (e *ensemble) asked() int64 {
	var n int64
	for _, p := range e.peers {
		n += p.asked.Load()
	}
	return n
}

// Do implements Doer: it is what another peer asks.
func (p *peer) Do(r *http.Request) (*http.Response, error) {
	p.asked.Add(1)
	if p.fault != nil {
		if response, err := p.fault(r); response != nil || err != nil {
			return response, err
		}
	}
	return p.serve(r), nil
}

func (p *peer) serve(r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	p.handler.ServeHTTP(w, r)
	return w.Result()
}

// hang takes a question and never answers.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

var errCut = errors.New("the connection broke")

// cut breaks the connection before the question is read.
func cut(*http.Request) (*http.Response, error) { return nil, errCut }

// What follows implements raft.Group.

func (p *peer) refuses() error {
	if p.ensemble.leads() != p.id {
		return &raft.NotLeaderError{Group: 1}
	}
	return nil
}

func (p *peer) ID() raft.GroupID { return 1 }

func (p *peer) Propose(ctx context.Context, command []byte) (any, error) {
	if err := p.refuses(); err != nil {
		return nil, err
	}
	p.ensemble.note(command)
	return p.ensemble.state.Propose(ctx, command)
}

func (p *peer) Barrier(ctx context.Context) (uint64, error) {
	if err := p.refuses(); err != nil {
		return 0, err
	}
	return p.ensemble.state.Barrier(ctx)
}

func (p *peer) State() kv.Reader                 { return p.ensemble.state.State() }
func (p *peer) Snapshot() (raft.Snapshot, error) { return p.ensemble.state.Snapshot() }
