package replicas

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// Peers is how a Worker reaches the hosts of other peers. An error leaves open whether it was done, unless it wraps
// raft.ErrReplicaExists or raft.ErrReplicaRemoved. Methods may be called concurrently.
type Peers interface {
	// Create is raft.Host.Create of an empty replica there.
	Create(ctx context.Context, peer cluster.PeerID, group raft.GroupID, replica uint64) error
	// Remove is raft.Host.Remove there.
	Remove(ctx context.Context, peer cluster.PeerID, group raft.GroupID, replica uint64) error
	// List tells what is there, by group. What it returns was so at some moment after the call began.
	List(ctx context.Context, peer cluster.PeerID) ([]Hosted, error)
}

// The calls.
const (
	createPath = "/replicas/1/create"
	removePath = "/replicas/1/remove"
	listPath   = "/replicas/1/list"
)

// Sentinels are the errors that survive the trip between peers.
func Sentinels() transport.Sentinels {
	return transport.Sentinels{"replicas.exists": raft.ErrReplicaExists, "replicas.removed": raft.ErrReplicaRemoved}
}

// Routes are what a peer answers about the replicas on its host.
func Routes(host *raft.Host) []transport.Route {
	change := func(do func(context.Context, raft.GroupID, uint64) error) transport.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) error {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			group, replica, err := decodeRequest(body)
			if err != nil {
				return err
			}
			if err := do(r.Context(), group, replica); err != nil {
				return err
			}
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
	}
	create := func(ctx context.Context, group raft.GroupID, replica uint64) error {
		return host.Create(ctx, group, replica)
	}
	list := func(w http.ResponseWriter, _ *http.Request) error {
		hosted, err := HostedBy(host)
		if err != nil {
			return err
		}
		_, err = w.Write(encodeHosted(hosted))
		return err
	}
	return []transport.Route{
		{Pattern: "POST " + createPath, Roles: trust.RolePeer, MaxBody: requestSize, Handler: change(create)},
		{Pattern: "POST " + removePath, Roles: trust.RolePeer, MaxBody: requestSize, Handler: change(host.Remove)},
		{Pattern: "GET " + listPath, Roles: trust.RolePeer, Handler: transport.HandlerFunc(list)},
	}
}

// HostedBy lists the replicas on a host, by group.
func HostedBy(host *raft.Host) ([]Hosted, error) {
	ids, err := host.Replicas()
	if err != nil {
		return nil, err
	}
	list := make([]Hosted, 0, len(ids))
	for group, replica := range ids {
		g := host.Group(group)
		list = append(list, Hosted{Group: group, Replica: replica, Leads: g != nil && g.Leader().Replica == replica})
	}
	slices.SortFunc(list, func(a, b Hosted) int { return cmp.Compare(a.Group, b.Group) })
	return list, nil
}

// client asks the Routes of other peers.
type client struct {
	peers *transport.Peers
}

// Remote reaches the hosts of other peers through their Routes.
func Remote(peers *transport.Peers) Peers { return client{peers} }

// Create implements Peers.
func (c client) Create(ctx context.Context, peer cluster.PeerID, group raft.GroupID, replica uint64) error {
	if _, err := c.do(ctx, peer, http.MethodPost, createPath, encodeRequest(group, replica)); err != nil {
		return fmt.Errorf("create replica %d of group %d: %w", replica, group, err)
	}
	return nil
}

// Remove implements Peers.
func (c client) Remove(ctx context.Context, peer cluster.PeerID, group raft.GroupID, replica uint64) error {
	if _, err := c.do(ctx, peer, http.MethodPost, removePath, encodeRequest(group, replica)); err != nil {
		return fmt.Errorf("remove replica %d of group %d: %w", replica, group, err)
	}
	return nil
}

// List implements Peers.
func (c client) List(ctx context.Context, peer cluster.PeerID) ([]Hosted, error) {
	body, err := c.do(ctx, peer, http.MethodGet, listPath, nil)
	if err != nil {
		return nil, fmt.Errorf("list replicas: %w", err)
	}
	list, err := decodeHosted(body)
	if err != nil {
		return nil, fmt.Errorf("list replicas of peer %v: %w", peer, err)
	}
	return list, nil
}

func (c client) do(ctx context.Context, id cluster.PeerID, method, path string, body []byte) (answer []byte, err error) {
	peer, err := c.peers.Peer(id)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://peer"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := peer.Do(request)
	if err != nil {
		return nil, err
	}
	answer, err = io.ReadAll(io.LimitReader(response.Body, hostedSize*maxHosted+1))
	return answer, errors.Join(err, response.Body.Close())
}
