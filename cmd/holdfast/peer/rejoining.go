package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
)

// A peer whose certificate has expired, or whose record is gone from everywhere, is let in again by a token. It stays who
// it was: its id, its number, its drives and its log. It writes in this order, and the next start goes on with what a
// crash leaves:
//
//	1  DIR/joining    the plan: the new key, the drives as they are
//	2  the cluster    puts the key into the peer's row           asked again with the same key it gives the same answer
//	3  DIR/peer       the new record; the drives get it when the peer serves
//	4  DIR/joining    removed when the log is open
//
// A plan is worth no more than its reason: when the clock that made the certificate look expired was put right, or the
// others are gone, the peer goes on with the record that it has. Its row may have the key of the plan by then; the Renewer
// puts the one in use there.

// needsLetIn says that a peer gets nowhere without the others. One that is alone signs for itself.
func (p *Peer) needsLetIn(own *self) bool {
	return own == nil || p.expired(own) && !own.alone()
}

// expired says that nobody lets a peer with this record in any more.
func (p *Peer) expired(s *self) bool {
	return p.seams.Now().After(s.credentials.Certificate().NotAfter)
}

// rejoin gets the peer of a record back into its cluster when it needs to and has a token. own is nil when there is no
// record. It returns the record that holds then.
func (p *Peer) rejoin(ctx context.Context, own *self) (*self, error) {
	planned, err := p.rejoinPlan(own)
	if err != nil || planned == nil {
		return own, err
	}
	request, err := trust.ParseRequest(planned.Key)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", joiningFile, err)
	}
	if own != nil && own.credentials.PublicKey().Equal(request.PublicKey()) {
		return own, nil // step 3 was done
	}
	if !p.needsLetIn(own) {
		p.log.Info("this peer need not be let in again; it goes on with the certificate that it has")
		return own, p.finishJoining()
	}
	var old *trust.Credentials
	if own != nil {
		old = own.credentials
	}
	answer, err := p.ask(ctx, planned, old)
	if err != nil {
		return nil, err
	}
	if answer.Credentials.Cluster() != p.cluster || own != nil && (answer.Peer != own.id || answer.Number != own.number) {
		return nil, fmt.Errorf("%w: --join: the token is of cluster %v and makes this machine peer %v; it is a peer of cluster %v",
			ErrConfig, answer.Credentials.Cluster(), answer.Peer, p.cluster)
	}
	next := &self{
		id: answer.Peer, number: answer.Number, credentials: answer.Credentials, trusted: answer.List, gossip: answer.Gossip,
		known: topology.Map{Epoch: answer.Epoch, Peers: answer.Peers},
	}
	if err := p.saveSelf(next); err != nil {
		return nil, err
	}
	p.log.Info("this peer was let into its cluster again", "cluster", p.cluster.String(), "peer", next.id.String(), "number", next.number)
	return next, nil
}

// rejoinPlan is step 1: the plan of a return that was cut off, or a new one when there are need and token; else nil.
func (p *Peer) rejoinPlan(own *self) (*joinPlan, error) {
	name := path.Join(p.config.Dir, joiningFile)
	var planned joinPlan
	switch err := readJSON(p.seams.FS, name, &planned); {
	case err == nil && !planned.Again:
		return nil, nil // a join, which is done but for its log
	case err == nil:
		if p.config.Join != "" {
			planned.Token = p.config.Join // the one of the plan may have expired
		}
		return &planned, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	switch needs := p.needsLetIn(own); {
	case needs && own != nil && p.config.Join == "":
		p.log.Error("the certificate of this peer has expired, and the others refuse it: ask one of them for a token (holdfast cluster token) and start this peer with --join",
			"expired", own.credentials.Certificate().NotAfter)
		return nil, nil
	case p.config.Join == "":
		return nil, nil
	case !needs:
		p.log.Info("this peer is in the cluster already; the token was not used")
		return nil, nil
	}
	drives, whole := p.drivesHere()
	if own == nil && !whole {
		return nil, nil // a drive that is not here may tell who this peer is
	}
	request, err := trust.NewRequest()
	if err != nil {
		return nil, err
	}
	planned = joinPlan{Key: request.Marshal(), Token: p.config.Join, Drives: drives, Again: true}
	if err := writeJSON(p.seams.FS, name, planned); err != nil {
		return nil, fmt.Errorf("join again: %w", err)
	}
	return &planned, nil
}

// drivesHere are this cluster's drives in the configured directories. whole says that each of them has one.
func (p *Peer) drivesHere() (drives []planDrive, whole bool) {
	states := p.examineAll()
	for _, dir := range p.config.Drives {
		if s := states[dir]; s.kind == slotUp && s.identity.Cluster == p.cluster {
			drives = append(drives, planDrive{Path: dir, Drive: s.identity.Drive.String(), Name: s.identity.Name})
		}
	}
	return drives, len(drives) == len(p.config.Drives)
}
