// Package sigv4 verifies and makes AWS Signature Version 4 for S3, and decodes the bodies that are signed in chunks.
// It is pure: it reads no clock and opens nothing.
//
//	raw request ─ Parse ─ Claim (who, when, which headers) ─ look up the secret ─ Verify ─ Chain ─ ChunkReader
//
// A signature covers bytes, so everything here works on the request target as it came over the wire, decoded exactly
// once: DecodePath gives the one string that authentication signs and storage uses. No path is ever cleaned.
//
// A claim is nothing until Verify returned nil; it then covers the method, the path, every query parameter, the
// host, every x-amz-* and x-csp-* header, and whatever else the client signed.
package sigv4

import "errors"

// Errors of requests that are not what they claim. The S3 face maps each to its code.
var (
	// ErrAnonymous says that the request carries no credentials at all.
	ErrAnonymous = errors.New("request carries no credentials")
	// ErrSigV2 says that the request is signed with Signature Version 2, which is refused.
	ErrSigV2 = errors.New("signature version 2 is not supported")
	// ErrScheme says that the Authorization header names an unknown scheme.
	ErrScheme = errors.New("unknown authorization scheme")
	// ErrAsymmetric says that the request is signed with SigV4A (ECDSA), which is not built.
	ErrAsymmetric = errors.New("asymmetric signatures are not supported")
	// ErrBothAuth says that credentials stand in the header and in the query.
	ErrBothAuth = errors.New("credentials in the header and in the query")
	// ErrHeaderMalformed says that the Authorization header cannot be read, or that its scope does not fit.
	ErrHeaderMalformed = errors.New("authorization header is malformed")
	// ErrQueryMalformed says the same of X-Amz-* query parameters.
	ErrQueryMalformed = errors.New("authorization query parameters are malformed")
	// ErrNoDate says that neither x-amz-date nor Date can be read.
	ErrNoDate = errors.New("request has no valid date")
	// ErrSkew says that the request's date is more than MaxSkew away.
	ErrSkew = errors.New("request time is too far from the server's")
	// ErrExpired says that a presigned request is over.
	ErrExpired = errors.New("presigned request has expired")
	// ErrNotYet says that a presigned request lies in the future.
	ErrNotYet = errors.New("presigned request is not valid yet")
	// ErrUnsignedHeader says that the host or an x-amz-* or x-csp-* header is not covered by the signature.
	ErrUnsignedHeader = errors.New("a header that must be signed is not")
	// ErrNoPayload says that x-amz-content-sha256 is missing.
	ErrNoPayload = errors.New("x-amz-content-sha256 is missing")
	// ErrPayload says that x-amz-content-sha256 has no known form.
	ErrPayload = errors.New("x-amz-content-sha256 has no known form")
	// ErrSignature says that a signature does not fit: of the request, of a chunk or of the trailer.
	ErrSignature = errors.New("signature does not match")
	// ErrURI says that the path or the query holds a broken percent escape, or too many parameters.
	ErrURI = errors.New("request target cannot be decoded")

	// ErrChunk says that the framing of a chunked body is broken.
	ErrChunk = errors.New("chunk framing is malformed")
	// ErrChunkSize says that a signed chunk that is not the last one is under MinChunk, or that a chunk is over MaxChunk.
	ErrChunkSize = errors.New("chunk has a size that is not allowed")
	// ErrIncomplete says that the body ended before its last chunk.
	ErrIncomplete = errors.New("body ended early")
	// ErrLength says that the chunks do not add up to x-amz-decoded-content-length.
	ErrLength = errors.New("decoded length differs from the one declared")
	// ErrTrailer says that the trailer is malformed, or is not the one that x-amz-trailer declared.
	ErrTrailer = errors.New("trailer is malformed or not the one declared")
)
