// Package raft drives many etcd-io/raft groups on one peer over one shared, mirrored log.
//
//	Propose ─ RawNode.Ready ─┬─ log (every mirror fsynced, group commit across groups) ─ committed entries ─ Machine.Apply
//	                         └─ messages to other peers (one voter has none)
//
// The log is the durability. It is a segmented, checksummed file of our own, written alike on as many drives as the
// voters of a group ask for (5 mirrors for one voter, so that no 4 drive losses lose a name). The state in package kv
// is a cache of it: when it is missing, damaged or behind, it is rebuilt from a checkpoint and the log.
//
// # How it works
//
// The picture, with one voter and twelve drives:
//
//	callers ── Propose ──► inbox ──► worker ──► RawNode of each group ──► records of all groups
//	                                   │                                        │ one frame
//	                                   │             ┌──────────┬──────────┬────┴─────┬──────────┐
//	                                   │          mirror 1   mirror 2   mirror 3   mirror 4   mirror 5   (one synced write each)
//	                                   │             └──────────┴──────────┴────┬─────┴──────────┘
//	                                   │                                        │ all members have it
//	callers ◄── result ──── Machine.Apply ◄── committed entries ◄───────────────┘
//	                                   │
//	                                   └── one batch {effects, applied index, hash of history} ──► state DB (not synced)
//
// The worker owns every RawNode. While the mirrors sync one frame it applies the entries of the frame before, and the
// next proposals gather. The keeper makes the next segments, new mirrors and checkpoints. The supervisor opens log and
// state again when either breaks: a broken state is rebuilt and the proposals wait; a lost log refuses them until
// drives return.
//
// What a crash leaves, and what the next start makes of it:
//
//	crash                                          found                              done
//	---------------------------------------------  ---------------------------------  -------------------------------------
//	before any mirror has the frame                no copy of frame n+1               the log ends with n; nobody was told
//	while mirrors write it                         torn copies                        as above; the place is overwritten
//	after some mirrors have it                     whole on some                      kept, written to the others
//	the process dies, or every sync fails          whole in page caches               kept, written again and synced
//	after all have it, before the answer           whole on all                       kept: the proposer does not know
//	between header and first frame of a segment    frame without a header             the header follows from the frame before
//	while the state DB writes                      a prefix of the batches            the log is replayed from its applied index
//	while the state DB is rebuilt                  no applied rows                    it is rebuilt again
//	while a checkpoint is written                  a .tmp file                        overwritten by the next one
//	before all mirrors renamed a checkpoint        it is whole on some                used; the others get it
//	while segments are retired                     old ones on some mirrors           ignored when a gap follows, else read
//	while a mirror is made                         a drive that is no member          emptied before it becomes one
//	after a promise, before a new set              a higher ballot, the old set       the old set counts
//	while drives learn a new set                   it on some drives                  its members are a subset with everything
//	                                                                                  acknowledged, or were copied whole: it counts
//	while a hurt copy is rewritten                 a .tmp file                        it is rewritten again
//
// Replicas of groups of several peers come and go. Their lives are records of the log too, and the state follows:
//
//	crash                                          found                              done
//	---------------------------------------------  ---------------------------------  -------------------------------------
//	after a replica's creation is in the log       no rows of it in the state         it begins in the state
//	  ... and rows of an earlier replica there     rows with another stamp            they are cleared, it begins
//	after its removal is in the log                its rows, or some of them          they are cleared; the applied row last
//	while a snapshot comes in                      a .tmp file                        removed: the old state counts
//	before all mirrors gave it its name            it is whole on some                removed: no record names it
//	after its record is on some mirrors            the frame is whole on some         kept, written to the others: the new
//	                                                                                  state counts, and is filled from the file
//	while the state is filled from it              no applied row of the group        filled again from the file
//	after the state was filled                     the applied row of the snapshot    nothing: what follows is replayed
//	while a checkpoint takes its place             files that no restore needs        kept until the second checkpoint
//
// A snapshot replaces state and log of a group in one record. So a replica has the old state or the new one, and
// acknowledges the snapshot to its leader only when the record is on all mirrors. While the state is filled, the other
// groups work on; what the group commits meanwhile is in its log and is applied afterwards.
//
// What goes from peer to peer:
//
//	leader ── batches: one per peer and round, the heartbeats of all groups in it ──► Host.Receive ──► inbox ──► worker
//	leader ── a stream of blocks, paced ──► Host.Install ──► file on every mirror ──► record in the log ──► state
//
// A leader says what it appends while its own log writes it, and counts itself when that is durable. Everybody else
// speaks after its log has what it speaks of.
//
// # Elections while members change
//
// Raft's library uses a change of the members once it is applied, and a follower applies it when its leader has said that
// it is committed. A leader may die before it has said so to all. Then a replica with the longest log, whose vote the
// others need, may not stand for election itself: a learner that has the entry which makes it a voter, or a voter that
// knows better than the others that it is out. Nobody would be elected until the leader is back, although a majority is
// there.
//
// So whoever asks for votes, or refuses one, says which entry it knows to be committed, by index and term. Whoever has that
// entry, and a change of the members among those up to it that it did not know to be committed, now knows it and applies it.
//
// It is safe: that an entry is committed is true for ever, whoever says it and however late. An entry with the same index
// and term is the same, with the same entries before it (Raft's log matching), so what is applied is what the group agreed
// upon. No vote, no term and no entry changes by it, and the majorities are those of before.
//
// It is enough: let M have the longest log of a majority that is there, and let the others refuse whoever has less. What
// any of them knows to be committed M has, because a log that is at least as up to date has all that is committed before
// its end. Who needs M's vote asks M for it: M hears what the asker knows. If the asker counts M as a voter, so does M from
// then on, and stands for election itself; its log is the longest, so it wins. If M knows that it is out, its refusal says
// so; an asker that has the entry needs M no longer, and one that has it is there, because the entry is committed.
//
// A change that the lost leader alone knew to be committed has not been made yet for those who are left: they need a
// majority of the members before it.
//
// TiKV's raft-rs does alike. To hold proposals back while a change is under way would help most of these cases, but not
// that of a next leader whose first entry follows a change that it does not know to be committed.
//
// What damage leaves is in recover.go and view.go, why a mirror set can be trusted at mirrorSet, the bytes in FORMAT.md.
//
// Lock order: core.changing, mirroredLog.joining, core.checkpointing, mirroredLog.mu, drive.vote, drive.files, drive.io, Host.mu.
package raft
