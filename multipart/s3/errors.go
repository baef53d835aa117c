package s3

import (
	"context"
	"errors"
	"net/http"
	"os"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3/sigv4"
	"github.com/holdfast/holdfast/multipart/s3/xmlapi"
)

// Code is an error code of S3. It is an error itself: handlers return it as it is, or through because.
type Code string

func (c Code) Error() string { return string(c) }

// because is the code with a message of its own, which the client sees: it holds no path, address or secret.
func (c Code) because(message string) error { return explained{c, message} }

// explained is a code with a message.
type explained struct {
	Code
	message string
}

func (e explained) Error() string { return string(e.Code) + ": " + e.message }
func (e explained) Unwrap() error { return e.Code }

// answer is what a code means on the wire.
type answer struct {
	status  int
	message string
}

// answers holds every code that this face gives. Messages that clients or suites are known to compare are S3's to the
// letter, with the full stop or without.
var answers = map[Code]answer{
	"AccessControlListNotSupported":                  {400, "The bucket does not allow ACLs."},
	"AccessDenied":                                   {403, "Access Denied"},
	"AuthorizationHeaderMalformed":                   {400, "The authorization header is malformed."},
	"AuthorizationQueryParametersError":              {400, "The authorization query parameters are malformed."},
	"BadDigest":                                      {400, "The Content-MD5 or checksum value that you specified did not match what the server received."},
	"BucketAlreadyExists":                            {409, "The requested bucket name is not available."},
	"BucketAlreadyOwnedByYou":                        {409, "Your previous request to create the named bucket succeeded and you already own it."},
	"BucketNotEmpty":                                 {409, "The bucket you tried to delete is not empty"},
	"ConditionalRequestConflict":                     {409, "A conflicting operation occurred during the request. Try again."},
	"EntityTooLarge":                                 {400, "Your proposed upload exceeds the maximum allowed object size."},
	"EntityTooSmall":                                 {400, "Your proposed upload is smaller than the minimum allowed object size."},
	"IllegalVersioningConfigurationException":        {400, "The versioning configuration specified in the request is not valid."},
	"IncompleteBody":                                 {400, "You did not provide the number of bytes specified by the Content-Length HTTP header."},
	"InternalError":                                  {500, "The server encountered an internal error. Try again."},
	"InvalidAccessKeyId":                             {403, "The access key ID that you provided does not exist in our records."},
	"InvalidArgument":                                {400, "Invalid argument."},
	"InvalidBucketName":                              {400, "The specified bucket is not valid."},
	"InvalidChunkSizeError":                          {403, "Only the last chunk is allowed to have a size less than 8192 bytes."},
	"InvalidDigest":                                  {400, "The Content-MD5 or checksum value that you specified is not valid."},
	"InvalidPart":                                    {400, "One or more of the specified parts could not be found. The part might not have been uploaded, or the specified entity tag might not have matched the part's entity tag."},
	"InvalidPartNumber":                              {416, "The requested partnumber is not satisfiable."},
	"InvalidPartOrder":                               {400, "The list of parts was not in ascending order. Parts must be ordered by part number."},
	"InvalidRange":                                   {416, "The requested range is not satisfiable"},
	"InvalidRedirectLocation":                        {400, "The website redirect location must have a prefix of 'http://' or 'https://' or '/'."},
	"InvalidRequest":                                 {400, "Invalid request."},
	"InvalidStorageClass":                            {400, "The storage class that you specified is not valid."},
	"InvalidTag":                                     {400, "The tag provided was not a valid tag."},
	"InvalidToken":                                   {400, "The provided token is malformed or otherwise not valid."},
	"InvalidURI":                                     {400, "Couldn't parse the specified URI."},
	"KeyTooLongError":                                {400, "Your key is too long."},
	"MalformedTrailerError":                          {400, "The request contained trailing data that was not well-formed or did not conform to our published schema."},
	"MalformedXML":                                   {400, "The XML that you provided was not well-formed or did not validate against our published schema."},
	"MetadataTooLarge":                               {400, "Your metadata headers exceed the maximum allowed metadata size."},
	"MethodNotAllowed":                               {405, "The specified method is not allowed against this resource."},
	"MissingContentLength":                           {411, "You must provide the Content-Length HTTP header."},
	"NoSuchBucket":                                   {404, "The specified bucket does not exist"},
	"NoSuchBucketPolicy":                             {404, "The bucket policy does not exist"},
	"NoSuchConfiguration":                            {404, "The specified configuration does not exist."},
	"NoSuchCORSConfiguration":                        {404, "The CORS configuration does not exist"},
	"NoSuchKey":                                      {404, "The specified key does not exist."},
	"NoSuchLifecycleConfiguration":                   {404, "The lifecycle configuration does not exist"},
	"NoSuchObjectLockConfiguration":                  {404, "The specified object does not have a ObjectLock configuration"},
	"NoSuchPublicAccessBlockConfiguration":           {404, "The public access block configuration was not found"},
	"NoSuchTagSet":                                   {404, "The TagSet does not exist"},
	"NoSuchUpload":                                   {404, "The specified multipart upload does not exist. The upload ID might not be valid, or the multipart upload might have been aborted or completed."},
	"NoSuchVersion":                                  {404, "The specified version does not exist."},
	"NoSuchWebsiteConfiguration":                     {404, "The specified bucket does not have a website configuration"},
	"NotImplemented":                                 {501, "A header or query that you provided implies functionality that is not implemented."},
	"ObjectLockConfigurationNotFoundError":           {404, "Object Lock configuration does not exist for this bucket"},
	"OperationAborted":                               {409, "A conflicting conditional operation is currently in progress against this resource. Try again."},
	"OwnershipControlsNotFoundError":                 {404, "The bucket ownership controls were not found"},
	"PreconditionFailed":                             {412, "At least one of the pre-conditions you specified did not hold"},
	"ReplicationConfigurationNotFoundError":          {404, "The replication configuration was not found"},
	"RequestHeaderSectionTooLarge":                   {400, "Your request header section exceeds the maximum allowed size."},
	"RequestTimeout":                                 {400, "Your socket connection to the server was not read from or written to within the timeout period."},
	"RequestTimeTooSkewed":                           {403, "The difference between the request time and the server's time is too large."},
	"ServerSideEncryptionConfigurationNotFoundError": {404, "The server side encryption configuration was not found"},
	"SignatureDoesNotMatch":                          {403, "The request signature that the server calculated does not match the signature that you provided. Check your secret access key and signing method."},
	"SlowDown":                                       {503, "Reduce your request rate."},
	"StorageFull":                                    {507, "The store takes no new data: its drives are full."},
	"XAmzContentSHA256Mismatch":                      {400, "The provided 'x-amz-content-sha256' header does not match what was computed."},
}

