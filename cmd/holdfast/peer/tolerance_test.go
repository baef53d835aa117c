package peer

import (
	"math/bits"
	"testing"

	"github.com/holdfast/holdfast/cluster"
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
