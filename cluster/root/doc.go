// Package root is the root group: the small facts that the whole cluster agrees on. Its rows are opaque to it, by kind
// and name: buckets, users and access keys, peers, drives, placement groups, sessions, cluster information. Its counters
// give out numbers that are never given out again: bucket ids, sessions, blocks of chunk ids.
//
//	Client ─ Seat ─┬─ Local:  a replica on this peer ─ raft ─ Machine
//	               ├─ Remote: another peer ─ POST PathPrefix… ─ Handler ─ its Router.Here ─ Local
//	               └─ Router: whoever leads, here or there
//
// A row is changed by compare-and-swap on its revision, and several rows by one command, all or none. Every command of
// changes carries a nonce, and the machine remembers the nonces of the last changes with what became of each: a command
// that comes again changes nothing and gets the same answer, whatever others did meanwhile. A number that is given out
// twice over is merely skipped, and reads change nothing. So every call may be repeated after any loss, and a Router
// does.
//
// Reads are linearizable; Stale reads what a replica happens to know. FORMAT.md has the bytes.
package root
