package sim

import (
	"context"
	"io/fs"
	"slices"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	numbers "github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/peer"
)

// open is a drive that does not refuse what it promised to refuse.
type open struct{ chunkstore.Drive }

func (open) Seal(context.Context, chunkstore.VolumeID, numbers.Epoch) error { return nil }

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

// TestEachBugIsCaught breaks one rule at a time: some seed must notice. So the checkers can see, and the faults reach
// what the rule is for.
func TestEachBugIsCaught(t *testing.T) {
	golden.of(t)
	for _, test := range []struct {
		bug    bug
		faults []fault
		seeds  uint64
	}{
		{bug: bug{name: "acknowledge before fsync", seams: func(_ *node, s *peer.Seams) { s.FS = forgetful{s.FS} }},
			faults: named(t, "all lose power"), seeds: 3},
		{bug: bug{name: "skip ReadIndex", eager: true, seams: func(n *node, s *peer.Seams) {
			number, watch := uint64(slices.Index(n.c.nodes, n)+1), s.Tablet
			s.Tablet = func(m raft.Member) raft.Member { return trusting{watch(m), number} }
		}}, faults: named(t, "leader isolated"), seeds: 12},
		{bug: bug{name: "move an open volume", seams: func(n *node, s *peer.Seams) {
			s.Drive = func(d chunkstore.Drive) chunkstore.Drive { return n.c.fences.on(open{d}) }
		}}, faults: named(t, "gateway taken for gone"), seeds: 12},
	} {
		t.Run(test.bug.name, func(t *testing.T) {
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
