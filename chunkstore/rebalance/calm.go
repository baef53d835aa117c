package rebalance

import (
	"cmp"
	"slices"
	"time"

	"github.com/holdfast/holdfast/cluster/placement"
)

// longestWait is how many times Config.Calm volumes wait at most, however many drives come meanwhile.
const longestWait = 10

// calm tells whether the drives of the cluster are the same for a while. Peers and drives come in groups, and what moves
// before the last of them is there moves again.
type calm struct {
	known []placement.Drive // their ids and domains but for the device, which is not known of one that is down
	// first and last are when the drives changed, of changes that followed each other.
	first, last time.Time
}

// restless notes the drives as they are now, and says that they have not been the same for so long.
func (c *calm) restless(now time.Time, drives []Drive, wait time.Duration) bool {
	known := make([]placement.Drive, len(drives))
	for i, d := range drives {
		known[i] = d.Drive
		known[i].Device, known[i].Weight = 0, 0
	}
	slices.SortFunc(known, func(a, b placement.Drive) int { return cmp.Compare(string(a.ID[:]), string(b.ID[:])) })
	if !slices.Equal(known, c.known) {
		if now.Sub(c.last) >= wait {
			c.first = now
		}
		c.known, c.last = known, now
	}
	return now.Sub(c.last) < wait && now.Sub(c.first) < longestWait*wait
}
