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
// What damage leaves is in recover.go and view.go, why a mirror set can be trusted at mirrorSet, the bytes in FORMAT.md.
//
// Lock order: core.checkpointing, mirroredLog.mu, drive.vote, drive.files, drive.io, Host.mu.
package raft
