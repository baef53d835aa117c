// Package membership tells who is alive and where, by gossip between the peers (hashicorp/memberlist).
//
// What it tells is a hint and never an authority. Who belongs to the cluster stands in the root group, and a peer proves
// who it is with its certificate when it is called; whoever holds the gossip key can make any member look dead, alive or
// moved. So a hint may choose whom to ask first, or what status shows. It may never choose what is stored, moved, deleted
// or acknowledged, nor who leads.
//
// # How it works
//
//	                Known, Allowed (the root group)
//	                       │
//	   ┌── rejoin ─────────┴── delegate ◄── events ──┐
//	   │ joins whoever is      refuses strangers     │
//	   │ not alive             keeps the members     │
//	   ▼                                             │
//	memberlist: probes, suspicion, gossip, push/pull ┘
//	   ▲
//	   │ only what is sealed with a key of the ring, for this cluster, for the first time, and of a known kind
//	 gate
//	   ▲
//	transport: UDP and TCP, or the one of the Config
//
// The gate stands before memberlist, because memberlist logs what it refuses and counts nothing, remembers no packet it
// has seen, and unpacks compressed messages that nobody here sends. What the gate has opened memberlist opens again: a
// packet is small and rare, and its own checks stay in force.
//
// # Promises
//
//   - Nothing is sent or taken in plain text. Without a key Start refuses.
//   - A member is only who Allowed says. Of two that use one id at two addresses the first keeps it until it is dead.
//   - Every known peer that is not alive is joined again every few seconds, for ever: memberlist alone never finds a
//     peer again that it held dead for longer than 30 s. After a partition of any length all see each other within 15 s.
//   - A subscriber that does not read blocks nothing. Close does not wait for peers that do not answer.
//
// A packet that was seen before is dropped while the gate remembers it (the last 32,768 at least). What is older than
// that is judged by memberlist's own numbers: it takes no news of a member that is not newer than what it has.
//
// Lock order: the lock of memberlist's node table, then Membership.mu. Membership never calls memberlist under mu. The
// functions of a Config are called under the former and must not block.
package membership
