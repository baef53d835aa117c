// Package membership tells who is alive and where, by gossip between the peers (hashicorp/memberlist).
//
// What it tells is a hint and never an authority. Who belongs to the cluster stands in the root group, and a peer proves
// who it is with its certificate when it is called. Whoever holds the gossip key can still make any member look dead or
// alive. So a hint may choose whom to ask first, or what status shows. It may never choose what is stored, moved,
// deleted or acknowledged, nor who leads.
//
// # How it works
//
//	                Known, Allowed, Verify (the root group)
//	                       │
//	   ┌── rejoin ─────────┴── delegate ── lives ◄── events ──┐
//	   │ joins whoever is      refuses strangers   one peer's │
//	   │ not alive             and forgeries       processes  │
//	   ▼                                                      │
//	memberlist: probes, suspicion, gossip, push/pull ─────────┘
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
// To memberlist a node is one process: a peer and its incarnation, a number that grows with every start. memberlist
// alone lets no node that is not dead move to another address; a peer that starts again somewhere else is a new node to
// it instead, and needs nobody's death to be found. Of the processes of one peer Members shows the newest that is up.
//
// What a process tells of itself is signed with its peer's key, together with the cluster, the peer, the incarnation and
// the address where it takes gossip (FORMAT.md). What memberlist adds, its own numbers and the word that somebody is
// suspect or dead, is not.
//
// # Promises
//
//   - Nothing is sent or taken in plain text. Without a key Start refuses.
//   - A member is only who Allowed says, and only as its own signature says. The gossip key alone makes nobody a member
//     and moves none.
//   - A peer that starts again is found as soon as it has joined one other, wherever it runs now. A peer that runs twice
//     is shown once, as its newest process, and counted in Stats.Duplicates. Two with one incarnation are shown as the one
//     that was there first.
//   - Every known peer that is not alive is joined again every few seconds, for ever: memberlist alone never finds a
//     peer again that it held dead for longer than 30 s. After a partition of any length all see each other within 15 s,
//     and within that much less when all of Timing is less.
//   - Gossip keys change while everybody runs: AddKey on every peer, then UseKey on every peer, then RemoveKey on every
//     peer. Who missed it is refused, counted in Stats.WrongKey, and back when it is told the key.
//   - What is refused is counted by its reason. No bytes from outside end the process.
//   - A subscriber that does not read blocks nothing. Close does not wait for peers that do not answer.
//
// A packet that was seen before is dropped while the gate remembers it (the last 32,768 at least). What is older than
// that is judged by memberlist's own numbers: it takes no news of a process that is not newer than what it has.
//
// What is not promised: that who is shown alive answers, that who is shown dead does not, that two peers see the same,
// and that a peer whose clock went back between two starts is found before its predecessor is dead, unless the caller
// gives the incarnation.
//
// # How a peer uses it
//
// The root group's rows of peers give Known (id and gossip address), Allowed (the row exists) and Verify (the public key
// of the certificate that the row holds). Sign takes the key of the peer's own certificate. All four must answer from
// memory, and may not call back.
//
//	gossip, err := membership.Start(membership.Config{
//		Cluster: identity.Cluster, Self: identity.Peer, Keys: keyring.Gossip,
//		Data:  membership.Data{Name: name, Zone: zone, Rack: rack, Peer: peerAddr, S3: s3Addr, Incarnation: starts},
//		Bind:  listen, Advertise: public,
//		Known: peers.Addresses, Allowed: peers.Has, Sign: credentials.Sign, Verify: peers.Verify,
//	})
//	changes, cancel := gossip.Subscribe() // then gossip.Members() for status, and for whom to ask first
//
// A committed change of the gossip keys becomes AddKey, UseKey or RemoveKey, each step when every peer has done the one
// before. A renewed certificate goes into the peer's row first, then Renew is called. On the way out Leave, then Close.
//
// Lock order: Membership.leave, the lock of memberlist's node table, Membership.mu. Membership never calls memberlist
// under mu. The functions of a Config are called under memberlist's lock and must not block.
package membership
