package peer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// A first start writes in this order. What a crash between two steps leaves, the next start finishes:
//
//	1  DIR/forming        the plan: ids of cluster, peer and drives, and the integrity key
//	2  identities         on each drive the one of the plan     a blank drive of the plan gets its own
//	3  the log            on the drives                         made when it is not there
//	4  root rows          cluster, drives, groups, root key     in one command, if the cluster row is not there
//	5  DIR/cluster
//	6  DIR/credentials
//	7  DIR/forming        removed
//
// Nothing is acknowledged to a client before step 7, so a plan that is lost with DIR loses nothing; drives that carry
// identities but no log then refuse to start instead of becoming a second cluster.
const (
	formingFile = "forming"
	clusterFile = "cluster"
	stateDir    = "state"
)

// plan is what a first start will make.
type plan struct {
	Cluster string      `json:"cluster"`
	Peer    string      `json:"peer"`
	Key     []byte      `json:"integrity_key"`
	Created time.Time   `json:"created"`
	Drives  []planDrive `json:"drives"`
}

type planDrive struct {
	Path  string `json:"path"`
	Drive string `json:"drive"`
	Name  string `json:"name"`
}

func newPlan(paths []string, now time.Time) *plan {
	key := make([]byte, 32)
	fill(key)
	p := &plan{Cluster: cluster.NewID().String(), Peer: cluster.NewID().String(), Key: key, Created: now.UTC().Truncate(time.Second)}
	p.Drives = planDrives(paths)
	return p
}

// planDrives gives drives their ids and names.
func planDrives(paths []string) []planDrive {
	var drives []planDrive
	for i, dir := range paths {
		drives = append(drives, planDrive{Path: dir, Drive: cluster.NewID().String(), Name: fmt.Sprintf("d%d", i+1)})
	}
	return drives
}

// identity is the one that a drive of the plan carries.
func (p *plan) identity(d planDrive) (drive.Identity, error) {
	owner, err := cluster.ParseID(p.Cluster)
	if err != nil {
		return drive.Identity{}, err
	}
	id, err := cluster.ParseID(d.Drive)
	if err != nil {
		return drive.Identity{}, err
	}
	if len(p.Key) != 32 {
		return drive.Identity{}, fmt.Errorf("integrity key of %d bytes", len(p.Key))
	}
	return drive.Identity{
		Format: drive.IdentityFormat, Cluster: cluster.ClusterID(owner), Drive: cluster.DriveID(id), Name: d.Name,
		Created: p.Created, IntegrityKey: [32]byte(p.Key),
	}, nil
}

