package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

// statusPatience is how long a status waits for names that do not answer.
const statusPatience = 5 * time.Second

// errWaiting says that a question needs the names, which are not open.
var errWaiting = errors.New("the peer waits for its drives")

// source answers the operator API; core is nil while the peer waits.
type source struct {
	peer *Peer
	core *core
}

var _ admin.Source = source{}

// Status implements admin.Source.
func (s source) Status(ctx context.Context) (*admin.Status, error) {
	p := s.peer
	st := &admin.Status{
		Reasons: p.notReady(), Version: p.config.Version, Cluster: p.cluster.String(), Name: p.config.Name,
		Endpoint: p.Endpoint(), Uptime: p.seams.Now().Sub(p.started), Work: []admin.Work{},
	}
	st.Ready = len(st.Reasons) == 0
	resident, err := residentBytes()
	if err != nil {
		return nil, err
	}
	st.Memory.Resident = resident
	if s.core == nil {
		st.Drives = s.driveRows(nil)
		st.DrivesUp = countUp(st.Drives)
		return st, nil
	}
	reports, err := s.core.reports(ctx)
	if err != nil {
		return nil, err
	}
	own := reports[p.id()]
	st.Work, st.Traffic, st.Memory = own.Work, own.Traffic, own.Memory
	s.core.describeCluster(st, reports)
	st.DrivesUp = countUp(st.Drives)
	err = s.core.fillFromNames(ctx, st, reports)
	st.Names = err == nil
	if err != nil {
		// An operator asks most when names do not answer: what is known without them is shown then, and why.
		st.Ready = false
		st.Reasons = append(st.Reasons, oneLine(err))
	}
	return st, nil
}

// oneLine writes an error, which may be several joined, on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// fillFromNames fills what only the names know.
func (c *core) fillFromNames(ctx context.Context, st *admin.Status, reports map[cluster.PeerID]report) error {
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	return errors.Join(c.health(ctx, st, reports), c.content(ctx, st))
}

// health fills what the floor of bytes and the logs know.
func (c *core) health(ctx context.Context, st *admin.Status, reports map[cluster.PeerID]report) error {
	h, err := c.chunks.Health(ctx)
	if err != nil {
		return fmt.Errorf("health of the chunk store: %w", err)
	}
	st.Losses.Bytes = admin.Tolerance{Drives: h.DriveLosses, Devices: h.DeviceLosses, Peers: h.PeerLosses, Zones: h.ZoneLosses}
	short := int64(h.Intents)
	for _, r := range reports {
		if r.Repair != nil {
			short = max(short, r.Repair.UnderProtected)
			st.Waiting.Remains = r.Repair.Remains
		}
		if b := r.Balance; b != nil {
			st.Moving = admin.Moving{Volumes: int64(b.Volumes), Bytes: b.Bytes, Homeless: int64(b.Homeless)}
		}
	}
	st.Protection = admin.Shortage{Chunks: short, Volumes: int64(h.UnderVolumes)}
	st.Memory.Budget, st.Memory.InUse = h.MemoryTotal, h.MemoryUsed
	st.Losses.Root = c.namesTolerance(rootGroup, reports)
	st.Losses.Names = c.namesTolerance(tabletGroup, reports)
	for _, d := range st.Drives {
		st.Content.Stored += d.Bytes
	}
	return nil
}

// content fills the counts of what is stored, which the catalog keeps exact with every change.
func (c *core) content(ctx context.Context, st *admin.Status) error {
	buckets, err := c.names.Buckets(ctx)
	if err != nil {
		return err
	}
	t := &st.Content
	for _, b := range buckets {
		u, err := c.names.Usage(ctx, b.ID)
		if err != nil {
			return fmt.Errorf("usage of bucket %s: %w", b.Name, err)
		}
		t.Buckets++
		t.Objects += u.Objects
		t.Bytes += u.Bytes
		t.Versions += u.Versions
		t.VersionBytes += u.VersionBytes
		t.Uploads += u.Uploads
		t.PartBytes += u.PartBytes
	}
	if data := t.Bytes + t.VersionBytes + t.PartBytes; data > 0 {
		t.Factor = float64(t.Stored) / float64(data)
	}
	counts, err := c.names.Counts(ctx)
	if err != nil {
		return err
	}
	st.Waiting.Freed, st.Waiting.Sweep, st.Waiting.Staged = counts.Freed, counts.Shared, counts.Staged
	return nil
}

// Drives implements admin.Source.
func (s source) Drives(ctx context.Context) ([]admin.Drive, error) {
	if s.core == nil {
		return s.driveRows(nil), nil
	}
	reports, err := s.core.reports(ctx)
	if err != nil {
		return nil, err
	}
	return s.core.allDrives(reports), nil
}

