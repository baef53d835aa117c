package peer

import (
	"cmp"
	"math/bits"
	"slices"
	"testing"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
)

// TestWhatNamesTolerateIsCounted compares the three counts with all sets of losses, one by one.
func TestWhatNamesTolerateIsCounted(t *testing.T) {
	for _, logs := range [][]int{
		{4}, {0}, {-1}, {2, 2, 2}, {1, 1, 0}, {2, 2, -1}, {2, -1, -1}, {1, 1, 1, 1, 1}, {0, 0, 0, 0, 0}, {1, 0, 2, -1, 1}, {0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		want, wantDrives := enumerate(logs)
		if got := spareVoters(logs); max(got, -1) != want {
			t.Errorf("logs %v: %d voters may go, counted %d", logs, want, got)
		}
		if want < 0 {
			continue
		}
		if got := spareLogs(logs); got != wantDrives {
			t.Errorf("logs %v: %d drives may go, counted %d", logs, wantDrives, got)
		}
	}
}

// enumerate tries every set of voters: the fewest whose loss leaves no majority, and the fewest drives whose loss takes
// the logs of such a set.
func enumerate(logs []int) (voters, drives int) {
	majority, up := len(logs)/2+1, 0
	for _, l := range logs {
		if l >= 0 {
			up++
		}
	}
	if up < majority {
		return -1, -1
	}
	voters, drives = len(logs), 1<<30
	for set := range 1 << len(logs) {
		gone, cost := 0, 0
		for i, l := range logs {
			if set>>i&1 == 1 && l >= 0 {
				gone++
				cost += l + 1
			}
		}
		if up-gone < majority {
			voters, drives = min(voters, bits.OnesCount(uint(set))), min(drives, cost)
		}
	}
	return voters - 1, drives - 1
}

// TestNamesSurviveTheDrivesThatBytesDo takes the voters and mirrors that are chosen for some drives, and loses every set
// of four of them.
func TestNamesSurviveTheDrivesThatBytesDo(t *testing.T) {
	few := func(n, peers int) []int { return slices.Repeat([]int{n}, peers) }
	for _, c := range []struct {
		drives []int // of each peer
		voters int   // 0: as many as there always are
		losses int   // of drives that names survive then, whichever peers vote
	}{
		{few(12, 1), 0, -1}, {few(4, 3), 0, -1}, {few(4, 5), 0, 4}, {few(2, 6), 0, 4}, {few(1, 5), 0, -1}, {few(1, 11), 0, -1},
		{few(1, 12), 9, 4}, {few(1, 40), 9, 4}, {few(2, 12), 0, 4}, {append(few(1, 1), few(2, 11)...), 0, 4},
		{append(few(2, 4), few(1, 8)...), 9, 4}, {append(few(2, 4), few(1, 4)...), 7, 3}, {append(few(8, 1), few(1, 4)...), 0, -1},
		{append(few(6, 2), few(1, 3)...), 0, -1}, {nil, 0, -1},
	} {
		got := votersForDrives(slices.Clone(c.drives))
		if got != c.voters {
			t.Errorf("drives %v: %d voters, want %d", c.drives, got, c.voters)
		}
		if c.losses < 0 {
			continue
		}
		voters := cmp.Or(got, 5)
		slices.Sort(c.drives)
		var logs []int
		for _, n := range c.drives[:voters] {
			logs = append(logs, min(n, raft.MirrorsFor(voters))-1)
		}
		if _, losses := enumerate(logs); min(losses, drivesToLose) != c.losses {
			t.Errorf("drives %v: %d voters survive %d of them, want %d", c.drives, voters, losses, c.losses)
		}
	}
}

func TestDomainsThatNamesTolerate(t *testing.T) {
	id := func(n int) cluster.PeerID { return cluster.PeerID{byte(n)} }
	for _, c := range []struct {
		zones string // of the voters; a capital letter is one that does not report
		want  int
	}{
		{"a", 0}, {"aaa", 0}, {"abc", 1}, {"aab", 0}, {"abcde", 2}, {"aabbc", 1}, {"aabcd", 1}, {"abC", 0}, {"aaabbbccc", 1}, {"abcdefghi", 4},
	} {
		zone := make(map[cluster.PeerID]string)
		reports := make(map[cluster.PeerID]report)
		var voters []cluster.PeerID
		for i, z := range c.zones {
			voters = append(voters, id(i+1))
			zone[id(i+1)] = string(z | 0x20)
			if z >= 'a' {
				reports[id(i+1)] = report{}
			}
		}
		if got := spareDomains(voters, reports, func(p cluster.PeerID) string { return zone[p] }); got != c.want {
			t.Errorf("zones %s: %d may go, counted %d", c.zones, c.want, got)
		}
	}
}
