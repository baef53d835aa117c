package route

import (
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/metadata"
)

// Local is what this peer can answer by itself: its own Catalog while it leads, else metadata.NotLeader with the leader
// that it knows. It is for the handler that other peers ask: a Router there would send questions in circles. It repeats
// nothing, and asks neither Remote nor for Patience.
func Local(c Config) metadata.Names {
	c.Patience = -1
	c.Remote = func(cluster.PeerID) metadata.Names { return nil }
	return &Router{config: c, localOnly: true}
}
