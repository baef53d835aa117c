package rebalance

import (
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/placement"
)

func TestVolumesWaitUntilTheDrivesAreTheSameForAWhile(t *testing.T) {
	const wait = 30 * time.Second
	now := time.Unix(1_700_000_000, 0)
	var c calm
	var drives []Drive
	add := func() {
		drives = append(drives, Drive{Drive: placement.Drive{ID: cluster.DriveID{byte(len(drives) + 1)}}})
	}
	after := func(d time.Duration, want bool) {
		t.Helper()
		now = now.Add(d)
		if got := c.restless(now, drives, wait); got != want {
			t.Fatalf("restless is %v with %d drives", got, len(drives))
		}
	}
	add()
	after(0, true)
	after(wait-1, true)
	after(1, false)
	after(time.Hour, false)
	add()
	after(0, true)
	drives[0].State, drives[0].Used, drives[0].Device, drives[0].Weight = Takes, 5, 7, 9 // that is no other cluster
	after(wait-1, true)
	add()
	after(1, true)
	after(wait-1, true)
	after(1, false)
	drives[1].Zone = "z2"
	after(0, true)
	for range 2*longestWait - 1 { // drives come without an end
		add()
		after(wait/2, true)
	}
	add()
	after(wait/2, false)
	if new(calm).restless(now, drives, -1) {
		t.Error("it waits although nothing should")
	}
}
