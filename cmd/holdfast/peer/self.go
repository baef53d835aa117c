package peer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/membership"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// selfFile is what a peer knows of itself and of the others before it can ask anybody: in DIR, and on each of its
// drives, so that the loss of DIR costs a peer nothing. It holds the peer's private key and is as secret as the
// identity beside it.
const selfFile = "peer"

// self is what a peer is in its cluster. It does not change; a new one takes its place.
type self struct {
	id          cluster.PeerID
	number      uint16
	credentials *trust.Credentials
	trusted     trust.List
	gossip      []membership.Key
	// known is the topology without drives and groups, as it was last seen.
	known topology.Map
}

// alone says that the cluster has no other peer.
func (s *self) alone() bool { return len(s.known.Members()) <= 1 }

// selfRecord is self as JSON. Format 1.
type selfRecord struct {
	Format      int             `json:"format"`
	Cluster     string          `json:"cluster"`
	Peer        string          `json:"peer"`
	Number      uint16          `json:"number"`
	Credentials []byte          `json:"credentials"`
	Trusted     []byte          `json:"trusted"`
	Gossip      [][]byte        `json:"gossip"`
	Epoch       uint64          `json:"epoch"`
	Peers       []topology.Peer `json:"peers"`
	Sum         string          `json:"sha256"` // of the record with an empty sum, in hex
}

func (s *self) encode(id cluster.ClusterID) ([]byte, error) {
	r := selfRecord{
		Format: 1, Cluster: id.String(), Peer: s.id.String(), Number: s.number, Credentials: s.credentials.Marshal(),
		Trusted: s.trusted.Marshal(), Epoch: uint64(s.known.Epoch), Peers: s.known.Peers,
	}
	for _, key := range s.gossip {
		r.Gossip = append(r.Gossip, key[:])
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	r.Sum = hex.EncodeToString(sum[:])
	text, err = json.MarshalIndent(r, "", "  ")
	return append(text, '\n'), err
}

func decodeSelf(text []byte, id cluster.ClusterID) (*self, error) {
	var r selfRecord
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, err
	}
	sum := r.Sum
	r.Sum = ""
	bare, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if want := sha256.Sum256(bare); hex.EncodeToString(want[:]) != sum {
		return nil, errors.New("checksum differs")
	}
	if r.Format != 1 || r.Cluster != id.String() {
		return nil, fmt.Errorf("record of format %d of cluster %s", r.Format, r.Cluster)
	}
	peer, err := cluster.ParseID(r.Peer)
	if err != nil {
		return nil, err
	}
	s := &self{id: cluster.PeerID(peer), number: r.Number, known: topology.Map{Epoch: cluster.Epoch(r.Epoch), Peers: r.Peers}}
	if s.credentials, err = trust.ParseCredentials(r.Credentials); err != nil {
		return nil, err
	}
	if s.trusted, err = trust.ParseList(r.Trusted); err != nil {
		return nil, err
	}
	for _, key := range r.Gossip {
		if len(key) != len(membership.Key{}) {
			return nil, fmt.Errorf("gossip key of %d bytes", len(key))
		}
		s.gossip = append(s.gossip, membership.Key(key))
	}
	return s, s.check(id)
}

// check refuses a record whose parts are not of one peer of this cluster. Whether the certificate has expired is not
// asked: a peer that was off for long is still who it was.
func (s *self) check(id cluster.ClusterID) error {
	switch holder := s.credentials.Identity(); {
	case s.credentials.Cluster() != id || holder.Peer != s.id || !holder.Roles.Any(trust.RolePeer):
		return fmt.Errorf("record of peer %v with the %v of cluster %v", s.id, s.credentials, s.credentials.Cluster())
	case s.number == 0:
		return errors.New("record of a peer without a number")
	case len(s.gossip) == 0 || slices.Contains(s.gossip, membership.Key{}):
		return errors.New("record without a gossip key")
	}
	if _, err := trust.NewStore(trust.Config{Credentials: s.credentials, List: s.trusted}); err != nil {
		return fmt.Errorf("record whose authority did not certify it: %w", err)
	}
	return nil
}

