package sim

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
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
	"github.com/holdfast/holdfast/metadata/tablet"
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

// altering changes the commands of the tablet before they are applied.
type altering struct {
	raft.Machine
	alter func(c *record.Command, term uint64, r kv.Reader)
}

// Apply implements raft.Machine.
func (m altering) Apply(index, term uint64, command []byte, r kv.Reader, b kv.Batch) any {
	var c record.Command
	if err := proto.Unmarshal(command, &c); err != nil {
		panic(fmt.Sprintf("sim: command of %d bytes: %v", len(command), err))
	}
	m.alter(&c, term, r)
	command, err := proto.Marshal(&c)
	if err != nil {
		panic(fmt.Sprintf("sim: encode command: %v", err))
	}
	return m.Machine.Apply(index, term, command, r, b)
}

// altered makes every tablet apply other commands than were proposed.
func altered(alter func(c *record.Command, term uint64, r kv.Reader)) func(*node, *peer.Seams) {
	return func(_ *node, s *peer.Seams) {
		s.Machine = func(_ raft.GroupID, m raft.Machine) raft.Machine {
			if _, is := m.(*tablet.Machine); is {
				return altering{m, alter}
			}
			return m
		}
	}
}

// untimely makes a command of an earlier term look like one of now. A tablet that was never split has one epoch for ever,
// so the term is what says here that a command was decided by who does not lead any more.
func untimely(c *record.Command, term uint64, _ kv.Reader) { c.Term = term }

// unnumbered makes a command look like nobody's: it is applied however often it comes, and no answer is kept. Commands
// of sessions that are over are refused as before.
func unnumbered(c *record.Command, _ uint64, r kv.Reader) {
	if fenced, err := tablet.Fenced(r, c.Session); err == nil && !fenced {
		c.Session = 0
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
		{bug: bug{name: "skip ReadIndex", eager: 40 * time.Millisecond, rounds: 1, seams: func(n *node, s *peer.Seams) {
			number, watch := uint64(slices.Index(n.c.nodes, n)+1), s.Tablet
			s.Tablet = func(m raft.Member) raft.Member { return trusting{watch(m), number} }
		}}, faults: named(t, "leader isolated"), seeds: 12},
		{bug: bug{name: "skip the epoch check", eager: 120 * time.Millisecond, rounds: 1, seams: altered(untimely)},
			faults: named(t, "leader stopped, and leads again"), seeds: 12},
		{bug: bug{name: "skip retry dedupe", eager: 120 * time.Millisecond, rounds: 1, seams: altered(unnumbered)},
			faults: named(t, "answers lost"), seeds: 12},
		{bug: bug{name: "move an open volume", chunked: true, rounds: 2, seams: func(n *node, s *peer.Seams) {
			s.Drive = func(d chunkstore.Drive) chunkstore.Drive { return n.c.fences.on(open{d}) }
		}}, faults: named(t, "gateway taken for gone"), seeds: 12},
	} {
		t.Run(test.bug.name, func(t *testing.T) {
			t.Parallel()
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
