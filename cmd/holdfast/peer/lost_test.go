package peer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/join"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// hurt is what becomes of the record of a peer, and what the peer says of it.
type hurt struct {
	name string
	// record changes the record, which gets a good checksum then; text changes the file. Both nil removes it.
	record func(r *selfRecord)
	text   func(text []byte) []byte
	says   string
}

// recordsOf are the places of a record.
func recordsOf(c Config) []string {
	var names []string
	for _, dir := range append([]string{c.Dir}, c.Drives...) {
		names = append(names, path.Join(dir, selfFile))
	}
	return names
}

func (h hurt) apply(t *testing.T, m *vfs.Memory, names []string) {
	t.Helper()
	for _, name := range names {
		text, err := vfs.ReadFile(m, name, maxSmall)
		if err != nil {
			t.Fatal(err)
		}
		if h.record != nil {
			text = reseal(t, text, h.record)
		} else if h.text != nil {
			text = h.text(text)
		} else {
			if err := m.Remove(name); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := vfs.WriteFile(m, name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// reseal changes a record as somebody does who knows the form of it.
func reseal(t *testing.T, text []byte, change func(r *selfRecord)) []byte {
	t.Helper()
	var r selfRecord
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	change(&r)
	r.Sum = ""
	bare, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(bare)
	r.Sum = hex.EncodeToString(sum[:])
	if text, err = json.Marshal(r); err != nil {
		t.Fatal(err)
	}
	return text
}

// ends starts a peer that must not serve, and returns what it says.
func ends(t *testing.T, config Config, fsys vfs.FS) error {
	t.Helper()
	p, err := Start(t.Context(), config, testSeams(fsys))
	if err != nil {
		return err
	}
	defer stop(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := p.WaitReady(ctx); err == nil || ctx.Err() != nil {
		t.Fatalf("the peer serves, or waits, as %v: %v; %v", p.id(), err, p.whyNot())
	}
	if p.core.Load() != nil || p.self.Load() != nil {
		t.Errorf("it became peer %v", p.id())
	}
	return p.Err()
}

// TestAMemberThatLostItselfEnds takes from a peer what it needs to be one, or gives it another's: it says why and ends,
// makes no cluster, joins none, and is no new peer of its own.
func TestAMemberThatLostItselfEnds(t *testing.T) {
	t.Parallel()
	p1 := start(t, vfs.NewMemory(1))
	defer stop(t, p1)
	disk := vfs.NewMemory(2)
	p2 := joinTo(t, p1, 2, disk)
	stop(t, p2)
	other, err := join.Found(p1.cluster, p2.id(), time.Now()) // another authority that calls itself this cluster's
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := join.Found(cluster.ClusterID(cluster.NewID()), p2.id(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	first := p1.self.Load()
	for _, h := range []hurt{
		{name: "no record", says: "no record of this peer can be used"},
		{name: "a flipped bit", text: func(text []byte) []byte { text[len(text)/2] ^= 1; return text }, says: selfFile},
		{name: "an empty record", text: func([]byte) []byte { return nil }, says: selfFile},
		{name: "half a record", text: func(text []byte) []byte { return text[:len(text)/2] }, says: selfFile},
		{name: "no certificate", record: func(r *selfRecord) { r.Credentials = nil }, says: "read credentials"},
		{name: "the certificate of another peer", record: func(r *selfRecord) { r.Credentials = first.credentials.Marshal() }, says: "record of peer"},
		{name: "a certificate of another authority", record: func(r *selfRecord) { r.Credentials = other.Credentials.Marshal() }, says: "did not certify"},
		{name: "a certificate of another cluster", record: func(r *selfRecord) { r.Credentials = foreign.Credentials.Marshal() }, says: "of cluster"},
		{name: "no authority", record: func(r *selfRecord) { r.Trusted = nil }, says: "whom the cluster trusts"},
		{name: "another authority", record: func(r *selfRecord) { r.Trusted = other.List.Marshal() }, says: "did not certify"},
		{name: "an authority of another cluster", record: func(r *selfRecord) { r.Trusted = foreign.List.Marshal() }, says: "did not certify"},
		{name: "no gossip key", record: func(r *selfRecord) { r.Gossip = nil }, says: "without a gossip key"},
		{name: "half a gossip key", record: func(r *selfRecord) { r.Gossip[0] = r.Gossip[0][:16] }, says: "gossip key of 16 bytes"},
		{name: "a gossip key of zeros", record: func(r *selfRecord) { clear(r.Gossip[0]) }, says: "without a gossip key"},
		{name: "a record of another cluster", record: func(r *selfRecord) { r.Cluster = cluster.NewID().String() }, says: "of cluster"},
		{name: "no number", record: func(r *selfRecord) { r.Number = 0 }, says: "without a number"},
	} {
		t.Run(h.name, func(t *testing.T) {
			m := disk.Copy(3)
			h.apply(t, m, recordsOf(joinerConfig(2, "")))
			err := ends(t, joinerConfig(2, ""), m)
			if !errors.Is(err, errLostSelf) || !strings.Contains(fmt.Sprint(err), h.says) {
				t.Errorf("it says %v", err)
			}
			for _, plan := range []string{formingFile, joiningFile} {
				if _, err := m.Stat(path.Join(testDir, plan)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("it began something: %s: %v", plan, err)
				}
			}
			// One good record is enough, wherever it is: it is the same peer.
			m = disk.Copy(4)
			h.apply(t, m, recordsOf(joinerConfig(2, ""))[:4])
			p, err := Start(t.Context(), joinerConfig(2, ""), testSeams(m))
			if err != nil {
				t.Fatal(err)
			}
			defer stop(t, p)
			if p.id() != p2.id() {
				t.Errorf("with one good record it became %v, and was %v", p.id(), p2.id())
			}
		})
	}
	m, err := p1.core.Load().mapNow(t.Context())
	if err != nil || len(m.Members()) != 2 || len(m.Drives) != testDrives+4 {
		t.Errorf("the cluster has %d peers and %d drives: %v", len(m.Members()), len(m.Drives), err)
	}
}

// TestARemovedPeerWithoutARecordIsNoNewPeer removes a peer, with its drives and without, that then loses its record and
// comes with a token: it is refused, as a removed one with its record is, and the token is good for somebody else.
func TestARemovedPeerWithoutARecordIsNoNewPeer(t *testing.T) {
	t.Parallel()
	for name, drives := range map[string]bool{"its drives stay in the map": false, "its drives are forgotten": true} {
		t.Run(name, func(t *testing.T) {
			p1 := start(t, vfs.NewMemory(1))
			defer stop(t, p1)
			disk := vfs.NewMemory(2)
			p2 := joinTo(t, p1, 2, disk)
			id := p2.id()
			stop(t, p2)
			expect.Soon(t, "the first peer to notice", func() bool { return len(p1.reachable()) == 0 })
			if _, err := join.Revoke(t.Context(), p1.core.Load().root, id, drives); err != nil {
				t.Fatal(err)
			}
			(hurt{}).apply(t, disk, recordsOf(joinerConfig(2, "")))
			token := newToken(t, p1)
			p, err := Start(t.Context(), joinerConfig(2, token), testSeams(disk))
			if err == nil {
				defer stop(t, p)
				t.Fatalf("it was %v, and is let in as %v", id, p.id())
			}
			if !errors.Is(err, join.ErrRemoved) && !errors.Is(err, topology.ErrUnknownPeer) {
				t.Errorf("it says %v", err)
			}
			p, err = Start(t.Context(), joinerConfig(3, token), testSeams(vfs.NewMemory(3)))
			if err != nil {
				t.Fatalf("a new peer with the same token: %v", err)
			}
			stop(t, p)
		})
	}
}

// TestARecordOfAnotherPeerIsNotUsed puts the record of another peer of the cluster in the place of the own one.
func TestARecordOfAnotherPeerIsNotUsed(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMemory(1)
	p1 := start(t, disk)
	p2 := joinTo(t, p1, 2, vfs.NewMemory(2))
	text, err := p2.self.Load().encode(p2.cluster)
	if err != nil {
		t.Fatal(err)
	}
	stop(t, p2)
	stop(t, p1)
	for name, c := range map[string]struct {
		places []string
		want   error
	}{
		"in the data directory": {recordsOf(testConfig())[:1], ErrConfig},
		"everywhere":            {recordsOf(testConfig()), errOtherSelf},
	} {
		t.Run(name, func(t *testing.T) {
			m := disk.Copy(3)
			(hurt{text: func([]byte) []byte { return text }}).apply(t, m, c.places)
			p, err := Start(t.Context(), testConfig(), testSeams(m))
			if err == nil {
				defer stop(t, p)
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
				defer cancel()
				err = p.WaitReady(ctx)
			}
			if !errors.Is(err, c.want) {
				t.Errorf("it says %v", err)
			}
		})
	}
}

// TestAVoterThatLostItselfEnds is that of a peer whose drives hold the names: it must not make itself a certificate,
// which it may only where it is alone.
func TestAVoterThatLostItselfEnds(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMemory(1)
	p1 := start(t, disk)
	twoMore(t, p1)
	stop(t, p1)
	(hurt{}).apply(t, disk, recordsOf(testConfig()))
	if err := ends(t, testConfig(), disk); !errors.Is(err, errLostSelf) {
		t.Errorf("it says %v", err)
	}
}

// TestAPeerThatGaveUpStaysAtItsReason lets each look at the log take longer than it is until the next one: when a peer
// knows that it cannot go on, the next look is due already, and must not be made. Whether it was made by mistake is
// chance, so several peers try.
func TestAPeerThatGaveUpStaysAtItsReason(t *testing.T) {
	t.Parallel()
	p1 := start(t, vfs.NewMemory(1))
	disk := vfs.NewMemory(2)
	stop(t, joinTo(t, p1, 2, disk))
	stop(t, p1)
	(hurt{}).apply(t, disk, recordsOf(joinerConfig(2, "")))
	for n := range 4 {
		t.Run(fmt.Sprint("peer ", n), func(t *testing.T) {
			t.Parallel()
			seams := testSeams(disk.Copy(uint64(3 + n)))
			seams.Machine = func(_ raft.GroupID, machine raft.Machine) raft.Machine {
				<-time.After(lookEvery)
				return machine
			}
			p, err := Start(t.Context(), joinerConfig(2, ""), seams)
			if err != nil {
				t.Fatal(err)
			}
			defer stop(t, p)
			<-p.Failed()
			<-time.After(3 * lookEvery) // another look would be over
			if !errors.Is(p.Err(), errLostSelf) {
				t.Errorf("it says %v", p.Err())
			}
		})
	}
}

// TestARecordIsWaitedForWhileADriveIsAway loses all records but that of a drive which comes late.
func TestARecordIsWaitedForWhileADriveIsAway(t *testing.T) {
	t.Parallel()
	p1 := start(t, vfs.NewMemory(1))
	defer stop(t, p1)
	disk := vfs.NewMemory(2)
	p2 := joinTo(t, p1, 2, disk)
	stop(t, p2)
	config := joinerConfig(2, "")
	(hurt{}).apply(t, disk, recordsOf(config)[:4])
	last := config.Drives[3]
	if err := disk.Move(last, "/mnt/away"); err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), config, testSeams(disk))
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, p)
	expect.Soon(t, "a reason", func() bool { return strings.Contains(strings.Join(p.whyNot(), "; "), last) })
	if p.Err() != nil {
		t.Fatalf("it gave up: %v", p.Err())
	}
	if err := disk.Move("/mnt/away", last); err != nil {
		t.Fatal(err)
	}
	ready(t, p)
	if p.id() != p2.id() {
		t.Errorf("it became %v, and was %v", p.id(), p2.id())
	}
}

// TestADataDirectoryOfAMemberIsNoFirstStart takes the cluster's id away, and puts blank directories where the drives
// were: as a machine looks whose drives are not mounted.
func TestADataDirectoryOfAMemberIsNoFirstStart(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMemory(1)
	p1 := start(t, disk)
	token := newToken(t, p1)
	stop(t, p1)
	for n := range testDrives {
		if err := disk.Move(drivePath(n+1), fmt.Sprintf("/mnt/away%d", n+1)); err != nil {
			t.Fatal(err)
		}
		if err := disk.Mkdir(drivePath(n+1), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := disk.Remove(path.Join(testDir, clusterFile)); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{selfFile, stateDir} {
		for _, join := range []string{"", token} {
			config := testConfig()
			config.Join = join
			if _, err := Start(t.Context(), config, testSeams(disk)); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), left) {
				t.Errorf("with %s: %v", left, err)
			}
		}
		if err := disk.RemoveAll(path.Join(testDir, left)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestADataDirectoryOfAnotherClusterIsRefused gives the drives of one cluster to the data directory of another.
func TestADataDirectoryOfAnotherClusterIsRefused(t *testing.T) {
	t.Parallel()
	one, two := vfs.NewMemory(1), vfs.NewMemory(2)
	stop(t, start(t, one))
	p := start(t, two)
	stop(t, p)
	text, err := vfs.ReadFile(two, path.Join(testDir, clusterFile), maxSmall)
	if err != nil {
		t.Fatal(err)
	}
	if err := vfs.WriteFile(one, path.Join(testDir, clusterFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), testConfig(), testSeams(one)); !errors.Is(err, ErrClusters) {
		t.Errorf("it says %v", err)
	}
}

// TestNoPlainTextWithoutTheCertificate asks for TLS and has no certificate, or a damaged one, or another one's key.
func TestNoPlainTextWithoutTheCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, config := range []Config{
		{TLSCert: dir + "/none", TLSKey: dir + "/none"},
		{TLSCert: "lost_test.go", TLSKey: "lost_test.go"},
	} {
		c := testConfig()
		c.TLSCert, c.TLSKey = config.TLSCert, config.TLSKey
		m := vfs.NewMemory(1)
		if _, err := Start(t.Context(), c, testSeams(m)); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", c.TLSCert, err)
		}
		if _, err := m.Stat(drivePath(1)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a drive was made: %v", c.TLSCert, err)
		}
	}
}
