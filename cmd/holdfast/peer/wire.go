package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	chunkremote "github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// What peers say to each other beside drives, names and rows.
const (
	raftStream  = "raft"
	installPath = "/raft/1/install"
	// base is where calls to another peer begin. The connection says which peer it is, the host nothing.
	base = "https://peer"
)

// peerOf tells on which peer a replica is: its id says so.
func (p *Peer) peerOf(_ raft.GroupID, replica uint64) (cluster.PeerID, bool) {
	known := p.topology()
	other, ok := known.ByNumber(replicas.PeerNumber(replica))
	return other.ID, ok
}

// raftWire is raft.Transport over the connections between peers. Before there are any,
// batches are dropped, as they are when a peer is unreachable.
type raftWire struct {
	peers atomic.Pointer[transport.Peers]
}

var _ raft.Transport = (*raftWire)(nil)

var errNoConnections = errors.New("no connections to other peers yet")

func (w *raftWire) peer(id cluster.PeerID) (*transport.Peer, error) {
	peers := w.peers.Load()
	if peers == nil {
		return nil, errNoConnections
	}
	return peers.Peer(id)
}

// Send implements raft.Transport.
func (w *raftWire) Send(to cluster.PeerID, batch []byte) {
	if other, err := w.peer(to); err == nil {
		other.Stream(raftStream).Send(batch) // dropped when the queue is full: Raft repeats what matters
	}
}

// The answer to a snapshot is a line: installed, or why not. Before it come spaces, one every installSign, while the
// state is being taken in.
const (
	installed   = "installed\n"
	installSign = 2 * time.Second
	// maxInstallAnswer bounds the answer: an hour of signs and a text.
	maxInstallAnswer = 16 << 10
)

// snapshotWire is raft.SnapshotTransport over the same connections.
type snapshotWire struct{ *raftWire }

// Send implements raft.SnapshotTransport.
func (w snapshotWire) Send(ctx context.Context, to raft.PeerReplica, stream io.Reader) error {
	other, err := w.peer(to.Peer)
	if err != nil {
		return err
	}
	url := fmt.Sprintf("%s%s?group=%d", base, installPath, to.Group)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, stream)
	if err != nil {
		return err
	}
	response, err := other.Transfer(request)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxInstallAnswer))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	if said := strings.TrimLeft(string(text), " "); said != installed {
		return fmt.Errorf("snapshot of group %d for peer %v: %s", to.Group, to.Peer, strings.TrimSpace(said))
	}
	return nil
}

// installHandler takes snapshots for the host.
func installHandler(host *raft.Host) http.Handler {
	return transport.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		group, err := strconv.ParseUint(r.URL.Query().Get("group"), 10, 64)
		if err != nil {
			return fmt.Errorf("group of a snapshot: %w", err)
		}
		body := &endingReader{r: r.Body, ended: make(chan struct{})}
		done := make(chan error, 1)
		go func() { done <- host.Install(r.Context(), raft.GroupID(group), body) }()
		select {
		case err = <-done:
		case <-body.ended:
			err = signWhile(w, done)
		}
		if err != nil {
			answer(w, oneLine(err)+"\n")
			return nil
		}
		answer(w, installed)
		return nil
	})
}

// signWhile shows the sender that its snapshot is being taken in, until that has ended.
func signWhile(w http.ResponseWriter, done <-chan error) error {
	ticker := time.NewTicker(installSign)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ticker.C:
			answer(w, " ")
			if err := http.NewResponseController(w).Flush(); err != nil {
				return errors.Join(err, <-done)
			}
		}
	}
}

// endingReader tells when all was read.
type endingReader struct {
	r     io.Reader
	ended chan struct{}
	told  bool
}

func (e *endingReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !e.told {
		e.told = true
		close(e.ended)
	}
	return n, err
}

// callsTo makes an http.Client whose calls go to one peer: shards on connections of their own, everything else on the
// shared one.
func callsTo(peers *transport.Peers, id cluster.PeerID) *http.Client {
	return &http.Client{Transport: trip{peers, id}}
}

type trip struct {
	peers *transport.Peers
	id    cluster.PeerID
}

// RoundTrip implements http.RoundTripper.
func (t trip) RoundTrip(request *http.Request) (*http.Response, error) {
	other, err := t.peers.Peer(t.id)
	if err != nil {
		if request.Body != nil {
			err = errors.Join(err, request.Body.Close())
		}
		return nil, err
	}
	if bulk(request.URL.Path) {
		return other.Transfer(request)
	}
	return other.Do(request)
}

// bulk says that a call moves a shard.
func bulk(path string) bool {
	call, ok := strings.CutPrefix(path, chunkremote.Prefix)
	return ok && (call == "put" || call == "read")
}

// onlyPeers is who may call: other peers.
const onlyPeers = trust.RolePeer
