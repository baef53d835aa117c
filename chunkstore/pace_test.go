package chunkstore

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestPaceStepsHoldTheirTimes(t *testing.T) {
	for took := time.Duration(0); took < 4*time.Second; took += took/50 + time.Microsecond {
		step := paceStep(took)
		if edge := paceEdge(step); took > edge || took > paceFirst && edge > took*5/4+1 {
			t.Fatalf("%v falls on step %d, which ends at %v", took, step, edge)
		}
		if step > 0 && took <= paceEdge(step-1)-1 {
			t.Fatalf("%v falls on step %d, but the one before ends at %v", took, step, paceEdge(step-1))
		}
	}
	if paceStep(time.Hour) != paceSteps-1 {
		t.Error("an hour falls beyond the last step")
	}
	for size, want := range map[int64]int{0: 0, 1: 0, 16 << 10: 0, 16<<10 + 1: 1, 64 << 10: 2, 512 << 10: 5, 1 << 30: 5} {
		if got := paceClass(size); got != want {
			t.Errorf("%d bytes are of class %d, want %d", size, got, want)
		}
	}
}

// TestPaceFollowsItsDrive: the percentiles are those of the recent samples, within a step.
func TestPaceFollowsItsDrive(t *testing.T) {
	var d paceDigest
	random := rand.New(rand.NewPCG(1, 2))
	for _, slow := range []time.Duration{time.Millisecond, 80 * time.Millisecond, 2 * time.Millisecond} {
		for range 1000 {
			d.add(time.Duration(random.Int64N(int64(slow))))
		}
		if p95 := time.Duration(d.p95.Load()); p95 < slow*8/10 || p95 > slow*5/4 {
			t.Errorf("95th percentile of times up to %v: %v", slow, p95)
		}
		if p75 := time.Duration(d.p75.Load()); p75 < slow*6/10 || p75 > slow {
			t.Errorf("75th percentile of times up to %v: %v", slow, p75)
		}
	}
}

func TestAllowanceIsATwentieth(t *testing.T) {
	a := newAllowance()
	spent := int64(0)
	for range 10_000 {
		a.earn(8, 8<<16)
		for a.spend(1, 1<<16) {
			spent++
		}
	}
	if spent < 4000 || spent > 4000+hedgeFirstReads {
		t.Errorf("%d reads of 80,000", spent)
	}
	for range 10_000 {
		a.earn(1000, 1<<30)
	}
	for spent = 0; a.spend(1, 1); spent++ {
	}
	if spent != hedgeMostReads {
		t.Errorf("%d reads were saved up", spent)
	}
	for spent = 0; a.spend(0, 1<<20); spent++ {
	}
	if spent != hedgeMostBytes>>20-1 {
		t.Errorf("%d MiB were saved up", spent)
	}
}
