// Package admin is the operator API: what a peer answers under /-/admin/ and the client that asks. Every answer is
// JSON, every request is signed with SigV4 by the root access key. GET changes nothing, but that fsck hands what it
// finds to repair.
//
//	GET /-/admin/status              Status
//	GET /-/admin/drives              []Drive
//	GET /-/admin/volumes             []Volume
//	GET /-/admin/fsck[?deep=true]    a stream of FsckEvent, one JSON object a line, the last one with Report set
//	POST /-/admin/token?life=10m     Token
//	POST /-/admin/peer?peer=NAME&do=drain|undrain|rm[&force=true]           Done
//	POST /-/admin/drive?drive=PEER/NAME&do=drain|undrain|rm[&force=true]    Done
//	POST /-/admin/drives?path=DIR                                           Done
//	POST /-/admin/settings?voters=N&root_voters=N                           Done
//
// What cannot be done is answered with 404 (there is no such thing), 409 (not as things are; ErrDeclined) or 503 (not now),
// and a sentence.
package admin

import (
	"errors"
	"time"
)

// ErrDeclined marks an answer of a Source that is no trouble of the cluster: what was asked for is not done as things are.
var ErrDeclined = errors.New("declined")

// declined is an error that is ErrDeclined and says only what it says.
type declined struct{ error }

func (d declined) Is(target error) bool { return target == ErrDeclined }
func (d declined) Unwrap() error        { return d.error }

// Declined makes err an ErrDeclined.
func Declined(err error) error { return declined{err} }

// Prefix is where the API lives on the S3 listener. No bucket name can begin with a hyphen.
const Prefix = "/-/admin/"

// Status is the whole state of a peer as an operator asks for it. Ready false means that S3 requests are refused
// now, and Reasons says why; the other fields then hold what is known without the catalog.
type Status struct {
	Ready    bool          `json:"ready"`
	Names    bool          `json:"names"` // the names answered: Losses, Protection, Content and Waiting are filled
	Reasons  []string      `json:"reasons,omitempty"`
	Version  string        `json:"version"`
	Cluster  string        `json:"cluster"`
	Peer     string        `json:"peer"`
	Name     string        `json:"name"`
	Endpoint string        `json:"endpoint"`
	Uptime   time.Duration `json:"uptime_ns"`

	// Epoch numbers the topology.
	Epoch uint64 `json:"topology_epoch"`
	// Peers are those of the cluster; Groups are the Raft groups that keep its names.
	Peers  []Peer  `json:"peers"`
	Groups []Group `json:"groups"`

	DrivesUp   int      `json:"drives_up"`
	Drives     []Drive  `json:"drives"`
	Losses     Losses   `json:"losses_tolerated"`
	Protection Shortage `json:"under_protected"`
	Moving     Moving   `json:"moving"`
	Work       []Work   `json:"work"`
	Content    Content  `json:"content"`
	Waiting    Waiting  `json:"waiting"`
	Memory     Memory   `json:"memory"`
	Traffic    Traffic  `json:"traffic"`
}

// Whole tells that everything is as it should be: the peer serves, every drive is up and has room, nothing is
// under-protected.
func (s *Status) Whole() bool {
	for _, d := range s.Drives {
		if d.Reason != "" {
			return false
		}
	}
	for _, p := range s.Peers {
		if !p.Up {
			return false
		}
	}
	for _, g := range s.Groups {
		if g.Leader == "" {
			return false
		}
	}
	return s.Ready && s.DrivesUp == len(s.Drives) && s.Protection.Chunks == 0 && s.Protection.Volumes == 0
}

// Peer is one peer of the cluster.
type Peer struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Number int    `json:"number"`
	Zone   string `json:"zone,omitempty"`
	Rack   string `json:"rack,omitempty"`
	// State is active or draining.
	State string `json:"state"`
	// Up says that the peer that was asked reaches it; Reason says why not.
	Up     bool   `json:"up"`
	Reason string `json:"reason,omitempty"`
	// Peer and S3 are where it listens, as host:port.
	Peer    string        `json:"peer_address"`
	S3      string        `json:"s3_address"`
	Version string        `json:"version,omitempty"`
	Uptime  time.Duration `json:"uptime_ns,omitempty"`
	// Drives are those that the cluster knows there, DrivesUp those that work.
	Drives   int `json:"drives"`
	DrivesUp int `json:"drives_up"`
	// Leads are the groups that it leads.
	Leads []string `json:"leads,omitempty"`
}

