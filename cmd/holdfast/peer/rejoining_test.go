package peer

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// ahead is a clock that is ahead by so much.
type ahead struct{ by atomic.Int64 }

func (a *ahead) seams(fsys vfs.FS) Seams {
	s := testSeams(fsys)
	s.Now = func() time.Time { return time.Now().Add(time.Duration(a.by.Load())) }
	return s
}

// hosts numbers addresses of this machine.
var hosts atomic.Int64

// apart is a cluster of two whose second peer was off while its certificate expired. The first went on.
type apart struct {
	clock  ahead
	first  *Peer
	disk   *vfs.Memory // of the second
	id     cluster.PeerID
	number uint16
	drives int
}

func newApart(t *testing.T) *apart {
	t.Helper()
	a := &apart{disk: vfs.NewMemory(2)}
	m := vfs.NewMemory(1)
	// The second knows the first by its address alone. It is one that no other test takes while the first does not listen.
	config := testConfig()
	config.Peer = fmt.Sprintf("127.77.0.%d:9001", 1+hosts.Add(1)%250)
	var err error
	if a.first, err = Start(t.Context(), config, testSeams(m)); err != nil {
		t.Fatal(err)
	}
	ready(t, a.first)
	second := joinTo(t, a.first, 2, a.disk)
	keep(t, second, "a", testBody)
	a.id, a.number = second.id(), second.self.Load().number
	stop(t, second)
	stop(t, a.first)
	a.clock.by.Store(int64(trust.Validity + 24*time.Hour))
	if a.first, err = Start(t.Context(), config, a.clock.seams(m)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, a.first) })
	ready(t, a.first)
	a.drives = len(a.first.topology().Drives)
	expect.Soon(t, "the first peer to sign for itself", func() bool {
		return a.first.core.Load().links.trust.Credentials().Certificate().NotAfter.After(a.clock.seams(nil).Now())
	})
	return a
}

// back checks that the second peer is the one that it was, and serves.
func (a *apart) back(t *testing.T, p *Peer) {
	t.Helper()
	ready(t, p)
	expect.Soon(t, "the peer to serve", func() bool { return len(p.notReady()) == 0 && p.RootKey() != nil })
	if own := p.self.Load(); own.id != a.id || own.number != a.number {
		t.Errorf("it came back as %v, number %d, and was %v, number %d", own.id, own.number, a.id, a.number)
	}
	wantRead(t, p, "a", testBody)
	m := a.first.topology()
	if len(m.Members()) != 2 || len(m.Drives) != testDrives+4 {
		t.Errorf("the cluster has %d peers and %d drives", len(m.Members()), len(m.Drives))
	}
	expect.Soon(t, "the plan to be gone", func() bool { return !planned(t, a.disk) })
}

// TestAPeerThatWasOffForLongIsLetInByAToken starts it without, with a token of another cluster, and with a good one.
func TestAPeerThatWasOffForLongIsLetInByAToken(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	p, err := Start(t.Context(), joinerConfig(2, ""), a.clock.seams(a.disk))
	if err != nil {
		t.Fatal(err)
	}
	ready(t, p) // it waits a little for the others, and then tells of it
	expect.Soon(t, "it to be refused", func() bool {
		return a.first.core.Load().links.trust.Refusals().Of(trust.ErrExpired) > 0
	})
	if len(p.notReady()) == 0 {
		t.Error("it serves with a certificate that has expired")
	}
	if err := p.Close(); err != nil {
		t.Log(err) // its names do not answer
	}

	other, err := Start(t.Context(), testConfig(), a.clock.seams(vfs.NewMemory(5)))
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, other)
	ready(t, other)
	foreign := a.disk.Copy(6)
	if _, err := Start(t.Context(), joinerConfig(2, newToken(t, other)), a.clock.seams(foreign)); !errors.Is(err, topology.ErrUnknownPeer) {
		t.Errorf("with a token of another cluster: %v", err)
	}

	token := newToken(t, a.first)
	if p, err = Start(t.Context(), joinerConfig(2, token), a.clock.seams(a.disk)); err != nil {
		t.Fatal(err)
	}
	a.back(t, p)
	stop(t, p)
	// The same command again: the token is passed over.
	if p, err = Start(t.Context(), joinerConfig(2, token), a.clock.seams(a.disk)); err != nil {
		t.Fatal(err)
	}
	defer stop(t, p)
	a.back(t, p)
	keep(t, p, "b", testBody)
	wantRead(t, a.first, "b", testBody)
}

// TestAClockThatWasAheadLocksNobodyOut starts a peer, whose unit still has the token that it joined with, while its clock
// is weeks ahead: it asks to be let in again, and is refused. With the clock put right it is the peer that it was.
func TestAClockThatWasAheadLocksNobodyOut(t *testing.T) {
	t.Parallel()
	p1 := start(t, vfs.NewMemory(1))
	defer stop(t, p1)
	token, disk := newToken(t, p1), vfs.NewMemory(2)
	p2, err := Start(t.Context(), joinerConfig(2, token), testSeams(disk))
	if err != nil {
		t.Fatal(err)
	}
	ready(t, p2)
	id := p2.id()
	stop(t, p2)
	var clock ahead
	clock.by.Store(int64(trust.Validity + 24*time.Hour))
	if p, err := Start(t.Context(), joinerConfig(2, token), clock.seams(disk)); err == nil {
		stop(t, p)
		t.Fatal("it was not refused")
	}
	if !planned(t, disk) {
		t.Fatal("it did not ask")
	}
	clock.by.Store(0)
	for _, join := range []string{token, ""} {
		whole := disk.Copy(3)
		p, err := Start(t.Context(), joinerConfig(2, join), clock.seams(whole))
		if err != nil {
			t.Fatalf("with the token %q: %v", join, err)
		}
		expect.Soon(t, "the peer to serve", func() bool { return len(p.notReady()) == 0 && p.RootKey() != nil })
		if p.id() != id || planned(t, whole) {
			t.Errorf("it is %v, and was %v; a plan is left: %v", p.id(), id, planned(t, whole))
		}
		stop(t, p)
		expect.Soon(t, "the first peer to notice", func() bool { return len(p1.reachable()) == 0 })
	}
}

