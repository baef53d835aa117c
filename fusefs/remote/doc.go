// Package remote is tree.Objects through any gateway, with nothing but an access key, and the service in the gateway
// that answers it.
//
// Both sides speak under PathPrefix on the S3 listener, signed with SigV4 like every other request there: names,
// attributes and commits by the connect service of mount.proto, the bytes of parts and of reads as plain HTTP bodies
// with a CRC32C. Most messages go through pipes: connections that one signed request turned into a line of questions and
// answers, at a tenth of the cost; where a proxy lets none through, each message is a request. A mount has a session with
// a lease; each change carries its number in the session, so that a request repeated after a lost answer is applied once.
// The service keeps the answers of the last changes, and hands the number on to the Objects (tree.OpFrom), which remember
// it across a restart of the gateway, and at every other gateway of the cluster.
//
// A client uses one gateway (stay) until it fails, and then the first other one that answers. What fails, and what
// follows:
//
//	the answer of a gateway          the caller's; of one that cannot do it now: asked again, elsewhere after a moment
//	a connection broke               once more at the same gateway; a dead one refuses
//	refused, 503, stopping           move
//	silent for the stall time        asked for a sign of life; silent as long again: move, with all that is under way
//	the session is not known         opened again there, by its name
//
// A move drops the mark, ends what is under way at the old gateway, and opens the session at the new one. The session is a
// row in the names whose lease the renewals keep through whatever gateway (Keeper): the one that was left ends nothing.
//
// What may come late is a request that a gateway got before it was left, and goes on with after the same request was
// answered elsewhere. Every change has a number in its session, which the names have seen by then, so it changes nothing.
//
// Lock order: Service.mu, then session.mu; neither is held over a call of the Objects. Client.moving is held over I/O.
package remote

import "time"

const (
	// PathPrefix is where the service answers on the S3 listener; no bucket can have this name.
	PathPrefix = "/-/mount/"

	pathPart = PathPrefix + "bytes/part"
	pathRead = PathPrefix + "bytes/read"

	// Lease is how long a session lives without a sign of its mount: longer than a mount repeats a request while no gateway
	// answers, so that one that gets through at last finds its session and what it wrote.
	Lease      = 75 * time.Second
	renewEvery = 3 * time.Second
	// stalled is how late a lease must be found to have ended to prove that the gateway itself stood still: it could not
	// hear its mounts.
	stalled = time.Second

	// maxRead is the largest read in one request: the tree's largest window.
	maxRead = 8 << 20
	// maxHead is the largest content that comes with the answer to an open.
	maxHead = 128 << 10
	// maxMessage bounds one message: 8 MiB of data and its attributes, or the pieces of the largest file.
	maxMessage = 16 << 20
	// maxReads is how many reads the service has in memory at once; with maxRead it is 64 MiB.
	maxReads = 8

	headerError = "X-Holdfast-Error"
	headerCRC   = "X-Holdfast-Crc32c"

	// askSum in a request for bytes says where their CRC32C may be. With sumLast an answer that has this as headerCRC has
	// it in its last four bytes, little-endian; all others have it in the header.
	askSum  = "sum"
	sumLast = "last"
	sumSize = 4
)