// Group is one Raft group: the root group, or a tablet.
type Group struct {
	ID   uint64 `json:"id"`
	Name string `json:"name"` // root, tablet
	// Leader is the name of a peer, empty while nobody leads.
	Leader   string   `json:"leader,omitempty"`
	Term     uint64   `json:"term"`
	Voters   []string `json:"voters"`
	Learners []string `json:"learners,omitempty"`
	// Target is how many voters it should have. Set is what an operator chose, 0 for as many as suit the peers.
	Target int `json:"target"`
	Set    int `json:"voters_set"`
}

// Drive is one drive directory. State is one of the table in docs/cli.md; Reason is a sentence when it is not up, or up
// and full.
type Drive struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Peer   string `json:"peer"` // its name
	Path   string `json:"path"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	// Use is active, or draining while the drive is being emptied.
	Use     string `json:"use,omitempty"`
	Device  uint64 `json:"device"`
	Total   int64  `json:"total_bytes"`
	Free    int64  `json:"free_bytes"`
	Shards  int64  `json:"shards"`
	Bytes   int64  `json:"bytes"`
	Damaged int64  `json:"damaged_records"`
}

// Losses says how many more losses everything survives, right now.
type Losses struct {
	Bytes Tolerance `json:"bytes"`
	Names Tolerance `json:"names"`
	Root  Tolerance `json:"root"`
}

// Tolerance counts losses of drives (directories), of devices (what the directories lie on), of peers, and of zones.
// Negative: something cannot be read now.
type Tolerance struct {
	Drives  int `json:"drives"`
	Devices int `json:"devices"`
	Peers   int `json:"peers"`
	Zones   int `json:"zones"`
}

// Shortage counts what is protected less than it should be. Both reach 0 when repair is done.
type Shortage struct {
	// Chunks is the exact number of chunks with shards missing.
	Chunks int64 `json:"chunks"`
	// Volumes is the number of volumes with shards away from their home drives.
	Volumes int64 `json:"volumes"`
}

// Moving is what is left to be moved to where the topology wants it, about: after peers or drives came, or are drained.
type Moving struct {
	Volumes int64 `json:"volumes"`
	Bytes   int64 `json:"bytes"`
	// Homeless is the number of volumes that must leave a drive and have nowhere to go.
	Homeless int64 `json:"homeless_volumes"`
}

// Work is one background worker.
type Work struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Error string `json:"error,omitempty"`
}

// Content counts what is stored. Factor is bytes on drives for each byte of data, 0 when there is none.
type Content struct {
	Buckets      int64   `json:"buckets"`
	Objects      int64   `json:"objects"`
	Bytes        int64   `json:"bytes"`
	Versions     int64   `json:"noncurrent_versions"`
	VersionBytes int64   `json:"noncurrent_bytes"`
	Uploads      int64   `json:"uploads"`
	PartBytes    int64   `json:"part_bytes"`
	Stored       int64   `json:"stored_bytes"`
	Factor       float64 `json:"storage_factor"`
}

// Waiting counts what is not finished.
type Waiting struct {
	// Freed is the number of rows of freed chunks that wait for their time (or for a drive) to be deleted.
	Freed int64 `json:"freed_rows"`
	// Sweep is the number of freed rows whose chunks are shared with other versions: sweep decides on them.
	Sweep int64 `json:"shared_rows"`
	// Remains is the number of chunks of writes that failed and left shards behind, for sweep.
	Remains int64 `json:"failed_write_remains"`
	// Staged is the number of files that a mount made durable and has not published.
	Staged int64 `json:"staged_files"`
}

// Memory is the budget of row buffers in bytes, and the process' resident set.
type Memory struct {
	Budget   int64 `json:"budget_bytes"`
	InUse    int64 `json:"in_use_bytes"`
	Resident int64 `json:"resident_bytes"`
}

// Traffic counts bytes since the peer started.
type Traffic struct {
	Written int64 `json:"written_bytes"` // data acknowledged
	Read    int64 `json:"read_bytes"`    // data given to readers
	// FromDrives is the payload of shards that was read from drives.
	FromDrives int64 `json:"read_from_drives_bytes"`
}

// Token is a join token, the only copy of its secret. Addresses are where a peer that joins with it asks.
type Token struct {
	Token     string    `json:"token"`
	Expires   time.Time `json:"expires"`
	Addresses []string  `json:"addresses"`
}

// Settings are what holds for the whole cluster. A nil field stays as it is.
type Settings struct {
	// Voters and RootVoters are how many voters a tablet and the root group have: odd, at most 9, or 0 for as many as suit
	// the peers.
	Voters, RootVoters *int
}

// Done says what an action came to, in a sentence.
type Done struct {
	Said string `json:"said"`
}

// What can be done to a peer or a drive.
const (
	Drain   = "drain"
	Undrain = "undrain"
	Remove  = "rm"
)

// Volume is one volume row.
type Volume struct {
	ID    uint64   `json:"id"`
	Group uint32   `json:"group"`
	Epoch uint64   `json:"epoch"`
	State string   `json:"state"`
	Slots []string `json:"slots"` // drive names (or ids of drives that are not here), by shard
	Away  int      `json:"away"`  // shards that are not on their home drive
}

// FsckEvent is one line of the answer of fsck. Exactly one field is set.
type FsckEvent struct {
	Progress *FsckProgress `json:"progress,omitempty"`
	Problem  *FsckProblem  `json:"problem,omitempty"`
	Report   *FsckReport   `json:"report,omitempty"`
	Error    string        `json:"error,omitempty"`
}

// FsckProgress is said about once a second.
type FsckProgress struct {
	Versions int64 `json:"versions"`
	Chunks   int64 `json:"chunks"`
	Bytes    int64 `json:"bytes"`
}

// FsckProblem is one thing that is wrong. Kind is "lost" (bytes cannot be read), "missing" (shards are not on their
// drives), "damaged" (shards fail their digest) or "manifest" (a record that cannot be read).
type FsckProblem struct {
	Kind    string `json:"kind"`
	Bucket  string `json:"bucket,omitempty"`
	Key     string `json:"key,omitempty"`
	Version string `json:"version,omitempty"`
	Chunk   string `json:"chunk,omitempty"`
	Detail  string `json:"detail"`
}

// FsckReport is what a whole check found.
type FsckReport struct {
	Deep     bool          `json:"deep"`
	Took     time.Duration `json:"took_ns"`
	Versions int64         `json:"versions"`
	Parts    int64         `json:"parts"`
	Chunks   int64         `json:"chunks"`
	Bytes    int64         `json:"bytes"`
	Shards   int64         `json:"shards"`
	// Lost chunks cannot be rebuilt from what is here now; Degraded ones can, with shards missing or damaged.
	Lost     int64 `json:"lost_chunks"`
	Degraded int64 `json:"degraded_chunks"`
	// Unreadable records name bytes in a way that could not be read.
	Unreadable int64 `json:"unreadable_records"`
	// Orphans are shards on drives that no name and no freed row mentions: left by a crash, for sweep.
	Orphans     int64 `json:"orphan_shards"`
	OrphanBytes int64 `json:"orphan_bytes"`
	Freed       int64 `json:"freed_rows"`
	Shared      int64 `json:"shared_rows"`
	Staged      int64 `json:"staged_files"`
	// DrivesDown are drives that could not be asked, so that their shards count as missing.
	DrivesDown int `json:"drives_down"`
}

// Sound tells that every byte can be read and is as protected as it should be.
func (r *FsckReport) Sound() bool {
	return r.Lost == 0 && r.Degraded == 0 && r.Unreadable == 0 && r.DrivesDown == 0
}
