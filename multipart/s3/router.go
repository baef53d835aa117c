package s3

import (
	"net/http"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/metadata"
)

// level is what a path names.
type level uint8

const (
	serviceLevel level = iota + 1
	bucketLevel
	objectLevel
)

// route is one operation. It is taken when the method, the level, the sub-resources of the query and the presence of
// x-amz-copy-source all fit.
type route struct {
	op     string
	method string
	level  level
	// subs are the sub-resources that must be in the query; optional ones may be. A query with any other is not ours.
	subs     []string
	optional []string
	copies   bool // x-amz-copy-source must be there
	handle   func(*call) error
	// makesBucket says that the bucket need not exist: all other bucket and object routes resolve it first.
	makesBucket bool
}

// routes lists every operation that is built.
func routes() []route {
	list := []route{
		{op: "ListBuckets", method: "GET", level: serviceLevel, handle: listBuckets},

		{op: "CreateBucket", method: "PUT", level: bucketLevel, handle: createBucket, makesBucket: true},
		{op: "HeadBucket", method: "HEAD", level: bucketLevel, handle: headBucket},
		{op: "DeleteBucket", method: "DELETE", level: bucketLevel, handle: deleteBucket},
		{op: "ListObjects", method: "GET", level: bucketLevel, handle: listObjects},
		{op: "ListObjectVersions", method: "GET", level: bucketLevel, subs: []string{"versions"}, handle: listVersions},
		{op: "ListMultipartUploads", method: "GET", level: bucketLevel, subs: []string{"uploads"}, handle: listUploads},
		{op: "GetBucketLocation", method: "GET", level: bucketLevel, subs: []string{"location"}, handle: getLocation},
		{op: "GetBucketVersioning", method: "GET", level: bucketLevel, subs: []string{"versioning"}, handle: getVersioning},
		{op: "PutBucketVersioning", method: "PUT", level: bucketLevel, subs: []string{"versioning"}, handle: putVersioning},
		{op: "DeleteObjects", method: "POST", level: bucketLevel, subs: []string{"delete"}, handle: deleteObjects},

		{op: "GetObject", method: "GET", level: objectLevel, optional: []string{"partNumber"}, handle: getObject},
		{op: "HeadObject", method: "HEAD", level: objectLevel, optional: []string{"partNumber"}, handle: getObject},
		{op: "PutObject", method: "PUT", level: objectLevel, handle: putObject},
		{op: "CopyObject", method: "PUT", level: objectLevel, copies: true, handle: copyObject},
		{op: "DeleteObject", method: "DELETE", level: objectLevel, handle: deleteObject},
		{op: "GetObjectAttributes", method: "GET", level: objectLevel, subs: []string{"attributes"}, handle: getAttributes},
		{op: "GetObjectTagging", method: "GET", level: objectLevel, subs: []string{"tagging"}, handle: getTagging},
		{op: "PutObjectTagging", method: "PUT", level: objectLevel, subs: []string{"tagging"}, handle: putTagging},
		{op: "DeleteObjectTagging", method: "DELETE", level: objectLevel, subs: []string{"tagging"}, handle: deleteTagging},

		{op: "CreateMultipartUpload", method: "POST", level: objectLevel, subs: []string{"uploads"}, handle: createUpload},
		{op: "UploadPart", method: "PUT", level: objectLevel, subs: []string{"partNumber", "uploadId"}, handle: uploadPart},
		{op: "UploadPartCopy", method: "PUT", level: objectLevel, subs: []string{"partNumber", "uploadId"}, copies: true, handle: uploadPartCopy},
		{op: "ListParts", method: "GET", level: objectLevel, subs: []string{"uploadId"}, handle: listParts},
		{op: "CompleteMultipartUpload", method: "POST", level: objectLevel, subs: []string{"uploadId"}, handle: completeUpload},
		{op: "AbortMultipartUpload", method: "DELETE", level: objectLevel, subs: []string{"uploadId"}, handle: abortUpload},
	}
	return append(list, stubRoutes()...)
}

