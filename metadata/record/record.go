// Package record says how names stand in a key-value store: the order-preserving keys and the protobuf values of
// buckets, versions, uploads, parts, freed chunks, stages and rows. It is pure: no clock, no file, no goroutine.
//
// FORMAT.md draws the keys. A tablet is an interval of routing keys (bucket id, object key) and owns the same interval
// in every routed family, so that a split moves no byte and never separates a key from its versions.
package record

//go:generate sh generate.sh

// Format is the number of the format that this package writes; FORMAT.md describes it.
const Format = 1
