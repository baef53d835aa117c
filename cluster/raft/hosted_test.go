package raft

import (
	"errors"
	"maps"
	"testing"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/tests/expect"
)

// TestALearnerIsAddedInOneTermOnly adds a learner in a term that is over, and in the one that is not, and asks for it
// until it has caught up.
func TestALearnerIsAddedInOneTermOnly(t *testing.T) {
	net := newNetwork()
	_, first := net.alone(t, vfs.NewMemory(1), 1, 1)
	_, second := net.alone(t, vfs.NewMemory(2), 2)
	ctx := testContext(t)
	term, err := first.Group(1).Barrier(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.AddLearner(ctx, 1, term-1, 102); !errors.Is(err, ErrNotLeader) {
		t.Fatalf("in a term that is over: %v", err)
	}
	if err := first.CaughtUp(ctx, 1, 102); !errors.Is(err, ErrNoReplica) {
		t.Fatalf("a replica that is none: %v", err)
	}
	if err := first.AddLearner(ctx, 1, term, 102); err != nil {
		t.Fatal(err)
	}
	if err := first.CaughtUp(ctx, 1, 102); !errors.Is(err, ErrLearnerBehind) {
		t.Fatalf("a learner that is nowhere: %v", err)
	}
	if err := second.Create(ctx, 1, 102); err != nil {
		t.Fatal(err)
	}
	expect.Soon(t, "the learner has caught up", func() bool { return first.CaughtUp(ctx, 1, 102) == nil })
	if err := second.CaughtUp(ctx, 1, 102); !errors.Is(err, ErrNotLeader) {
		t.Fatalf("asked where nobody leads: %v", err)
	}
	for h, want := range map[*Host]uint64{first: 1, second: 102} {
		ids, err := h.Replicas()
		if err != nil || !maps.Equal(ids, map[GroupID]uint64{1: want}) {
			t.Errorf("replicas %v, %v, want %d of group 1", ids, err, want)
		}
		closeHost(t, h)
		if _, err := h.Replicas(); !errors.Is(err, ErrStopped) {
			t.Errorf("replicas of a closed host: %v", err)
		}
	}
}