// TestAPeerAloneNeedsNoToken starts the only peer of a cluster after its certificate has expired, with a token and without:
// there is nobody to ask, and it signs for itself.
func TestAPeerAloneNeedsNoToken(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMemory(1)
	p := start(t, disk)
	token := newToken(t, p)
	stop(t, p)
	var clock ahead
	clock.by.Store(int64(trust.Validity + 24*time.Hour))
	for _, join := range []string{"", token} {
		config, whole := testConfig(), disk.Copy(2)
		config.Join = join
		p, err := Start(t.Context(), config, clock.seams(whole))
		if err != nil {
			t.Fatalf("with the token %q: %v", join, err)
		}
		ready(t, p)
		if planned(t, whole) {
			t.Error("it asked to be let in")
		}
		stop(t, p)
	}
}

// planned says whether there is the plan of a return.
func planned(t *testing.T, disk *vfs.Memory) bool {
	t.Helper()
	_, err := disk.Stat(path.Join(testDir, joiningFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// TestAPeerWithoutARecordIsLetInByAToken loses all of its records: the drives tell who it is.
func TestAPeerWithoutARecordIsLetInByAToken(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	(hurt{}).apply(t, a.disk, recordsOf(joinerConfig(2, "")))
	if err := a.disk.RemoveAll(testDir); err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), joinerConfig(2, newToken(t, a.first)), a.clock.seams(a.disk))
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, p)
	a.back(t, p)
}

// TestAReturnSurvivesPowerLossAnywhere cuts the power of a peer that is let in again after each number of steps.
func TestAReturnSurvivesPowerLossAnywhere(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	whole := a.disk
	late := 0
	const cuts = 6
	for i := range cuts {
		t.Run(fmt.Sprintf("after %d", i*4), func(t *testing.T) {
			token := newToken(t, a.first)
			m := whole.Copy(uint64(10 + i))
			m.Inject(vfs.Rule{After: i * 4, Err: vfs.ErrPowerLost})
			if p, err := Start(t.Context(), joinerConfig(2, token), a.clock.seams(m)); err == nil {
				expect.Soon(t, "the peer to notice", func() bool { return p.core.Load() != nil || len(p.whyNot()) > 0 || p.Err() != nil })
				if err := p.Close(); err == nil {
					late++
				}
			}
			a.disk = m.Crash()
			p, err := Start(t.Context(), joinerConfig(2, token), a.clock.seams(a.disk)) // the token is used, by this very peer
			if err != nil {
				t.Fatal(err)
			}
			a.back(t, p)
			stop(t, p)
			expect.Soon(t, "the first peer to notice", func() bool { return len(a.first.reachable()) == 0 })
		})
	}
	if late > cuts/2 {
		t.Errorf("%d of %d cuts came too late", late, cuts)
	}
}

// TestAClusterThatWasOffForLongIsBroughtBackByItsClocks is what docs/operations.md says of a cluster whose certificates
// have all run out: nobody is left to let anybody in.
func TestAClusterThatWasOffForLongIsBroughtBackByItsClocks(t *testing.T) {
	t.Parallel()
	var clock ahead
	var peers []*Peer
	disks := []*vfs.Memory{vfs.NewMemory(1), vfs.NewMemory(2), vfs.NewMemory(3)}
	begin := func(n int, token string) {
		t.Helper()
		config := testConfig()
		if n > 0 {
			config = joinerConfig(n+1, token)
			config.Peer = "" // the port of before
		}
		p, err := Start(t.Context(), config, clock.seams(disks[n]))
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, p)
	}
	end := func() {
		for _, p := range peers {
			if err := p.Close(); err != nil {
				t.Log(err) // names that do not answer
			}
		}
		peers = nil
	}
	all := func(what string, ok func(p *Peer) bool) {
		t.Helper()
		for _, p := range peers {
			expect.Soon(t, what, func() bool { return ok(p) })
		}
	}
	for n := range disks {
		token := ""
		if n > 0 {
			token = newToken(t, peers[0])
		}
		begin(n, token)
		ready(t, peers[n])
	}
	voters(t, peers[0], 3)
	keep(t, peers[0], "a", testBody)
	end()

	const off = trust.Validity + 18*24*time.Hour
	clock.by.Store(int64(off))
	for n := range disks {
		begin(n, "")
	}
	all("the certificates to be refused", func(p *Peer) bool {
		c := p.core.Load()
		return c != nil && c.links.trust.Refusals().Of(trust.ErrExpired) > 0
	})
	end()

	clock.by.Store(int64(trust.Validity - 24*time.Hour))
	for n := range disks {
		begin(n, "")
	}
	all("a certificate that is good for long", func(p *Peer) bool {
		c := p.core.Load()
		return c != nil && c.links.trust.Credentials().Certificate().NotAfter.After(time.Now().Add(off))
	})
	clock.by.Store(int64(off))
	all("the peer to serve", func(p *Peer) bool { return len(p.notReady()) == 0 && p.RootKey() != nil })
	for _, p := range peers {
		wantRead(t, p, "a", testBody)
	}
	keep(t, peers[2], "b", testBody)
	end()
}