// subResources are all query parameters that turn a request into another operation. One that no route names is
// refused, so that it is neither ignored nor taken for a listing or an upload.
var subResources = [...]string{
	"abac", "accelerate", "acl", "analytics", "annotation", "append", "attributes", "cors", "delete", "encryption",
	"intelligent-tiering", "inventory", "legal-hold", "lifecycle", "location", "logging", "metadataAnnotationTable",
	"metadataConfiguration", "metadataInventoryTable", "metadataJournalTable", "metadataTable", "metrics", "notification",
	"object-lock", "ownershipControls", "partNumber", "policy", "policyStatus", "publicAccessBlock", "renameObject",
	"replication", "requestPayment", "restore", "retention", "select", "session", "tagging", "torrent", "uploadId",
	"uploads", "versioning", "versions", "website",
}

// refusedHeaders ask for what is not built and must not be taken as done: encryption, locks, appends, aborts on condition.
var refusedHeaders = [...]string{
	"X-Amz-Server-Side-Encryption", "X-Amz-Server-Side-Encryption-Customer-Algorithm",
	"X-Amz-Copy-Source-Server-Side-Encryption-Customer-Algorithm", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id",
	"X-Amz-Object-Lock-Mode", "X-Amz-Object-Lock-Retain-Until-Date", "X-Amz-Object-Lock-Legal-Hold", "X-Amz-Write-Offset-Bytes",
	"X-Amz-Bucket-Object-Lock-Enabled", "X-Amz-Rename-Source", "X-Amz-If-Match-Initiated-Time",
}

// fits tells whether the route serves a request with these sub-resources.
func (r *route) fits(method string, at level, subs []string, copies bool) bool {
	if r.method != method || r.level != at || r.copies != copies {
		return false
	}
	for _, sub := range r.subs {
		if !slices.Contains(subs, sub) {
			return false
		}
	}
	for _, sub := range subs {
		if !slices.Contains(r.subs, sub) && !slices.Contains(r.optional, sub) {
			return false
		}
	}
	return true
}

// level of what the path named.
func (c *call) level() level {
	switch {
	case c.key != "":
		return objectLevel
	case c.bucketName != "":
		return bucketLevel
	}
	return serviceLevel
}

// dispatch finds the route and runs it.
func (c *call) dispatch() error {
	var subs []string
	for _, p := range c.query {
		if slices.Contains(subResources[:], p.Name) && !slices.Contains(subs, p.Name) {
			subs = append(subs, p.Name)
		}
	}
	_, copies := c.r.Header["X-Amz-Copy-Source"] // an empty one too: it must not become a PUT of no bytes
	at := c.level()
	otherMethod := false
	for _, r := range c.server.routes {
		if r.fits(c.r.Method, at, subs, copies) {
			c.op = r.op
			return c.run(r)
		}
		otherMethod = otherMethod || r.fits(r.method, at, subs, r.copies)
	}
	if otherMethod && !slices.Contains([]string{http.MethodPut, http.MethodPost}, c.r.Method) || len(subs) == 0 {
		return Code("MethodNotAllowed")
	}
	return Code("NotImplemented")
}

// run resolves the bucket and calls the handler.
func (c *call) run(r route) error {
	for _, name := range refusedHeaders {
		if v := c.header(name); v != "" && !strings.EqualFold(v, "false") {
			return Code("NotImplemented")
		}
	}
	if r.level != serviceLevel && !r.makesBucket {
		bucket, err := c.store().Bucket(c.ctx(), c.bucketName)
		if err != nil {
			return err
		}
		c.bucket = bucket
		if err := expectOwner(bucket, c.header("X-Amz-Expected-Bucket-Owner")); err != nil {
			return err
		}
	}
	return r.handle(c)
}

// expectOwner refuses a bucket of another owner than the request expects, if it expects one.
func expectOwner(b metadata.Bucket, want string) error {
	if want != "" && want != b.Owner && want != owner(b.Owner).ID {
		return Code("AccessDenied")
	}
	return nil
}