func countUp(drives []admin.Drive) int {
	n := 0
	for _, d := range drives {
		if d.State == string(slotUp) {
			n++
		}
	}
	return n
}

// driveRows joins the configured directories with the drives that the cluster knows: each directory is a row, named
// for the drive in it, or for the one that should be there; a known drive without a directory is a row too.
func (s source) driveRows(known map[cluster.DriveID]topology.Drive) []admin.Drive {
	rows := []admin.Drive{}
	var empty []int // rows without a drive of this cluster in them
	found := make(map[cluster.DriveID]bool)
	for _, slot := range s.peer.slots {
		state := slot.report()
		row := admin.Drive{Name: path.Base(slot.path), Path: slot.path, State: string(state.kind), Reason: state.reason}
		if ours := state.identity.Cluster == s.peer.cluster && state.kind != slotTwice; ours && state.identity.Name != "" {
			row.ID, row.Name = state.identity.Drive.String(), state.identity.Name
			found[state.identity.Drive] = true
		} else {
			empty = append(empty, len(rows))
		}
		if d, open := s.peer.drives.Get(state.identity.Drive); open && (state.kind == slotUp || state.kind == slotHanging) {
			describeDrive(&row, d.Status())
		}
		rows = append(rows, row)
	}
	rows = nameEmpty(rows, empty, known, found)
	slices.SortStableFunc(rows, func(a, b admin.Drive) int { return compareNames(a.Name, b.Name) })
	return rows
}

func describeDrive(row *admin.Drive, st chunkstore.DriveStatus) {
	row.Device, row.Total, row.Free = st.Device, st.Total, st.Free
	row.Shards, row.Bytes, row.Damaged = st.Shards, st.Bytes, st.Damaged
	switch {
	case st.Down != nil:
		row.State, row.Reason = string(slotDown), st.Down.Error()
	case st.Full && row.Reason == "":
		// Full is not down: it serves reads and deletes.
		row.Reason = "it is full: no new shards go there"
	}
}

// nameEmpty gives each directory without a drive the name of the missing drive that was last seen there, else of any
// missing one, and adds rows for those that are left.
func nameEmpty(rows []admin.Drive, empty []int, known map[cluster.DriveID]topology.Drive, found map[cluster.DriveID]bool) []admin.Drive {
	var missing []cluster.DriveID
	for id := range known {
		if !found[id] {
			missing = append(missing, id)
		}
	}
	slices.SortFunc(missing, func(a, b cluster.DriveID) int { return compareNames(known[a].Name, known[b].Name) })
	take := func(i int, id cluster.DriveID) {
		rows[i].ID, rows[i].Name = id.String(), known[id].Name
		missing = slices.DeleteFunc(missing, func(m cluster.DriveID) bool { return m == id })
		empty = slices.DeleteFunc(empty, func(e int) bool { return e == i })
	}
	for _, i := range slices.Clone(empty) {
		for _, id := range slices.Clone(missing) {
			if known[id].Path == rows[i].Path {
				take(i, id)
				break
			}
		}
	}
	for _, i := range slices.Clone(empty) {
		if len(missing) > 0 {
			take(i, missing[0])
		}
	}
	for _, id := range missing {
		rows = append(rows, admin.Drive{ID: id.String(), Name: known[id].Name, Path: known[id].Path,
			State: string(slotMissing), Reason: "no directory of --drives holds it"})
	}
	return rows
}

// compareNames orders d2 before d10.
func compareNames(a, b string) int {
	split := func(s string) (string, int) {
		stem := strings.TrimRight(s, "0123456789")
		n, err := strconv.Atoi(s[len(stem):])
		if err != nil {
			return s, -1
		}
		return stem, n
	}
	stemA, numA := split(a)
	stemB, numB := split(b)
	if stemA != stemB {
		return strings.Compare(stemA, stemB)
	}
	return numA - numB
}

// Volumes implements admin.Source.
func (s source) Volumes(ctx context.Context) ([]admin.Volume, error) {
	if s.core == nil {
		return nil, errWaiting
	}
	known := s.core.watcher.Map()
	rows := []admin.Volume{}
	err := chunkstore.EachVolume(ctx, s.core.volumes(), func(v chunkstore.Volume) error {
		row := admin.Volume{ID: uint64(v.ID), Group: v.Group, Epoch: uint64(v.Epoch), State: "open"}
		if v.State == chunkstore.VolumeSealed {
			row.State = "sealed"
		}
		for i, id := range v.Slots {
			row.Slots = append(row.Slots, driveName(&known, id))
			if id != v.Home[i] {
				row.Away++
			}
		}
		rows = append(rows, row)
		return nil
	})
	return rows, err
}

// residentBytes is the memory of this process that is in RAM.
func residentBytes() (int64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/self/statm holds %q", text)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
