package s3

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3/xmlapi"
)

func putObject(c *call) error {
	meta, err := c.meta()
	if err != nil {
		return err
	}
	when, err := c.writeConditions()
	if err != nil {
		return err
	}
	body, err := c.body.object(multipart.MaxPart, nil) // a single PUT is limited to 5 GiB, as a part is
	if err != nil {
		return err
	}
	v, err := c.store().Put(c.ctx(), multipart.Put{Bucket: c.bucket.ID, Key: c.key, Meta: meta, Body: body, If: when})
	if err != nil {
		return err
	}
	c.showWritten(v)
	if !strings.Contains(c.header("Accept"), "application/xml") {
		c.empty(http.StatusOK)
		return nil
	}
	c.xml(http.StatusOK, xmlapi.PutResult{Xmlns: xmlapi.Namespace, ETag: quote(v.ETag), VersionID: c.w.Header().Get("X-Amz-Version-Id")})
	return nil
}

// showWritten sets the headers that describe what a write made.
func (c *call) showWritten(v metadata.Version) {
	c.w.Header().Set("Etag", quote(v.ETag))
	c.showNew(v)
	showChecksums(c.w.Header(), v.Checksums, v.ChecksumType)
}

func copyObject(c *call) error {
	source, err := c.source()
	if err != nil {
		return err
	}
	meta, err := c.meta()
	if err != nil {
		return err
	}
	when, err := c.writeConditions()
	if err != nil {
		return err
	}
	cp := multipart.Copy{Source: source.Source, Bucket: c.bucket.ID, Key: c.key, Meta: meta, OwnHeaders: ownHeaders[:], If: when}
	if cp.ReplaceMeta, err = directive(c.header("X-Amz-Metadata-Directive")); err != nil {
		return err
	}
	if cp.ReplaceTags, err = directive(c.header("X-Amz-Tagging-Directive")); err != nil {
		return err
	}
	if !cp.ReplaceTags && c.header("X-Amz-Tagging") != "" && c.header("X-Amz-Tagging-Directive") == "" {
		cp.Meta.Tags = nil // tags without the directive that asks for them mean nothing, as on S3
	}
	self := source.bucketName == c.bucketName && source.Key == c.key && source.Version == nil && !source.Null
	if self && !cp.ReplaceMeta && !cp.ReplaceTags && c.header(storageClassHeader) == "" && c.header(redirectHeader) == "" {
		return Code("InvalidRequest").because("This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.")
	}
	v, err := c.store().Copy(c.ctx(), cp)
	if err != nil {
		return copyError(err)
	}
	c.showVersion(v.ID, v.Null)
	source.show(c)
	c.xml(http.StatusOK, copyResult("CopyObjectResult", v.ETag, xmlapi.Time(v.Modified), v.Checksums, v.ChecksumType))
	return nil
}

func directive(value string) (replace bool, err error) {
	switch value {
	case "", "COPY":
		return false, nil
	case "REPLACE":
		return true, nil
	}
	return false, Code("InvalidArgument").because("Unknown metadata directive.")
}

// openSource is a copy's source with its bucket.
type openSource struct {
	multipart.Source
	bucketName string
	versioned  bool
	seen       metadata.Version // what Check saw
}

// source reads x-amz-copy-source and its conditions.
func (c *call) source() (*openSource, error) {
	parsed, err := parseCopySource(c.header("X-Amz-Copy-Source"))
	if err != nil {
		return nil, err
	}
	bucket, err := c.store().Bucket(c.ctx(), parsed.bucket)
	if err != nil {
		return nil, err
	}
	if err := expectOwner(bucket, c.header("X-Amz-Source-Expected-Bucket-Owner")); err != nil {
		return nil, err
	}
	s := &openSource{bucketName: parsed.bucket, versioned: bucket.Versioning != metadata.Unversioned}
	s.Source = multipart.Source{Bucket: bucket.ID, Key: parsed.key, Version: parsed.at.Version, Null: parsed.at.Null}
	conditions := readConditions(c.r.Header, "X-Amz-Copy-Source-")
	s.Check = func(v metadata.Version) error {
		s.seen = v
		if conditions.decide(v) != proceed {
			return Code("PreconditionFailed")
		}
		if s.Span != nil && s.Span.Off+s.Span.Len > v.Size {
			return Code("InvalidArgument").because("Range specified is not valid for source object of size: " + strconv.FormatInt(v.Size, 10))
		}
		return nil
	}
	return s, nil
}

// show tells which version was copied.
func (s *openSource) show(c *call) {
	if s.versioned && !s.seen.ID.IsZero() {
		c.w.Header().Set("X-Amz-Copy-Source-Version-Id", versionName(s.seen.ID, s.seen.Null))
	}
}

// copyError makes a delete marker as source the client's fault, as S3 does.
func copyError(err error) error {
	if errors.Is(err, metadata.ErrDeleteMarker) && !errors.Is(err, metadata.ErrNoSuchKey) {
		return Code("InvalidRequest").because("The source of a copy request may not specifically refer to a delete marker by version id.")
	}
	return err
}

func deleteObject(c *call) error {
	at, err := c.at()
	if err != nil {
		return err
	}
	if c.header("X-Amz-If-Match-Last-Modified-Time") != "" || c.header("X-Amz-If-Match-Size") != "" {
		return Code("NotImplemented")
	}
	when, err := c.writeConditions()
	if err != nil {
		return err
	}
	done, err := c.remove(c.key, at, when)
	if err != nil {
		return err
	}
	if done.DeleteMarker {
		c.w.Header().Set("X-Amz-Delete-Marker", "true")
	}
	if at != (multipart.At{}) || done.DeleteMarker {
		c.showVersion(done.Version, done.Null)
	}
	c.empty(http.StatusNoContent)
	return nil
}

// remove deletes one object. Deleting what is not there succeeds, a version too.
func (c *call) remove(key string, at multipart.At, when metadata.If) (metadata.Deleted, error) {
	done, err := c.store().Delete(c.ctx(), metadata.Delete{Bucket: c.bucket.ID, Key: key, Version: at.Version, Null: at.Null, If: when})
	if when == (metadata.If{}) && (errors.Is(err, metadata.ErrNoSuchKey) || errors.Is(err, metadata.ErrNoSuchVersion)) {
		done, err = metadata.Deleted{Null: at.Null}, nil
		if at.Version != nil {
			done.Version = *at.Version
		}
	}
	return done, err
}
