package sim

import (
	"context"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/chunkstore"
	numbers "github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/peer"
	"github.com/holdfast/holdfast/metadata/record"
)

// open is a drive that does not refuse what it promised to refuse.
type open struct{ chunkstore.Drive }

func (open) Seal(context.Context, chunkstore.VolumeID, numbers.Epoch) error { return nil }

// tabletGroup is the group whose machine the bugs change.
const tabletGroup = raft.GroupID(2)

// forgetful is a file system that says that writes are durable before they are.
type forgetful struct{ vfs.FS }

type forgetfulFile struct{ vfs.File }

func (f forgetful) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return forgetfulFile{file}, nil
}

func (f forgetfulFile) Sync() error { return nil }

func (f forgetfulFile) WriteSync(p []byte, off int64) error {
	_, err := f.WriteAt(p, off)
	return err
}

// changed is a tablet's machine that changes commands before it applies them.
type changed struct {
	raft.Machine
	change func(c *record.Command, term uint64)
}

func (m changed) Apply(index, term uint64, command []byte, r kv.Reader, b kv.Batch) any {
	var c record.Command
	if err := proto.Unmarshal(command, &c); err != nil {
		panic(err)
	}
	m.change(&c, term)
	command, err := proto.Marshal(&c)
	if err != nil {
		panic(err)
	}
	return m.Machine.Apply(index, term, command, r, b)
}

func changing(change func(c *record.Command, term uint64)) func(*node, *peer.Seams) {
	return func(_ *node, s *peer.Seams) {
		s.Machine = func(group raft.GroupID, m raft.Machine) raft.Machine {
			if group != tabletGroup {
				return m
			}
			return changed{m, change}
		}
	}
}

// trusting is a replica that does not ask the others whether it still leads.
type trusting struct {
	raft.Member
	number uint64
}

func (m trusting) Barrier(ctx context.Context) (uint64, error) {
	if l := m.Leader(); l.Replica&0xffff == m.number {
		return l.Term, nil
	}
	return m.Member.Barrier(ctx)
}

// late is a replica whose proposals are under way for a while, as in a process that gets no time. It is no bug.
type late struct {
	raft.Member
	dice *dice
}

func (m late) Propose(ctx context.Context, command []byte) (any, error) {
	if m.dice.n(2) == 0 {
		pause(time.Duration(300+m.dice.n(2200)) * time.Millisecond)
		return m.Member.Propose(context.WithoutCancel(ctx), command)
	}
	return m.Member.Propose(ctx, command)
}

// dice may be thrown by several.
type dice struct {
	mu     sync.Mutex
	random *rand.Rand
}

func (d *dice) n(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.random.IntN(n)
}

// delaying makes proposals late, beside what another bug does.
func delaying(also func(*node, *peer.Seams)) func(*node, *peer.Seams) {
	return func(n *node, s *peer.Seams) {
		d := &dice{random: rand.New(rand.NewPCG(n.c.seed, 77))}
		watch := s.Tablet
		s.Tablet = func(m raft.Member) raft.Member { return late{watch(m), d} }
		if also != nil {
			also(n, s)
		}
	}
}

// named are the faults of those names.
func named(t *testing.T, names ...string) []fault {
	var list []fault
	for _, name := range names {
		at := slices.IndexFunc(faults, func(f fault) bool { return f.name == name })
		if at < 0 {
			t.Fatalf("there is no fault %q", name)
		}
		list = append(list, faults[at])
	}
	return list
}

// handBack moves leadership away and back again, with writes between.
var handBack = fault{"leadership there and back", func(r *round) {
	moved := 0
	for range 8 {
		if r.transfer() {
			moved++
		}
		r.hold(200*time.Millisecond, 900*time.Millisecond)
	}
	r.must(func() error {
		if moved < 2 {
			return errNotMoved
		}
		return nil
	})
}}

// TestEachBugIsCaught breaks one rule at a time: some seed must notice. So the checkers can see, and the faults reach
// what the rule is for. Where the surroundings are changed too, the same without the bug must be clean.
func TestEachBugIsCaught(t *testing.T) {
	golden.of(t)
	for _, test := range []struct {
		bug    bug
		faults []fault
		// control is the same without the bug.
		control func(*node, *peer.Seams)
		seeds   uint64
	}{
		{bug: bug{name: "acknowledge before fsync", seams: func(_ *node, s *peer.Seams) { s.FS = forgetful{s.FS} }},
			faults: named(t, "all lose power"), seeds: 3},
		{bug: bug{name: "skip ReadIndex", eager: true, seams: func(n *node, s *peer.Seams) {
			number, watch := uint64(slices.Index(n.c.nodes, n)+1), s.Tablet
			s.Tablet = func(m raft.Member) raft.Member { return trusting{watch(m), number} }
		}}, faults: named(t, "leader isolated"), seeds: 12},
		{bug: bug{name: "skip the term check", eager: true, seams: delaying(changing(func(c *record.Command, term uint64) { c.Term = term }))},
			faults: []fault{handBack}, control: delaying(nil), seeds: 12},
		{bug: bug{name: "move an open volume", seams: func(n *node, s *peer.Seams) {
			s.Drive = func(d chunkstore.Drive) chunkstore.Drive { return n.c.fences.on(open{d}) }
		}}, faults: named(t, "gateway taken for gone"), seeds: 12},
		{bug: bug{name: "skip retry dedupe", eager: true, seams: changing(func(c *record.Command, _ uint64) { c.Session, c.Seq = 0, 0 })},
			faults: append(named(t, "leader crash", "leader isolated"), handBack), seeds: 12},
	} {
		t.Run(test.bug.name, func(t *testing.T) {
			if test.control != nil {
				if out := run(t, 0, &bug{name: "none", seams: test.control, eager: test.bug.eager}, test.faults); len(out.complaints) > 0 {
					t.Fatalf("without the bug too: %v", out.complaints)
				}
			}
			for seed := range test.seeds {
				out := run(t, seed, &test.bug, test.faults)
				if len(out.complaints) > 0 {
					t.Logf("caught by seed %d: %.600s", seed, out.complaints[0])
					return
				}
			}
			t.Errorf("%d seeds did not notice", test.seeds)
		})
	}
}
