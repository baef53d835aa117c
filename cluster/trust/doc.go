// Package trust says who is who between the peers of a cluster: the cluster's certificate authority, the certificates
// it signs, the one-time tokens a new peer joins with, and the TLS configurations that check all of it at each
// handshake and each call. It computes: files, connections and the root group belong to the caller.
//
// # How it works
//
// The first peer makes the Authority, whose bytes are kept in the root group. Everybody else comes in by a token:
//
//	operator          joining peer                                          peer of the cluster          root group
//	   │ ◄──────────────── NewToken ────────────────────────────────────────── Token, Verifier ────────► keeps Verifier
//	   │ ── Token.Encode ──► ParseToken                                            │                         │
//	   │                     PinnedConfig(Token.Pin) ◄──── TLS 1.3 ────► Store.JoinConfig                    │
//	   │                     NewRequest ── token id, request, proof ─────────────► │ ──────────────────────► Accepts, once
//	   │                     Request.Complete ◄──── certificate, List ──────────── │ ◄── Authority.Issue ─── gives the id
//	   │                     NewStore
//
// From then on peers meet with certificates on both sides: Store.ServerConfig and Store.ClientConfig. A certificate
// names the cluster, its holder and the holder's roles in URIs and nothing else: no host name, no address.
//
//	holdfast://<cluster id>/<role>/<peer id>      a holder, one URI a role
//	holdfast://<cluster id>/authority             the authority itself
//
// The List says whom the cluster trusts: the authorities, two while one replaces the other, and the ids that were
// revoked. It lives in the root group and has an epoch, so that a list that arrives late takes nothing back. A Store
// takes a new list or new credentials while it runs; handshakes from then on, and calls on connections that are
// already open, are judged by them.
//
// # Promises
//
//   - There is no way in without a certificate: no plain text, no TLS below 1.3, no resumed session, no configuration
//     that turns the checks off.
//   - What a request for a certificate says about its sender counts for nothing. Only its key is taken.
//   - A token's secret never leaves the joining peer. What goes over the wire is a signature of this one request, made
//     with a key that follows from the secret; what the root group keeps is that key's public half. So neither who reads
//     the root group, nor a peer that takes the request in and means harm, can let anybody else join. Package join makes
//     the request: it binds it to the connection.
//   - Every call is judged by the caller's role now, by a table that denies what it does not list.
//   - A peer that was revoked makes no further call once the new list is there, on old connections neither.
//   - Keys and secrets do not print: their types refuse every verb of fmt.
//
// What is not promised here: that a token is used once (the root group deletes its verifier in the same change that
// admits the peer), that ids are not given out twice (the root group gives them), that open connections of a revoked
// peer are closed (the transport does that when the list changes), and a limit on how long a handshake may take.
//
// Lock order: Store.changing, memory.mu.
package trust
