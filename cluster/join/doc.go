// Package join lets peers into a cluster and out of it: the cluster's secrets as rows of the root group, join tokens,
// the conversation by which a new peer gets its id, its certificate and the secrets, the renewal of certificates, and
// revocation.
//
//	first peer        Found ── rows of the founding command ──────────────────────────────────► root group
//	operator          NewToken ── a row a token ──────────────────────────────────────────────► root group
//	joining peer      Join ── TLS, pinned ── Server of any peer ── one topology.Change ────────► root group
//	                    ◄── Answer: id, number, certificate, list, keys, peers ──┘
//	every peer        Renewer ── POST /join/1/renew ── Issuer of any other peer ◄── authority ── root group
//	every peer        Lists ◄── the list of whom the cluster trusts, when the topology's epoch changes ── root group
//	operator          Revoke ── one topology.Change ──────────────────────────────────────────► root group
//
// # The conversation
//
//	joining peer                                                          peer of the cluster
//	TLS 1.3, ALPN holdfast-join/1, the server's certificate is pinned by the token
//	head: token id, length and digest of the ask, proof ───────────────►  116 bytes, within 5 s
//	                                          ◄──────────────── go on     the proof is good: the rest is read
//	ask: request for a certificate, name, addresses, drives … ─────────►
//	                                          ◄──────────────── answer    or a refusal, at either place
//
// Everything that is signed in it is signed together with a value that belongs to this TLS connection alone (RFC 5705),
// so what was said on one connection is worth nothing on another, also to a peer that takes part and means harm.
//
// # What a token is good for
//
// A token admits one key. Admission is one command of the root group: the peer, its drives, and the token's row, which
// from then on names the peer and the key that it admitted. The command compares the revision of the row and the
// topology's epoch, so of two peers that use a token at the same moment, through whichever peers, one is refused.
//
// The row is replaced and not removed because an answer may be lost. The same key may ask again with the same token
// until it expires, and gets the same id and a certificate; nothing is changed by it. That is safe: it must prove on the
// new connection that it has the token's secret and the private key, and gets what it got before. Anybody else that has
// the token is told that it was used.
//
// A peer that stops for good before its answer came holds its name. It can come back with another token as soon as it
// has the same key (keep Ask.Request in a file), or the same drives; else an operator removes it.
//
// # Coming back
//
// A certificate that has expired opens nothing: that is what bounds how long revoked ids must be remembered. A peer that
// was off for longer than trust.Validity, or lost its files, joins again with a token and keeps its id and number. It
// says who it was, or its drives tell. The token is the operator's word and enough for that, unless the peer of that id
// seems to run: then the old key must sign as well. So a copy of a peer's drives does not take its place by mistake.
// Who was removed does not come back under its id.
//
// Whether such a peer has its Raft log is another matter: without it, it must not vote under its old replica ids.
//
// # Rules
//
//   - A peer must know the commands in use: its Ask.Command must be at least the lowest of the cluster's peers.
//   - Its clock must be within 15 minutes of the admitting peer's.
//   - Its name must be free. This, and everything else that can be refused, is refused before the token is used.
//   - Who has not proved to have a token is told nothing but that, and is read no more than 116 bytes of.
package join
