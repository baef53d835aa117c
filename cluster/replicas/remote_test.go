package replicas_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// realm is a cluster as far as certificates go.
type realm struct {
	t         *testing.T
	network   *transport.Simulation
	authority *trust.Authority
	list      trust.List
}

func newRealm(t *testing.T) *realm {
	t.Helper()
	authority, err := trust.NewAuthority(cluster.ClusterID{1, 2, 3}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &realm{t: t, network: transport.NewSimulation(1), authority: authority, list: trust.List{}.Trust(authority.Certificate())}
}

func (r *realm) store(identity trust.Identity) *trust.Store {
	r.t.Helper()
	request, err := trust.NewRequest()
	if err != nil {
		r.t.Fatal(err)
	}
	certificate, err := r.authority.Issue(request.Bytes(), identity, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	credentials, err := request.Complete(certificate)
	if err != nil {
		r.t.Fatal(err)
	}
	store, err := trust.NewStore(trust.Config{Credentials: credentials, List: r.list, Protocols: transport.Protocols(), Now: time.Now})
	if err != nil {
		r.t.Fatal(err)
	}
	return store
}

// serve lets a peer answer about the replicas of a host, and returns its address.
func (r *realm) serve(id cluster.PeerID, host *raft.Host) (server *transport.Server) {
	r.t.Helper()
	server, err := transport.Listen(transport.ServerConfig{
		Network: r.network.Host(id.String()), Address: id.String() + ":7000", Trust: r.store(trust.Identity{Peer: id, Roles: trust.RolePeer}),
		Sentinels: replicas.Sentinels(), Log: slog.New(slog.DiscardHandler),
	}, replicas.Routes(host), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return server
}

// peers is how somebody with roles calls.
func (r *realm) peers(id cluster.PeerID, roles trust.Roles) *transport.Peers {
	r.t.Helper()
	peers, err := transport.NewPeers(transport.PeersConfig{
		Network: r.network.Host(id.String()), Trust: r.store(trust.Identity{Peer: id, Roles: roles}), Sentinels: replicas.Sentinels(),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return peers
}

// TestReplicasAreMadeOverTheNetwork calls the routes of a peer as a peer, and as one who is none.
func TestReplicasAreMadeOverTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t, replicas.Settings{})
		target := k.join("b")
		r := newRealm(t)
		server := r.serve(target.id, target.host)
		caller, admin := r.peers(cluster.PeerID{1}, trust.RolePeer), r.peers(cluster.PeerID{9}, trust.RoleAdmin)
		caller.Set(target.id, server.Addr())
		admin.Set(target.id, server.Addr())
		ctx, remote := context.Background(), replicas.Remote(caller)
		list := func(want ...replicas.Hosted) {
			t.Helper()
			if got, err := remote.List(ctx, target.id); err != nil || !slices.Equal(got, want) {
				t.Errorf("list %+v, %v, want %+v", got, err, want)
			}
		}
		list()
		for range 2 {
			if err := remote.Create(ctx, target.id, 7, 0x10002); err != nil {
				t.Fatal(err)
			}
		}
		if err := remote.Create(ctx, target.id, 7, 0x20002); !errors.Is(err, raft.ErrReplicaExists) {
			t.Errorf("create another: %v", err)
		}
		list(replicas.Hosted{Group: 7, Replica: 0x10002})
		for range 2 {
			if err := remote.Remove(ctx, target.id, 7, 0x10002); err != nil {
				t.Fatal(err)
			}
		}
		if err := remote.Create(ctx, target.id, 7, 0x10002); !errors.Is(err, raft.ErrReplicaRemoved) {
			t.Errorf("create it again: %v", err)
		}
		list()
		if err := target.host.Create(ctx, 8, 0x30002, 0x30002); err != nil {
			t.Fatal(err)
		}
		k.eventually("it leads", func() bool { return target.host.Group(8).Leader().Replica == 0x30002 })
		list(replicas.Hosted{Group: 8, Replica: 0x30002, Leads: true})
		stranger := replicas.Remote(admin)
		_, err := stranger.List(ctx, target.id)
		for _, err := range []error{err, stranger.Create(ctx, target.id, 9, 0x40002), stranger.Remove(ctx, target.id, 8, 0x30002)} {
			var reason trust.Reason
			if !errors.As(err, &reason) {
				t.Errorf("a call of an operator: %v", err)
			}
		}
		if err := remote.Create(ctx, cluster.PeerID{77}, 7, 1); !errors.Is(err, transport.ErrUnknownPeer) {
			t.Errorf("a peer that is none: %v", err)
		}
		r.malformed(caller, target.id)
		list(replicas.Hosted{Group: 8, Replica: 0x30002, Leads: true})
		caller.Close()
		admin.Close()
		if err := server.Stop(ctx); err != nil {
			t.Error(err)
		}
		k.close()
	})
}

// malformed sends a request without a body.
func (r *realm) malformed(peers *transport.Peers, to cluster.PeerID) {
	r.t.Helper()
	peer, err := peers.Peer(to)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, path := range []string{"/replicas/1/create", "/replicas/1/remove"} {
		request, err := http.NewRequest(http.MethodPost, "https://peer"+path, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		response, err := peer.Do(request)
		if err == nil {
			r.t.Errorf("%s without a body: %s", path, response.Status)
			_ = response.Body.Close() // nobody reads it
		}
	}
}
