// Package s3 is the S3 face of holdfast: requests of S3 clients in, calls of the object path out.
//
//	request ─ Server ─ authenticate (once, for every request) ─ route ─ handler ─ Store
//	                        │                                     └ no handler without a verified claim
//	                        └ Principal, and a body that verifies digest, chunk signatures, trailer and length
//
// Nothing here knows where bytes lie. What the face promises:
//
//   - One function authenticates, before any routing; each payload mode is decoded there and nowhere else. Handlers
//     never see the connection's body, only one whose io.EOF means that everything the client promised was verified.
//   - The path is decoded once; the signature and the store see the same key, and no key is ever cleaned.
//   - Errors become S3 codes in one table (errors.go). An error of bytes is never NoSuchKey, and an object that fails
//     half-way through a GET ends with a broken connection, never with a short 200.
//   - Sub-resources that are not built answer as S3 does where nothing is configured (stubs.go); none falls through
//     to a listing and none is stored.
//
// docs/compatibility.md lists the operations; a test keeps it equal to the routes.
package s3