// readJSON reads a file of the data directory; fs.ErrNotExist when it is not there.
func readJSON(fsys vfs.FS, name string, into any) error {
	text, err := vfs.ReadFile(fsys, name, maxSmall)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

func writeJSON(fsys vfs.FS, name string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return vfs.WriteFile(fsys, name, append(text, '\n'), 0o600)
}

// clusterRecord is DIR/cluster. The checksum keeps a flipped bit from naming a cluster that no drive belongs to.
type clusterRecord struct {
	Cluster string `json:"cluster"`
	Sum     string `json:"sha256"` // of Cluster, in hex
}

func newClusterRecord(id cluster.ClusterID) clusterRecord {
	sum := sha256.Sum256([]byte(id.String()))
	return clusterRecord{Cluster: id.String(), Sum: hex.EncodeToString(sum[:])}
}

// readClusterRecord reads DIR/cluster. The id is zero when the file is not there or damaged; there tells which.
func (p *Peer) readClusterRecord() (id cluster.ClusterID, there bool, err error) {
	name := path.Join(p.config.Dir, clusterFile)
	text, err := vfs.ReadFile(p.seams.FS, name, maxSmall)
	if errors.Is(err, fs.ErrNotExist) {
		return id, false, nil
	}
	if err != nil {
		return id, false, err
	}
	var record clusterRecord
	err = json.Unmarshal(text, &record)
	var parsed cluster.ID
	if err == nil {
		parsed, err = cluster.ParseID(record.Cluster)
	}
	if err == nil && record != newClusterRecord(cluster.ClusterID(parsed)) {
		err = errors.New("checksum differs")
	}
	if err != nil {
		p.log.Warn("the cluster's id is damaged; the drives tell it", "path", name, "err", err)
		return id, true, nil
	}
	return cluster.ClusterID(parsed), true, nil
}

// Known tells whether the data directory is that of a peer which is in a cluster.
func Known(dir string) bool {
	_, err := os.Stat(path.Join(dir, clusterFile))
	return err == nil
}

// findCluster learns which cluster this is, from DIR or from the drives, makes a new one when both are blank, and
// makes a slot for each drive directory.
func (p *Peer) findCluster(ctx context.Context) error {
	id, there, err := p.readClusterRecord()
	if err != nil {
		return err
	}
	p.cluster = id
	joined, err := p.joinFirst(ctx)
	if err != nil {
		return err
	}
	var forming *plan
	if joined {
		if p.config.Join != "" && there {
			p.log.Info("this peer is in the cluster already; the token was not used")
		}
	} else if !there || id != (cluster.ClusterID{}) { // a damaged record proves that a first start was finished
		if forming, err = p.form(); err != nil {
			return err
		}
	}
	if forming == nil && p.cluster == (cluster.ClusterID{}) {
		if p.cluster, err = clusterOf(p.examineAll()); err != nil {
			return err
		}
	}
	own, err := p.loadSelf()
	if err != nil {
		return err
	}
	if forming == nil {
		if own, err = p.rejoin(ctx, own); err != nil {
			return err
		}
	}
	p.self.Store(own)
	if id == (cluster.ClusterID{}) && own != nil {
		// The data directory was lost. Without this record blank mount points would look like a first start.
		if err := p.keepCluster(); err != nil {
			p.log.Warn("the data directory does not know its cluster; it is told again", "err", err)
		}
	}
	for _, dir := range p.config.Drives {
		p.slots = append(p.slots, &slot{
			fs: p.seams.FS, path: dir, cluster: p.cluster, drives: p.drives, wrap: p.seams.Drive, log: p.log,
			looked: make(chan struct{}),
		})
	}
	return nil
}

// examineAll looks at every configured directory at once. One that does not answer in time counts as hanging; the
// goroutine that asks it ends when the device does answer.
func (p *Peer) examineAll() map[string]slotState {
	type answer struct {
		dir   string
		state slotState
	}
	answers := make(chan answer, len(p.config.Drives))
	all := make(map[string]slotState, len(p.config.Drives))
	for _, dir := range p.config.Drives {
		all[dir] = slotState{kind: slotHanging, reason: "it does not answer"}
		go func() { answers <- answer{dir, examine(p.seams.FS, dir, cluster.ClusterID{})} }()
	}
	patience := time.NewTimer(p.lookPatience())
	defer patience.Stop()
	for range p.config.Drives {
		select {
		case a := <-answers:
			all[a.dir] = a.state
		case <-patience.C:
			p.tire()
			return all
		}
	}
	return all
}

// clusterOf names the one cluster that the drives belong to. Without DIR nothing else tells, so drives of two clusters
// are refused unless more than two thirds agree: then the others are foreign.
func clusterOf(states map[string]slotState) (cluster.ClusterID, error) {
	counts := make(map[cluster.ClusterID]int)
	total := 0
	for _, s := range states {
		if s.kind == slotUp {
			counts[s.identity.Cluster]++
			total++
		}
	}
	var most cluster.ClusterID
	for id, n := range counts {
		if n > counts[most] {
			most = id
		}
	}
	if total > 0 && 3*counts[most] > 2*total {
		return most, nil
	}
	if total == 0 {
		return cluster.ClusterID{}, fmt.Errorf("no drive can be read, and the data directory names no cluster: %w", ErrClusters)
	}
	return cluster.ClusterID{}, fmt.Errorf("%w: %d drives carry %d different identities of a cluster; name the drives of one",
		ErrClusters, total, len(counts))
}

// foreign says that every drive is of another cluster than the data directory, so that waiting would not help.
func (p *Peer) foreign() error {
	for _, s := range p.slots {
		if s.look().kind != slotForeign {
			return nil
		}
	}
	return fmt.Errorf("%w: data directory %s is of cluster %v, and all of the drives are of others", ErrClusters, p.config.Dir, p.cluster)
}

// form begins a first start, or takes up one that was cut off. It returns nil when neither is the case.
func (p *Peer) form() (*plan, error) {
	fsys := p.seams.FS
	name := path.Join(p.config.Dir, formingFile)
	var forming plan
	switch err := readJSON(fsys, name, &forming); {
	case err == nil:
		p.log.Info("a first start was cut off; finishing it", "cluster", forming.Cluster)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	default:
		first, err := p.isFirstStart()
		if err != nil || !first {
			return nil, err
		}
		forming = *newPlan(p.config.Drives, p.seams.Now())
		if err := writeJSON(fsys, name, &forming); err != nil {
			return nil, fmt.Errorf("first start: %w", err)
		}
		p.log.Info("first start: making a new cluster", "cluster", forming.Cluster, "drives", len(forming.Drives))
	}
	id, err := cluster.ParseID(forming.Cluster)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	p.cluster = cluster.ClusterID(id)
	for _, d := range forming.Drives {
		if err := writeIdentity(fsys, &forming, d); err != nil {
			return nil, fmt.Errorf("first start: %w", err)
		}
	}
	return &forming, nil
}

// writeIdentity gives a drive of the plan its identity, unless it has it.
func writeIdentity(fsys vfs.FS, forming *plan, d planDrive) error {
	want, err := forming.identity(d)
	if err != nil {
		return err
	}
	have, err := drive.ReadIdentity(fsys, d.Path)
	switch {
	case err == nil && have.Drive == want.Drive && have.Cluster == want.Cluster:
		return nil
	case err == nil:
		return fmt.Errorf("drive %s belongs to cluster %v: %w", d.Path, have.Cluster, drive.ErrForeign)
	case errors.Is(err, drive.ErrBadIdentity), errors.Is(err, drive.ErrNoIdentity):
		// Init refuses a directory that holds anything but what an Init that was cut off left.
		return drive.Init(fsys, d.Path, want)
	}
	return err
}

// isFirstStart tells whether nothing at all is here: no cluster in DIR, no identity on any drive. A drive that cannot
// be read might carry one, so it is an error. So is a data directory that a peer left: it was in a cluster, and its
// drives may only not be mounted.
func (p *Peer) isFirstStart() (bool, error) {
	if p.cluster != (cluster.ClusterID{}) {
		return false, nil
	}
	states := p.examineAll()
	for _, dir := range p.config.Drives {
		switch s := states[dir]; s.kind {
		case slotMissing, slotBlank:
		case slotUp, slotForeign, slotTwice:
			return false, nil
		default:
			return false, fmt.Errorf("first start: drive %s: %s", dir, s.reason)
		}
	}
	for _, dir := range p.config.Drives {
		if states[dir].kind != slotBlank {
			continue
		}
		entries, err := p.seams.FS.ReadDir(dir)
		if err != nil {
			return false, fmt.Errorf("first start: drive %s: %w", dir, err)
		}
		for _, entry := range entries {
			if entry.Name() != "lost+found" {
				return false, fmt.Errorf("%w: drive %s is not empty and holds no drive: it would not be touched; empty it or name another",
					ErrConfig, dir)
			}
		}
	}
	for _, left := range []string{selfFile, stateDir} {
		switch _, err := p.seams.FS.Stat(path.Join(p.config.Dir, left)); {
		case err == nil:
			return false, fmt.Errorf("%w: data directory %s is of a peer that was in a cluster (it holds %q), and its drives are blank: "+
				"are they mounted? To make a new cluster, or to join as a new peer, name an empty one", ErrConfig, p.config.Dir, left)
		case !errors.Is(err, fs.ErrNotExist):
			return false, fmt.Errorf("first start: %w", err)
		}
	}
	return true, nil
}

// readPlan reads the plan of an unfinished first start, nil when there is none.
func (p *Peer) readPlan() (*plan, error) {
	var forming plan
	err := readJSON(p.seams.FS, path.Join(p.config.Dir, formingFile), &forming)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &forming, nil
}

// keepCluster writes DIR/cluster where it is missing or damaged.
func (p *Peer) keepCluster() error {
	p.changing.Lock() // a first start and a follower of the topology may both find it missing
	defer p.changing.Unlock()
	name := path.Join(p.config.Dir, clusterFile)
	want := newClusterRecord(p.cluster)
	var have clusterRecord
	if err := readJSON(p.seams.FS, name, &have); err == nil && have == want {
		return nil
	}
	if err := writeJSON(p.seams.FS, name, want); err != nil {
		return fmt.Errorf("write the cluster's id: %w", err)
	}
	return nil
}

// finishForming does the steps after the root rows: what DIR remembers of the cluster. It also makes again what was
// lost with DIR.
func (p *Peer) finishForming(key Credentials) error {
	fsys, dir := p.seams.FS, p.config.Dir
	if err := p.keepCluster(); err != nil {
		return err
	}
	if err := p.keepKey(key); err != nil {
		return err
	}
	err := fsys.Remove(path.Join(dir, formingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	return fsys.SyncDir(dir)
}