// newer says that a record was written after another one: certificates are renewed and the topology's epoch grows.
func (s *self) newer(than *self) bool {
	if than == nil || s.known.Epoch != than.known.Epoch {
		return than == nil || s.known.Epoch > than.known.Epoch
	}
	return s.credentials.RenewAt().After(than.credentials.RenewAt())
}

// loadSelf reads the newest record of this peer, from DIR or from a drive; nil when there is none. It asks all at once:
// however many devices hang, or have to spin up, it waits for them once.
func (p *Peer) loadSelf() (*self, error) {
	if p.cluster == (cluster.ClusterID{}) {
		return nil, nil
	}
	dirs := append([]string{p.config.Dir}, p.config.Drives...)
	texts, errs := make([][]byte, len(dirs)), make([]error, len(dirs))
	patience := p.lookPatience()
	var reads sync.WaitGroup
	for i, dir := range dirs {
		reads.Go(func() {
			texts[i], errs[i] = inTime(patience, func() ([]byte, error) { return vfs.ReadFile(p.seams.FS, path.Join(dir, selfFile), maxSmall) })
		})
	}
	reads.Wait()
	var newest *self
	p.unusable = nil
	for i, dir := range dirs {
		text, err := texts[i], errs[i]
		if errors.Is(err, errNoAnswer) {
			p.tire()
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var found *self
		if err == nil {
			found, err = decodeSelf(text, p.cluster)
		}
		if err != nil {
			p.log.Warn("a record of this peer cannot be used; others will do", "dir", dir, "err", err)
			p.unusable = append(p.unusable, fmt.Errorf("%s: %w", path.Join(dir, selfFile), err))
			continue
		}
		if newest != nil && newest.id != found.id {
			return nil, fmt.Errorf("%w: %s holds a drive of another peer, %v, and this one is %v", ErrConfig, dir, found.id, newest.id)
		}
		if found.newer(newest) {
			newest = found
		}
	}
	return newest, nil
}

// lookPatience is how long Start waits for drives: in each of its steps for long, until one has not answered. What did not
// answer by then is not waited for again.
func (p *Peer) lookPatience() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mute {
		return lookAgain
	}
	return lookPatience
}

// tire notes that a drive did not answer.
func (p *Peer) tire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = true
}

// inTime runs f, and gives up on a device that does not answer; f then ends when the device does.
func inTime[T any](patience time.Duration, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		value, err := f()
		answers <- answer{value, err}
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-timer.C:
		var none T
		return none, errNoAnswer
	}
}

var errNoAnswer = errors.New("the device does not answer")

// changeSelf changes the record of this peer and keeps it.
func (p *Peer) changeSelf(change func(s *self)) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	own := *p.self.Load()
	change(&own)
	return p.saveSelf(&own)
}

// saveSelf writes the record everywhere where it is missing or older. DIR must take it; a drive that does not is
// written to the next time.
func (p *Peer) saveSelf(s *self) error {
	text, err := s.encode(p.cluster)
	if err != nil {
		return err
	}
	p.self.Store(s)
	if err := p.writeSelf(p.config.Dir, text); err != nil {
		return fmt.Errorf("write the record of this peer: %w", err)
	}
	for _, slot := range p.slots {
		if slot.report().kind != slotUp {
			continue
		}
		if _, err := inTime(lookPatience, func() (struct{}, error) { return struct{}{}, p.writeSelf(slot.path, text) }); err != nil {
			p.log.Warn("the record of this peer was not written to a drive", "path", slot.path, "err", err)
		}
	}
	return nil
}

// removeStraySelf removes a record of this peer from a directory that holds no drive. It was written as the drive went.
func (p *Peer) removeStraySelf(dir string) error {
	name := path.Join(dir, selfFile)
	text, err := vfs.ReadFile(p.seams.FS, name, maxSmall)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if found, err := decodeSelf(text, p.cluster); err != nil || found.id != p.id() {
		return nil // not ours: it is found to be in the way
	}
	return p.seams.FS.Remove(name)
}

func (p *Peer) writeSelf(dir string, text []byte) error {
	name := path.Join(dir, selfFile)
	if have, err := vfs.ReadFile(p.seams.FS, name, maxSmall); err == nil && string(have) == string(text) {
		return nil
	}
	return vfs.WriteFile(p.seams.FS, name, text, 0o600)
}
