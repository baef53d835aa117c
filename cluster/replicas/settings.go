package replicas

import (
	"cmp"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
)

// RootGroup is the group that has Settings.RootVoters.
const RootGroup raft.GroupID = 1

// MaxVoters bounds the voters of a group: 9 survive the loss of any 4 peers, and each one more costs every command.
const MaxVoters = 9

// Settings are what an operator may choose.
type Settings struct {
	// Voters is how many voters a tablet has, at most MaxVoters and the peers that there are. An even number is rounded
	// down: its last voter survives nothing more. Zero means 1 at 1 or 2 peers, 3 at 3 or 4, and 5 from there on.
	Voters int
	// RootVoters is Voters for the root group.
	RootVoters int
	// Down is how long a peer must be unreachable until another takes its place. Zero means 10 minutes: a restart, also of
	// a machine, must not move names about.
	Down time.Duration
	// CatchUp is how long a learner may need until another peer is tried, and how long the first one is then left alone.
	// Zero means 30 minutes, in which a snapshot of 100 GiB arrives.
	CatchUp time.Duration
	// Spread is how long a peer waits between two leaderships that it gives away because it has more than others. Zero
	// means 5 minutes: a transfer costs its group a moment.
	Spread time.Duration
	// Settle is how long after an election a leadership stays where it is for that. Zero means 30 s.
	Settle time.Duration
}

func (s Settings) down() time.Duration    { return cmp.Or(s.Down, 10*time.Minute) }
func (s Settings) catchUp() time.Duration { return cmp.Or(s.CatchUp, 30*time.Minute) }
func (s Settings) spread() time.Duration  { return cmp.Or(s.Spread, 5*time.Minute) }
func (s Settings) settle() time.Duration  { return cmp.Or(s.Settle, 30*time.Second) }

// Target is how many voters a group should have when so many peers are active: an odd number, at least 1.
func (s Settings) Target(group raft.GroupID, active int) int {
	want := s.Voters
	if group == RootGroup {
		want = s.RootVoters
	}
	if want == 0 {
		want = automatic(active)
	}
	return odd(min(want, active, MaxVoters))
}

func automatic(active int) int {
	switch {
	case active < 3:
		return 1
	case active < 5:
		return 3
	}
	return 5
}

// odd rounds down to an odd number, but not below 1.
func odd(n int) int { return max(1, n-(n+1)%2) }

// majority is how many of so many voters must agree.
func majority(voters int) int { return voters/2 + 1 }
