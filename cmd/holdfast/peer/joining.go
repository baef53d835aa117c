package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/join"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// A join writes in this order. What a crash between two steps leaves, the next start finishes:
//
//	1  DIR/joining        the plan: the peer's new key, and the ids of its drives
//	2  the cluster        admits the peer                       asked again with the same key it gives the same answer
//	3  identities         on each drive the one of the plan     a blank drive of the plan gets its own
//	4  DIR/peer           who the peer is
//	5  DIR/cluster
//	6  the log            on the drives, without replicas       made when it is not there
//	7  DIR/joining        removed
//
// From step 2 on the cluster knows the peer; from step 6 on it stores something.
const joiningFile = "joining"

// joinPlan is what a join will make.
type joinPlan struct {
	// Key is the private key that the cluster will certify, Token what it is asked with.
	Key    []byte      `json:"key"`
	Token  string      `json:"token"`
	Drives []planDrive `json:"drives"`
	// Again says that it is the return of a peer (rejoining.go), whose drives have their identities.
	Again bool `json:"again,omitempty"`
}

// joinFirst joins a cluster when this is a first start with a token, or goes on with a join that was cut off. It tells
// whether the peer is in a cluster by it.
func (p *Peer) joinFirst(ctx context.Context) (bool, error) {
	var planned joinPlan
	name := path.Join(p.config.Dir, joiningFile)
	switch err := readJSON(p.seams.FS, name, &planned); {
	case err == nil && planned.Again:
		return false, nil
	case err == nil:
		if p.config.Join != "" {
			planned.Token = p.config.Join // the one of the plan may have expired
		}
		p.log.Info("a join was cut off; finishing it")
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	case p.config.Join == "" || p.cluster != (cluster.ClusterID{}):
		return false, nil
	default:
		first, err := p.isFirstStart()
		if err != nil || !first {
			return false, err
		}
		request, err := trust.NewRequest()
		if err != nil {
			return false, err
		}
		planned = joinPlan{Key: request.Marshal(), Token: p.config.Join, Drives: planDrives(p.config.Drives)}
		if err := writeJSON(p.seams.FS, name, planned); err != nil {
			return false, fmt.Errorf("join: %w", err)
		}
	}
	if p.cluster != (cluster.ClusterID{}) {
		return true, nil // step 5 was done
	}
	answer, err := p.ask(ctx, &planned, nil)
	if err != nil {
		return false, err
	}
	return true, p.joined(answer, &planned)
}

// ask is step 2. old are the credentials of a peer that comes back, nil when they are lost or it is new.
func (p *Peer) ask(ctx context.Context, planned *joinPlan, old *trust.Credentials) (*join.Answer, error) {
	token, err := trust.ParseToken(planned.Token)
	if err != nil {
		return nil, fmt.Errorf("%w: --join: %w", ErrConfig, err)
	}
	request, err := trust.ParseRequest(planned.Key)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", joiningFile, err)
	}
	address, err := p.freePeerAddress()
	if err != nil {
		return nil, err
	}
	ask := join.Ask{
		Again: planned.Again, Name: p.config.Name, Zone: p.config.Zone, Rack: p.config.Rack,
		PeerAddress: address, Gossip: gossipBeside(address), S3: p.s3Address(),
		TLS: p.scheme == "https", Command: commandFormat, Request: request, Old: old, Now: p.seams.Now,
	}
	for _, d := range planned.Drives {
		if err := vfs.MkdirAll(p.seams.FS, d.Path, 0o700); err != nil {
			return nil, fmt.Errorf("join: drive %s: %w", d.Path, err)
		}
	}
	if ask.Drives, err = p.plannedDrives(planned.Drives); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	p.log.Info("asking to join", "peers", token.Addresses, "as", p.config.Name, "at", address)
	p.warnOfAddress(address, token.Addresses)
	answer, err := join.Join(ctx, p.seams.Network, token, ask)
	switch {
	case errors.Is(err, topology.ErrNameTaken):
		return nil, fmt.Errorf("join the cluster: %w; choose another with --name", err)
	case errors.Is(err, join.ErrUnreachable):
		return nil, fmt.Errorf("join the cluster: %w; the token names %s: are they up, and is the way there open (TCP)?", err, strings.Join(token.Addresses, " "))
	case err != nil:
		return nil, fmt.Errorf("join the cluster: %w", err)
	}
	return answer, nil
}

// joined does the steps from 3 to 5.
func (p *Peer) joined(answer *join.Answer, planned *joinPlan) error {
	p.cluster = answer.Credentials.Cluster()
	forming := plan{Cluster: p.cluster.String(), Key: answer.IntegrityKey[:], Created: p.seams.Now().UTC(), Drives: planned.Drives}
	for _, d := range planned.Drives {
		if err := writeIdentity(p.seams.FS, &forming, d); err != nil {
			return fmt.Errorf("join: %w", err)
		}
	}
	if err := p.saveSelf(&self{
		id: answer.Peer, number: answer.Number, credentials: answer.Credentials, trusted: answer.List, gossip: answer.Gossip,
		known: topology.Map{Epoch: answer.Epoch, Peers: answer.Peers},
	}); err != nil {
		return err
	}
	if err := p.keepCluster(); err != nil {
		return err
	}
	p.log.Info("joined the cluster", "cluster", p.cluster.String(), "peer", answer.Peer.String(), "number", answer.Number)
	return nil
}

// isJoining says that a join is not finished.
func (p *Peer) isJoining() (bool, error) {
	_, err := p.seams.FS.Stat(path.Join(p.config.Dir, joiningFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// finishJoining is step 7.
func (p *Peer) finishJoining() error {
	err := p.seams.FS.Remove(path.Join(p.config.Dir, joiningFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	return p.seams.FS.SyncDir(p.config.Dir)
}

// freePeerAddress is where this peer will listen for others: it is told before it does. Another process may take the
// port until then; the row is corrected when this one listens.
func (p *Peer) freePeerAddress() (string, error) {
	l := links{peer: p}
	var last error
	for _, address := range l.addresses() {
		listener, err := p.seams.Network.Listen(address)
		if err != nil {
			last = err
			continue
		}
		at := listener.Addr().String()
		if err := listener.Close(); err != nil {
			return "", err
		}
		return advertised(at)
	}
	return "", fmt.Errorf("listen for other peers: %w", last)
}

// gossipBeside is the address one port above.
func gossipBeside(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	number, err := strconv.Atoi(port)
	if err != nil || number >= 1<<16-1 {
		return address
	}
	return net.JoinHostPort(host, strconv.Itoa(number+1))
}
