// Package drive keeps shards in chunk files of one directory, durably.
//
//	<dir>/identity.a, identity.b           which drive this is, and the cluster's integrity key (either is enough)
//	<dir>/lock                             held by the process that has the drive open
//	<dir>/ledger.<generation>              deleted shards and sealed volumes
//	<dir>/volumes/<xx>/<volume>.<shard>.<generation>    chunk files, append-only, to 1 GiB
//
// FORMAT.md draws every byte and says what a crash between any two writes leaves.
//
// # One writer
//
// A single goroutine, the committer, changes files and the index. It takes all requests that wait (Put, Delete, Seal),
// appends the records of each chunk file, syncs each changed file once, looks whether the directory is still the one
// that was opened, updates the index and answers all. While it waits for the device the next batch gathers.
//
// # Promises
//
//   - What was acknowledged is on stable media, names of files and directories included.
//   - A record whose header page is not sealed with the integrity key, for this file and this offset, does not exist;
//     bytes that differ from its leaf digests are never returned.
//   - A torn region is never written again; a file whose sync failed is never written or synced again.
//   - Nothing is removed but what Delete named: a file goes when all its shards were deleted.
//   - A deleted shard does not come back, a sealed epoch stays sealed.
//
// # Locks
//
// Drive.mu guards the index and the counters; no I/O is done under it. handles.mu guards the open read handles and
// is never held together with Drive.mu.
package drive
