// Package replicas keeps the members of every Raft group what they should be: as many voters as there are peers for, in
// distinct failure domains, none on a peer that is leaving or gone, and leaders spread over the peers.
//
//	topology, members, who is reachable ── Plan ── one Step ──► Worker on the peer that leads ─┬─ create, remove ─► Handler on a peer ─► raft.Host
//	      ▲                                                                                    └─ add, promote, remove, transfer ─► raft.Member
//	      └────────────────────────────────── what then is ◄───────────────────────────────────┘
//
// Plan is a pure function. It is asked again after every step, so nothing has to be remembered that matters: another
// leader, which knows nothing of the one before, goes on from what it finds.
//
// # What is promised
//
// A voter is replaced by a learner that has caught up, never by an empty replica; it goes only when the new one votes.
// No step is made that the voters which can be reached could not agree upon, before it and after it. A voter whose peer
// is unreachable stays one for 10 minutes, and for longer when no other peer can take its place. Leaderships are not spread
// while a voter cannot be reached.
//
// # Why a leftover can be removed
//
// A replica is made in two steps: it is created on its peer, and then added to the group. A leader may die between them,
// and a member that was taken out may never hear of it, so peers may hold replicas that are no members. Their leader
// removes them, and must not be wrong: a voter's replica would be lost. It goes like this:
//
//  1. It asks a peer what it holds (List) and finds a replica R.
//  2. Then it makes sure that it leads, by a Barrier, in a term T, and R is none of the members.
//  3. No change of the members is under way: Member.Remove says so before it says that there is nothing to remove.
//
// R was created by a leader of the term T or before, because by 2 there was no later one when R was seen. A leader adds
// what it created in the term that it created it in only (raft.Host.AddLearner), so an earlier one cannot add R any more;
// and the leader in T is this one, which does one thing at a time. Ids are never used again. So R will never be a member,
// and it does no harm if the request to remove it is late, repeated or lost.
//
// It is not removed at once: followers that do not know yet that a voter is out need its vote when their leader dies.
//
// # Why a lost replica can be replaced at once
//
// A peer may return without its drives, and hold no replica of a group whose member it is. The leader notes the members as of
// what it has applied and then asks the peer (List): a replica is created before it becomes a member, and no id is created
// twice, so a member that the peer does not hold when it answers it will never hold again. Such a voter counts as down
// without waiting, and its peer as one without a voter, which may get another replica with another id. Until that one has
// caught up and votes, the lost one stays a voter that does not answer.
//
// # What is not promised
//
// A group that grows from one voter to three has two for a moment, and needs both: also right after the third has become one,
// as long as the leader alone knows it.
package replicas
