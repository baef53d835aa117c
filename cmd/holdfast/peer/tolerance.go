package peer

import (
	"cmp"
	"maps"
	"slices"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

// The names of groups in status.
var groupNames = map[raft.GroupID]string{rootGroup: "root", tabletGroup: "tablet"}

// groups are those of a cluster with one tablet, as people see them listed.
var groups = []raft.GroupID{rootGroup, tabletGroup}

// describeCluster fills peers, groups and drives from the topology and what the peers report.
func (c *core) describeCluster(st *admin.Status, reports map[cluster.PeerID]report) {
	m := c.watcher.Map()
	st.Epoch, st.Peer = uint64(m.Epoch), c.peer.id().String()
	st.Drives = c.allDrives(reports)
	for _, group := range groups {
		st.Groups = append(st.Groups, c.groupRow(group, &m, reports))
	}
	for _, other := range m.Members() {
		row := admin.Peer{
			ID: other.ID.String(), Name: other.Name, Number: int(other.Number), Zone: other.Zone, Rack: other.Rack, State: string(other.State),
			Peer: other.Peer, S3: other.S3,
		}
		r, up := reports[other.ID]
		if row.Up = up; up {
			row.Version, row.Uptime = r.Version, r.Uptime
		} else {
			row.Reason = c.whyDown(other.ID)
		}
		for _, d := range st.Drives {
			if d.Peer == other.Name {
				row.Drives++
				if d.State == string(slotUp) {
					row.DrivesUp++
				}
			}
		}
		for _, g := range st.Groups {
			if g.Leader == other.Name {
				row.Leads = append(row.Leads, g.Name)
			}
		}
		st.Peers = append(st.Peers, row)
	}
}

// whyDown says why a peer gives no report.
func (c *core) whyDown(id cluster.PeerID) string {
	for _, at := range c.links.peers.Status() {
		switch {
		case at.Peer != id:
		case at.Reachable:
			return "it does not report"
		case at.Err != nil:
			return oneLine(at.Err)
		}
	}
	return "it is not reachable"
}

// groupRow is a group as its leader knows it, else as the replica of the highest term does.
func (c *core) groupRow(group raft.GroupID, m *topology.Map, reports map[cluster.PeerID]report) admin.Group {
	row := admin.Group{ID: uint64(group), Name: groupNames[group], Target: wantVoters(group, m), Set: setVoters(group, m)}
	best, found := c.groupReport(group, reports)
	if !found {
		return row
	}
	row.Term = best.Term
	name := func(id cluster.PeerID) string {
		if p, ok := m.Peer(id); ok {
			return p.Name
		}
		return id.String()
	}
	if best.Leader != (cluster.PeerID{}) {
		row.Leader = name(best.Leader)
	}
	for _, id := range best.Voters {
		row.Voters = append(row.Voters, name(id))
	}
	for _, id := range best.Learners {
		row.Learners = append(row.Learners, name(id))
	}
	return row
}

// groupReport finds the best report of a group.
func (c *core) groupReport(group raft.GroupID, reports map[cluster.PeerID]report) (best groupReport, found bool) {
	rank := func(from cluster.PeerID, r groupReport) (leads bool, term uint64) { return r.Leader == from, r.Term }
	var bestFrom cluster.PeerID
	for from, r := range reports {
		for _, g := range r.Groups {
			if g.Group != group {
				continue
			}
			leads, term := rank(from, g)
			bestLeads, bestTerm := rank(bestFrom, best)
			if !found || term > bestTerm || term == bestTerm && leads && !bestLeads {
				best, bestFrom, found = g, from, true
			}
		}
	}
	return best, found
}

// namesTolerance says what a group may lose. Its names live on as long as a majority of its voters has its log, and go on
// at once as long as a majority of voters is up: the smaller of both counts.
func (c *core) namesTolerance(group raft.GroupID, reports map[cluster.PeerID]report) admin.Tolerance {
	best, found := c.groupReport(group, reports)
	nothing := admin.Tolerance{Drives: -1, Devices: -1, Peers: -1, Zones: -1}
	if !found || best.Leader == (cluster.PeerID{}) {
		return nothing
	}
	var logs []int // drives that each voter's log may lose, -1: the voter is not here
	for _, id := range best.Voters {
		r, up := reports[id]
		if !up {
			r.Tolerated = -1
		}
		logs = append(logs, r.Tolerated)
	}
	spare := spareVoters(logs)
	if spare < 0 {
		return nothing
	}
	m := c.watcher.Map()
	t := admin.Tolerance{
		Drives: spareLogs(logs), Peers: spare,
		Zones: spareDomains(best.Voters, reports, func(id cluster.PeerID) string { p, _ := m.Peer(id); return p.Zone }),
	}
	t.Devices = t.Peers
	if len(best.Voters) == 1 {
		t.Devices = c.ownDevices(t.Drives)
	}
	return t
}

// spareVoters is how many of the voters that are up may go before there is no majority.
func spareVoters(logs []int) int {
	up := 0
	for _, t := range logs {
		if t >= 0 {
			up++
		}
	}
	return up - (len(logs)/2 + 1)
}

// spareLogs is how many drives may be lost, the worst ones, before a majority of the voters has no log.
func spareLogs(logs []int) int {
	spare := spareVoters(logs)
	costs := slices.Clone(logs)
	slices.Sort(costs)
	drives := 0
	for _, t := range costs {
		if t < 0 {
			continue
		}
		drives += t + 1
		if spare--; spare < 0 {
			break
		}
	}
	return drives - 1
}

// spareDomains is how many domains may be lost, the worst ones, before no majority of the voters is left. One domain
// for all is none to lose.
func spareDomains(voters []cluster.PeerID, reports map[cluster.PeerID]report, domain func(cluster.PeerID) string) int {
	count := make(map[string]int)
	up := 0
	for _, id := range voters {
		if _, here := reports[id]; here {
			count[domain(id)]++
			up++
		}
	}
	sizes := make([]int, 0, len(count))
	for _, n := range count {
		sizes = append(sizes, n)
	}
	slices.SortFunc(sizes, func(a, b int) int { return b - a })
	spare := 0
	for _, n := range sizes {
		if up -= n; up < len(voters)/2+1 {
			break
		}
		spare++
	}
	return spare
}

// ownDevices is how many devices of this peer may go when its log may lose so many drives.
func (c *core) ownDevices(tolerated int) int {
	members := make(map[uint64]int)
	for _, m := range c.host.Mirrors().Members {
		if d, ok := c.peer.ownDrive(m.Drive); ok {
			members[d.Status().Device]++
		}
	}
	perDevice := make(map[uint64]int)
	for _, d := range c.peer.ownDrives() {
		perDevice[d.Status().Device]++
	}
	var onDevice []int // drives of each device, most first: the worst losses
	for _, n := range perDevice {
		onDevice = append(onDevice, n)
	}
	slices.SortFunc(onDevice, func(a, b int) int { return b - a })
	devices, lost := 0, 0
	for _, n := range onDevice {
		if lost += n; lost > tolerated || devices+1 >= len(members) {
			break
		}
		devices++
	}
	return devices
}

// wantVoters is how many voters a group should have.
func wantVoters(group raft.GroupID, m *topology.Map) int {
	active := 0
	for _, p := range m.Members() {
		if p.State == topology.Active {
			active++
		}
	}
	return voterSettings(m).Target(group, active)
}

// setVoters is what an operator chose for a group, 0 for nothing.
func setVoters(group raft.GroupID, m *topology.Map) int {
	if group == rootGroup {
		return m.Settings.RootVoters
	}
	return m.Settings.Voters
}

// voterSettings are the voters of an operator's choice, else those that the drives ask for.
func voterSettings(m *topology.Map) replicas.Settings {
	automatic := votersForDrives(drivesOfPeers(m))
	return replicas.Settings{
		Voters: cmp.Or(m.Settings.Voters, automatic), RootVoters: cmp.Or(m.Settings.RootVoters, automatic),
	}
}

// drivesOfPeers counts the drives of each peer that may vote. One that is silent counts: voters do not come and go with it.
func drivesOfPeers(m *topology.Map) []int {
	count := make(map[cluster.PeerID]int)
	for _, d := range m.Drives {
		if p, ok := m.Peer(d.Peer); ok && p.State == topology.Active && d.State != topology.Removed {
			count[d.Peer]++
		}
	}
	return slices.Collect(maps.Values(count))
}

// drivesToLose is how many drives bytes survive the loss of where there are twelve or more, and names should.
const drivesToLose = 4

// votersForDrives is how many voters it takes so that names survive what bytes do, 0 when as many as there always are
// will do. Five voters with two mirrors of the log each survive the loss of any four drives, but those of peers with one
// drive have one mirror: then it takes seven or nine.
func votersForDrives(drives []int) int {
	total := 0
	for _, n := range drives {
		total += n
	}
	if total < chunkstore.Shards {
		return 0 // bytes survive no more than five voters do
	}
	slices.Sort(drives)
	best, most := 0, 0
	for voters := 5; voters <= min(len(drives), replicas.MaxVoters); voters += 2 {
		// The worst loss: every mirror of a majority, on the peers that have the fewest.
		mirrors := 0
		for _, n := range drives[:voters/2+1] {
			mirrors += min(n, raft.MirrorsFor(voters))
		}
		if survives := min(mirrors-1, drivesToLose); survives > most {
			best, most = voters, survives
		}
	}
	if best == 5 {
		return 0
	}
	return best
}

// allDrives are the drives of all peers: as their own peer reports them, else as this one sees them.
func (c *core) allDrives(reports map[cluster.PeerID]report) []admin.Drive {
	m := c.watcher.Map()
	rows := []admin.Drive{}
	for _, other := range m.Members() {
		if r, ok := reports[other.ID]; ok {
			for _, d := range r.Drives {
				d.Peer = other.Name
				if id, err := cluster.ParseID(d.ID); err == nil {
					if known, ok := m.Drive(cluster.DriveID(id)); ok {
						d.Use = string(known.State)
					}
				}
				rows = append(rows, d)
			}
			continue
		}
		begin := len(rows)
		for _, known := range m.Drives {
			if known.Peer != other.ID || known.State == topology.Removed {
				continue
			}
			row := admin.Drive{ID: known.ID.String(), Name: known.Name, Peer: other.Name, Path: known.Path, State: string(slotDown),
				Reason: "its peer is not reachable", Use: string(known.State), Total: known.Size}
			if d, ok := c.peer.drives.Get(known.ID); ok {
				if st := d.Status(); st.Down == nil {
					row.State, row.Reason = string(slotUp), ""
					describeDrive(&row, st)
				}
			}
			rows = append(rows, row)
		}
		slices.SortFunc(rows[begin:], func(a, b admin.Drive) int { return compareNames(a.Name, b.Name) })
	}
	return rows
}

// driveName is what a person calls a drive: its name, with that of its peer where there are several.
func driveName(m *topology.Map, id cluster.DriveID) string {
	d, ok := m.Drive(id)
	if !ok {
		return id.String()
	}
	if p, ok := m.Peer(d.Peer); ok && len(m.Members()) > 1 {
		return p.Name + "/" + d.Name
	}
	return d.Name
}

// ownDriveRows are the directories of this peer, and the drives that it should have.
func (s source) ownDriveRows() []admin.Drive {
	known := make(map[cluster.DriveID]topology.Drive)
	m := s.peer.topology()
	for _, d := range m.Drives {
		if d.Peer == s.peer.id() && d.State != topology.Removed {
			known[d.ID] = d
		}
	}
	return s.driveRows(known)
}

var _ chunkstore.Drive = (*remoteDrive)(nil)
