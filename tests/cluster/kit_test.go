// Package cluster runs clusters of real processes, breaks them, and checks that nothing acknowledged is lost. Every
// fault fires while requests are under way, and the tests fail when it does not.
package cluster

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/holdfast/holdfast/tests/testkit"
)

// long tells whether the long forms run: more peers, more faults, and bounds on time that need a machine of its own.
func long() bool { return os.Getenv("HOLDFAST_LONG") != "" }

// chaosOnly leaves a test to `make chaos`: `make test` has minutes for clusters of real processes, and the clusters in
// simulated time (tests/sim) and in one process (cmd/holdfast) tell of the same faults.
func chaosOnly(t *testing.T) {
	t.Helper()
	if !long() && os.Getenv("HOLDFAST_CHAOS") == "" {
		t.Skip("make chaos runs it; HOLDFAST_CHAOS=1 its short form")
	}
}

// pick is a number that depends on the form.
func pick(short, inLong int) int {
	if long() {
		return inLong
	}
	return short
}

const (
	// oneInAThousand is the share of requests that may fail after their retries while a single fault is there.
	oneInAThousand = 0.001
	// wholeLimit is how long a small cluster may take to be whole again on two busy cores.
	wholeLimit = 2 * time.Minute
)

// begin starts a cluster with a bucket and a ledger for it.
func begin(t *testing.T, options testkit.ClusterOptions) (*testkit.Cluster, *ledger) {
	t.Helper()
	c := testkit.StartCluster(t, options)
	c.MakeBucket("ledger")
	return c, newLedger("ledger")
}

// wantGap fails the test when writes stood still for too long. On a machine that does other things besides, the short
// form allows for that.
func wantGap(t *testing.T, what string, gap, most time.Duration) {
	t.Helper()
	t.Logf("%s: no write for %v", what, gap.Round(time.Millisecond))
	if !long() {
		most *= 4
	}
	if gap > most {
		t.Errorf("%s: no write was acknowledged for %v, more than %v", what, gap, most)
	}
}

// percentile is the nearest rank: of few durations the 99th is the longest.
func percentile(durations []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[(len(sorted)*p+99)/100-1]
}
