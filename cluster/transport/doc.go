// Package transport carries calls, large bodies and streams of messages between the peers of a cluster, over TLS with
// certificates on both sides (package trust) and a Network: TCP, or a Simulation in memory with faults.
//
// # How it works
//
//	Peers ── Peer ─┬─ Do ──────── one connection, HTTP/2 ──────────────────► Server ── Route ── roles, bounds ── handler
//	               │              probed each second                            │
//	               ├─ Transfer ── up to MaxBulk connections, HTTP/1.1, ─────────┤
//	               │              one body each                                 │
//	               └─ Stream ──── one connection a name, upgraded HTTP/1.1 ─────┴──── Inlet ── roles ── Receive
//
// A Peer has a keeper, one goroutine that holds the connection for calls: it dials, proves by a first answer that the
// peer takes the connection, asks once a second whether the peer is there, and says so by Changed. Everything else goes
// only while that connection is there, so a peer that is gone costs one failed dial at a time, with a pause after each
// (50 ms, doubling up to 2 s), and everybody else an ErrUnreachable at once.
//
// Calls and bodies have connections of their own because a body that fills a connection lets calls wait: HTTP/2's
// streams share one TCP window, one TLS stream and one writer. HTTP/1.1 also moves bodies at one and a half to two
// times the speed of HTTP/2 on the same cores (BenchmarkBodies).
//
// # Promises
//
//   - A handler runs only for a caller whose certificate is good now and whose role is listed for the route. Everything
//     else gets 403, whether or not the path exists; it is counted by reason (trust.Refusals) and logged once a minute
//     for each caller.
//   - A call reaches the peer that was meant, or nobody.
//   - Nothing is sent twice. ErrUnreachable says that nothing was sent; after any other error that is no RemoteError the
//     peer may have done what was asked.
//   - Nothing waits for ever: a call ends when no byte moved for PeersConfig.Stall (ErrStalled), or with its context. The
//     time in which the caller's own body is read, or in which it does not read the answer, does not count. The server
//     bounds its side by ServerConfig.Stall.
//   - The source of a request's body is not read after the call is over, so its buffer can be used again then.
//   - A broken connection is told at once, a silent peer within 5 s.
//   - A Stream keeps order and delivers at most once; it loses messages, and counts those that it drops.
//   - Half an answer is never taken for a whole one.
//
// A handler reads its body to the end before it waits for anything else: until then HTTP/1.1 does not tell it that the
// caller has gone.
//
// What is not promised: fairness between callers, and order between calls.
//
// Bytes in the kernel's buffers count as moved, so a body may be called stalled that still trickles at less than a few
// hundred KiB in Stall.
//
// # How the packages above use it
//
// Metadata, and all other typed calls, are connect handlers and clients. The handler is a Route whose pattern is the
// service's prefix ("/holdfast.metadata.v1.Tablets/"), with MaxBody of the largest request. The client is made with a
// Peer, which is a connect.HTTPClient, and "https://peer" for its base URL. An interceptor gives errors their sentinels:
// on the server it sets ErrorHeader in the connect.Error's Meta to Sentinels.Encode; the client's Do then fails with the
// RemoteError, which connect wraps. The table of sentinels (raft.ErrNotLeader, …) stands beside them in each package;
// the composition root puts the tables together with Merge.
//
// Raft sends its messages by Stream("raft") and takes them by an Inlet whose Receive hands them to the host without
// waiting. Send returning false, and Changed saying that a peer is unreachable, become RawNode.ReportUnreachable and an
// early pre-vote. Snapshots go by Transfer. The caller's identity is checked against the message's sender.
//
// The remote drive of chunkstore sends and fetches shards by Transfer: plain bodies of a known length, with the span in
// the path and the checksums in the body. A caller that hedges cancels the context of the slower one.
//
// Joining peers, who have no certificate yet, come to the same address by a protocol of their own (trust.JoinProtocol):
// ServerConfig.Join talks to them, a few at a time, on connections that never meet a route. Package join is that.
//
// Whoever brings a new trust.List gives it to the Store, and then calls TrustChanged of the Server and the Peers.
//
// Lock order: Peers.mu, Peer.mu, then bulkPool.mu or Stream.mu; Server.mu stands alone, and so does Simulation.mu.
package transport
