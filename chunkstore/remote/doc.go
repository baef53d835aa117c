// Package remote is a drive that lies on another peer: Handler serves the drives of this peer, and a Drive made by New
// is chunkstore.Drive over one of them.
//
//	Drive.Put ── request: frame(header), cells ──►  handler ── leaves verified ──► the local drive
//	          ◄── frame(alive)… frame(answer) ────
//	Drive.Read ── request: frame(chunk, span) ───►  handler
//	          ◄── frame(answer, header), { frame(piece), bytes }… ── verified again here
//
// Shard bytes travel as they are. Everything else stands in small frames with a checksum (FORMAT.md). It works over
// any http.Client and http.Server, HTTP/1.1 and HTTP/2; who may call is for the listener below to decide, and who may
// change which volume for HandlerOptions.Allow.
//
// # Promises
//
//   - Every error of the contract survives the trip. A peer that is unreachable, that does not speak this protocol, or
//     from which no byte moved either way for Options.Silence is ErrDriveDown with the cause. A peer that is slow but
//     moves is waited for.
//   - Nothing that came from the peer is believed: a header is verified against the chunk asked for and the payload
//     against the leaves of that header; lists must be in order and of the volume asked for. What does not fit is
//     ErrDamaged.
//   - When Put returns nothing reads its cells any more, whatever the transport still does with the request: it gets
//     copies, piece by piece, and none after Put ended. Nothing writes to the dst of a Read that returned.
//   - Lengths are checked before anything is allocated for them, on both sides.
//
// # A call whose answer was lost
//
// The peer may have done what it was asked to, or may still do it. All calls may be made again: a Put replaces the
// shard by the same bytes, a Delete and a Seal are remembered. A Put that is still under way at the peer never undoes
// a Delete or a Seal that was answered after it, for the drive there refuses it then.
//
// Lock order: Drive.mu, that of a wire.Watch, lease.mu; none is held while another is taken, and no I/O is done under any.
package remote
