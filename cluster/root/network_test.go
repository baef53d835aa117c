package root

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// connect puts the peers of an ensemble on a network, each on a host of its own.
func (e *ensemble) connect(t *testing.T, net *transport.Simulation) {
	t.Helper()
	authority, err := trust.NewAuthority(cluster.ClusterID(cluster.NewID()), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sites := map[cluster.PeerID]*transport.Peers{}
	for id, p := range e.peers {
		store := storeOf(t, authority, id)
		host := fmt.Sprint("h", id[0])
		routes := []transport.Route{{Pattern: PathPrefix, Roles: trust.RolePeer, MaxBody: MaxBody, Handler: forgetful(p.handler)}}
		server, err := transport.Listen(transport.ServerConfig{
			Network: net.Host(host), Address: host + ":1", Trust: store, Log: slog.New(slog.DiscardHandler),
		}, routes, nil)
		if err != nil {
			t.Fatal(err)
		}
		peers, err := transport.NewPeers(transport.PeersConfig{Network: net.Host(host), Trust: store})
		if err != nil {
			t.Fatal(err)
		}
		sites[id] = peers
		t.Cleanup(func() {
			peers.Close()
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if err := server.Stop(ctx); err != nil {
				t.Logf("stop: %v", err)
			}
		})
		config := p.router.config
		config.Remote = func(id cluster.PeerID) Seat {
			peer, err := peers.Peer(id)
			if err != nil {
				return nil
			}
			return Remote(peer, "https://peer")
		}
		p.router = NewRouter(config)
		p.client = At(p.router)
	}
	for id, peers := range sites {
		for other := range sites {
			if other != id {
				peers.Set(other, fmt.Sprintf("h%d:1", other[0]))
			}
		}
	}
}

// forgetful breaks the call instead of the answer to every twentieth question.
func forgetful(h http.Handler) http.Handler {
	var asked atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1)%20 != 0 {
			h.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
}

// storeOf is the certificates of a peer.
func storeOf(t *testing.T, authority *trust.Authority, id cluster.PeerID) *trust.Store {
	t.Helper()
	request, err := trust.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.Issue(request.Bytes(), trust.Identity{Peer: id, Roles: trust.RolePeer}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := request.Complete(certificate)
	if err != nil {
		t.Fatal(err)
	}
	store, err := trust.NewStore(trust.Config{
		Credentials: credentials, List: trust.List{}.Trust(authority.Certificate()), Protocols: transport.Protocols(), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// TestChangesAreMadeOnceWhateverTheNetworkDoes has every peer count in one row, by reading and changing it, while the
// network fails in all ways it knows, answers are lost and the leader moves. What was acknowledged is counted once, and what is of unknown
// outcome at most once; numbers that are given out differ.
func TestChangesAreMadeOnceWhateverTheNetworkDoes(t *testing.T) {
	for _, seed := range []uint64{1, 2} {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				t.Cleanup(func() { time.Sleep(2 * time.Second) }) // for goleveldb, as in inBubble
				net := transport.NewSimulation(seed)
				net.Shape("", "", transport.Shape{Latency: time.Millisecond, Jitter: 5 * time.Millisecond})
				e := newEnsemble(t, 3, 5)
				e.connect(t, net)
				count(t, e, net)
			})
		})
	}
}

func count(t *testing.T, e *ensemble, net *transport.Simulation) {
	var acknowledged, unknown, refused atomic.Int64
	var mu sync.Mutex
	numbers := map[uint64]bool{}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var work sync.WaitGroup
	for _, p := range e.peers {
		work.Go(func() {
			for ctx.Err() == nil {
				row, err := p.client.Row(ctx, Users, "count")
				if err == nil || errors.Is(err, ErrNotFound) {
					row.Kind, row.Name = Users, "count"
					_, err = p.client.PutRow(ctx, row)
				}
				switch {
				case err == nil:
					acknowledged.Add(1)
				case errors.Is(err, raft.ErrUnknownOutcome):
					unknown.Add(1)
				case errors.Is(err, ErrConflict), errors.Is(err, context.Canceled):
				case errors.Is(err, ErrUnavailable):
					refused.Add(1)
				default:
					t.Errorf("count at %v: %v", p.id, err)
				}
				n, err := p.client.Allocate(ctx, Any)
				if err == nil {
					mu.Lock()
					if numbers[n] {
						t.Errorf("number %d was given out twice", n)
					}
					numbers[n] = true
					mu.Unlock()
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	for i := range 60 {
		time.Sleep(500 * time.Millisecond)
		net.Shake()
		e.lead(byte(i % 4)) // 0: nobody
	}
	net.Heal()
	e.lead(2)
	before := acknowledged.Load()
	time.Sleep(20 * time.Second)
	if acknowledged.Load() == before {
		t.Error("nothing was counted on the whole network")
	}
	stop()
	work.Wait()
	row, err := e.peer(5).client.Row(t.Context(), Users, "count")
	if err != nil {
		t.Fatal(err)
	}
	low, high := acknowledged.Load(), acknowledged.Load()+unknown.Load()
	if got := int64(row.Revision); got < low || got > high {
		t.Errorf("counted to %d, want %d to %d", got, low, high)
	}
	if low < 100 || e.repeats < 20 {
		t.Errorf("only %d were acknowledged, and %d commands came again", low, e.repeats)
	}
	t.Logf("%d acknowledged, %d of unknown outcome, %d refused, %d numbers, %d repeats",
		low, unknown.Load(), refused.Load(), len(numbers), e.repeats)
}