// ErrNoSuchAccessKey is what Config.Keys returns for an access key that does not exist or is switched off.
var ErrNoSuchAccessKey = errors.New("no such access key")

// sentinels maps errors of the floors below to codes; the first row that matches decides.
var sentinels = []struct {
	err  error
	code error
}{
	{metadata.ErrNoSuchBucket, Code("NoSuchBucket")},
	{metadata.ErrBucketExists, Code("BucketAlreadyExists")},
	{metadata.ErrBucketNotEmpty, Code("BucketNotEmpty")},
	{metadata.ErrBadBucketName, Code("InvalidBucketName")},
	{metadata.ErrNoSuchKey, Code("NoSuchKey")}, // before ErrDeleteMarker: the newest version is one
	{metadata.ErrDeleteMarker, Code("MethodNotAllowed")},
	{metadata.ErrNoSuchVersion, Code("NoSuchVersion")},
	{metadata.ErrNoSuchUpload, Code("NoSuchUpload")},
	{metadata.ErrPrecondition, Code("PreconditionFailed")},
	{metadata.ErrConflict, Code("ConditionalRequestConflict")},
	{metadata.ErrExists, Code("PreconditionFailed")},
	{metadata.ErrInvalidPart, Code("InvalidPart")},
	{metadata.ErrInvalidPartOrder, Code("InvalidPartOrder")},
	{metadata.ErrPartTooSmall, Code("EntityTooSmall")},
	{metadata.ErrObjectTooLarge, Code("EntityTooLarge")},
	{metadata.ErrKeyLength, Code("KeyTooLongError")},
	{metadata.ErrDirNotEmpty, Code("OperationAborted")},
	{metadata.ErrBadToken, Code("InvalidArgument").because("The continuation token provided is incorrect.")},
	{metadata.ErrTooLarge, Code("EntityTooLarge")},
	{metadata.ErrSessionFenced, Code("SlowDown")},
	{metadata.ErrUnavailable, Code("SlowDown")},
	{metadata.ErrBadRename, Code("InvalidRequest")},

	{multipart.ErrIncompleteBody, Code("IncompleteBody")},
	{multipart.ErrLongBody, Code("IncompleteBody")},
	{multipart.ErrSpan, Code("InvalidRange")},
	{multipart.ErrManifest, Code("InternalError")},
	{multipart.ErrPartNumber, Code("InvalidArgument").because("Part number must be an integer between 1 and 10000, inclusive.")},

	// Lost and damaged bytes are the server's fault and are never called missing.
	{chunkstore.ErrLost, Code("InternalError")},
	{chunkstore.ErrDamaged, Code("InternalError")},
	{chunkstore.ErrNotFound, Code("InternalError")},
	{chunkstore.ErrDeleted, Code("InternalError")},
	{chunkstore.ErrDriveExists, Code("InternalError")},
	{chunkstore.ErrBadSpan, Code("InternalError")},
	{chunkstore.ErrBodyLength, Code("IncompleteBody")},
	{chunkstore.ErrFull, Code("StorageFull")},
	{chunkstore.ErrSlowDown, Code("SlowDown")},
	{chunkstore.ErrStaleVolume, Code("SlowDown")},
	{chunkstore.ErrDriveDown, Code("SlowDown")},
	{chunkstore.ErrClosed, Code("SlowDown")},

	{ErrNoSuchAccessKey, Code("InvalidAccessKeyId")},
	{sigv4.ErrAnonymous, Code("AccessDenied")},
	{sigv4.ErrSigV2, Code("InvalidRequest").because("The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.")},
	{sigv4.ErrScheme, Code("InvalidArgument").because("Unsupported Authorization Type.")},
	{sigv4.ErrAsymmetric, Code("NotImplemented")},
	{sigv4.ErrBothAuth, Code("InvalidArgument").because("Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified.")},
	{sigv4.ErrHeaderMalformed, Code("AuthorizationHeaderMalformed")},
	{sigv4.ErrQueryMalformed, Code("AuthorizationQueryParametersError")},
	{sigv4.ErrNoDate, Code("AccessDenied").because("AWS authentication requires a valid Date or x-amz-date header.")},
	{sigv4.ErrSkew, Code("RequestTimeTooSkewed")},
	{sigv4.ErrExpired, Code("AccessDenied").because("Request has expired.")},
	{sigv4.ErrNotYet, Code("AccessDenied").because("Request is not valid yet.")},
	{sigv4.ErrUnsignedHeader, Code("AccessDenied").because("There were headers present in the request which were not signed.")},
	{sigv4.ErrNoPayload, Code("InvalidRequest").because("Missing required header for this request: x-amz-content-sha256.")},
	{sigv4.ErrPayload, Code("InvalidArgument").because("x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a STREAMING- value, or a valid sha256 value.")},
	{sigv4.ErrSignature, Code("SignatureDoesNotMatch")},
	{sigv4.ErrURI, Code("InvalidURI")},
	{sigv4.ErrChunk, Code("InvalidRequest").because("The chunks of the body are malformed.")},
	{sigv4.ErrChunkSize, Code("InvalidChunkSizeError")},
	{sigv4.ErrIncomplete, Code("IncompleteBody")},
	{sigv4.ErrLength, Code("IncompleteBody")},
	{sigv4.ErrTrailer, Code("MalformedTrailerError")},
	{xmlapi.ErrMalformed, Code("MalformedXML")},

	{os.ErrDeadlineExceeded, Code("RequestTimeout")},
	{context.DeadlineExceeded, Code("SlowDown")},
	{context.Canceled, Code("RequestTimeout")}, // the client went away: nobody reads it
}

// describe gives code, status and message for any error. What it does not know is an InternalError, whose cause goes
// to the log alone.
func describe(err error) (Code, answer) {
	var told explained
	var code Code
	switch {
	case errors.As(err, &told):
		return told.Code, answer{answers[told.Code].status, told.message}
	case errors.As(err, &code):
		return code, answers[code]
	}
	for _, row := range sentinels {
		if errors.Is(err, row.err) {
			return describe(row.code)
		}
	}
	return "InternalError", answers["InternalError"]
}

// fault tells whether an error is the server's, so that somebody must look at it.
func fault(status int) bool {
	return status >= 500 && status != http.StatusNotImplemented
}
