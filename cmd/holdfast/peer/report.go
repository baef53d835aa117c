package peer

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast/holdfast/chunkstore/rebalance"
	"github.com/holdfast/holdfast/chunkstore/repair"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/join"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

const (
	reportPath = "/peer/1/report"
	// reportPatience is how long a status waits for the reports of other peers.
	reportPatience = 2 * time.Second
	// maxReport bounds a report: a thousand drives are far below it.
	maxReport = 4 << 20
)

// report is what only a peer itself knows, for the status of all.
type report struct {
	Version string        `json:"version"`
	Uptime  time.Duration `json:"uptime_ns"`
	Memory  admin.Memory  `json:"memory"`
	Drives  []admin.Drive `json:"drives"`
	// Tolerated is how many drives of the peer its log may lose; -1 when it is lost now.
	Tolerated int           `json:"log_tolerates"`
	Traffic   admin.Traffic `json:"traffic"`
	Work      []admin.Work  `json:"work"`
	// Repair and Balance are set by the peer that does them.
	Repair  *repair.Progress    `json:"repair,omitempty"`
	Balance *rebalance.Progress `json:"balance,omitempty"`
	Groups  []groupReport       `json:"groups"`
	// Holds is what the rotation of the gossip key waits for.
	Holds join.Holding `json:"holds"`
}

// groupReport is a replica of this peer.
type groupReport struct {
	Group  raft.GroupID   `json:"group"`
	Leader cluster.PeerID `json:"leader"`
	Term   uint64         `json:"term"`
	// Voters and Learners are peers, as the replica knows them.
	Voters   []cluster.PeerID `json:"voters"`
	Learners []cluster.PeerID `json:"learners,omitempty"`
}

// report tells of this peer.
func (c *core) report() (report, error) {
	p := c.peer
	r := report{Version: p.config.Version, Uptime: p.seams.Now().Sub(p.started), Drives: source{p, c}.ownDriveRows(), Tolerated: c.host.Mirrors().Tolerated}
	r.Holds = join.Holding{List: c.links.trust.List().Epoch, Keys: c.links.keys.Prints()}
	if c.host.Failed() != nil {
		r.Tolerated = -1
	}
	var err error
	if r.Memory.Resident, err = residentBytes(); err != nil {
		return report{}, err
	}
	stats := c.chunks.Stats()
	r.Traffic = admin.Traffic{Written: stats.BytesWritten, Read: stats.BytesRead, FromDrives: stats.ShardBytes}
	for _, w := range append(c.workers.States(), c.lead.states()...) {
		row := admin.Work{Name: w.Name, State: w.Doing}
		if w.Err != nil {
			row.Error = oneLine(w.Err)
		}
		r.Work = append(r.Work, row)
	}
	if c.lead.leads() {
		repaired, balanced := c.repair.Progress(), c.balance.Progress()
		r.Repair, r.Balance = &repaired, &balanced
	}
	for _, group := range groups {
		member := c.host.Group(group)
		if member == nil {
			continue
		}
		at, _ := c.leaders.own(group)
		row := groupReport{Group: group, Leader: at.Peer, Term: at.Term}
		voters, learners := member.Members()
		row.Voters, row.Learners = p.peersOf(group, voters), p.peersOf(group, learners)
		r.Groups = append(r.Groups, row)
	}
	return r, nil
}

// peersOf are the peers of replicas, as far as they are known.
func (p *Peer) peersOf(group raft.GroupID, replicas []uint64) []cluster.PeerID {
	var list []cluster.PeerID
	for _, replica := range replicas {
		if id, ok := p.peerOf(group, replica); ok {
			list = append(list, id)
		}
	}
	return list
}

func (c *core) reportHandler() http.Handler {
	return transport.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		r, err := c.report()
		if err != nil {
			return err
		}
		return writeAnswer(w, r)
	})
}

// reports gathers the reports of all peers that answer in time, this one's too.
func (c *core) reports(ctx context.Context) (map[cluster.PeerID]report, error) {
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	own, err := c.report()
	if err != nil {
		return nil, err
	}
	all := map[cluster.PeerID]report{c.peer.id(): own}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, id := range c.peer.reachable() {
		wait.Go(func() {
			var r report
			if err := c.peer.getJSON(ctx, id, reportPath, maxReport, &r); err != nil {
				c.peer.log.Debug("no report", "peer", c.peer.nameOf(id), "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all[id] = r
		})
	}
	wait.Wait()
	return all, nil
}
