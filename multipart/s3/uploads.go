package s3

import (
	"context"
	"encoding/xml"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3/xmlapi"
)

func createUpload(c *call) error {
	meta, err := c.meta()
	if err != nil {
		return err
	}
	request := multipart.CreateUpload{Bucket: c.bucket.ID, Key: c.key, Meta: meta}
	kind := c.header("X-Amz-Checksum-Type")
	if name := c.header("X-Amz-Checksum-Algorithm"); name != "" {
		a, known := findAlgorithm(name)
		if !known {
			return Code("InvalidRequest").because("Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
		}
		if kind == "" {
			kind = a.defaultType()
		}
		if !a.allows(kind) {
			return Code("InvalidRequest").because("The " + kind + " checksum type cannot be used with the " + strings.ToLower(a.name) + " checksum algorithm.")
		}
		request.ChecksumAlgorithm, request.ChecksumType = a.name, kind
	} else if kind != "" {
		return Code("InvalidRequest").because("The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.")
	}
	upload, err := c.store().CreateUpload(c.ctx(), request)
	if err != nil {
		return err
	}
	if request.ChecksumAlgorithm != "" {
		c.w.Header().Set("X-Amz-Checksum-Algorithm", request.ChecksumAlgorithm)
		c.w.Header().Set("X-Amz-Checksum-Type", request.ChecksumType)
	}
	c.xml(http.StatusOK, xmlapi.CreateUpload{Xmlns: xmlapi.Namespace, Bucket: c.bucketName, Key: c.key, UploadID: upload.ID.String()})
	return nil
}

// uploadID reads uploadId.
func (c *call) uploadID() (metadata.UploadID, error) {
	return metadata.ParseUploadID(c.query.Get("uploadId"))
}

// upload finds the upload and part number that the query names. An upload of a mount is nobody else's.
func (c *call) upload() (metadata.Upload, int, error) {
	number, err := strconv.Atoi(c.query.Get("partNumber"))
	if err != nil || number < 1 || number > multipart.MaxParts {
		return metadata.Upload{}, 0, Code("InvalidArgument").because("Part number must be an integer between 1 and 10000, inclusive.")
	}
	id, err := c.uploadID()
	if err != nil {
		return metadata.Upload{}, 0, err
	}
	upload, err := c.store().Upload(c.ctx(), c.bucket.ID, c.key, id)
	return upload, number, err
}

func uploadPart(c *call) error {
	// Looked up before the body is read, so that a wrong upload costs the client nothing.
	upload, number, err := c.upload()
	if err != nil {
		return err
	}
	var fallback *algorithm
	if a, known := findAlgorithm(upload.ChecksumAlgorithm); known {
		if sent := c.body.declared.algorithm; sent != nil && sent.name != a.name {
			return Code("InvalidRequest").because("Checksum Type mismatch occurred, expected checksum Type: " + strings.ToLower(a.name) + ", actual checksum Type: " + strings.ToLower(sent.name) + ".")
		}
		fallback = &a
	}
	body, err := c.body.object(multipart.MaxPart, fallback)
	if err != nil {
		return err
	}
	part, err := c.store().PutPart(c.ctx(), multipart.PutPart{Bucket: c.bucket.ID, Key: c.key, Upload: upload.ID, Number: number, Body: body})
	if err != nil {
		return err
	}
	c.w.Header().Set("Etag", quote(part.ETag))
	showChecksums(c.w.Header(), part.Checksums, "")
	c.empty(http.StatusOK)
	return nil
}

func uploadPartCopy(c *call) error {
	upload, number, err := c.upload()
	if err != nil {
		return err
	}
	source, err := c.source()
	if err != nil {
		return err
	}
	if header := c.header("X-Amz-Copy-Source-Range"); header != "" {
		span, err := parseCopyRange(header)
		if err != nil {
			return err
		}
		source.Span = &span
	}
	part, err := c.store().CopyPart(c.ctx(), multipart.CopyPart{Bucket: c.bucket.ID, Key: c.key, Upload: upload.ID, Number: number, Source: source.Source})
	if err != nil {
		return copyError(err)
	}
	source.show(c)
	c.xml(http.StatusOK, copyResult("CopyPartResult", part.ETag, xmlapi.Time(part.Modified), part.Checksums, ""))
	return nil
}

func copyResult(name, etag, modified string, sums map[string]string, kind string) xmlapi.CopyResult {
	return xmlapi.CopyResult{XMLName: xml.Name{Local: name}, Xmlns: xmlapi.Namespace, LastModified: modified, ETag: quote(etag), ChecksumType: kind, Checksums: xmlapi.FromMap(sums)}
}

func listParts(c *call) error {
	id, err := c.uploadID()
	if err != nil {
		return err
	}
	upload, err := c.store().Upload(c.ctx(), c.bucket.ID, c.key, id)
	if err != nil {
		return err
	}
	most, err := c.number("max-parts", maxPage, maxPage)
	if err != nil {
		return err
	}
	after, err := c.number("part-number-marker", 0, multipart.MaxParts)
	if err != nil {
		return err
	}
	parts, err := c.store().Parts(c.ctx(), c.bucket.ID, c.key, id, after, most+1)
	if err != nil {
		return err
	}
	result := xmlapi.ListParts{
		Xmlns: xmlapi.Namespace, Bucket: c.bucketName, Key: c.key, UploadID: id.String(), Initiator: owner(upload.Owner), Owner: owner(c.bucket.Owner),
		StorageClass: storageClass(upload.Template.Headers), PartNumberMarker: after, MaxParts: most, IsTruncated: most > 0 && len(parts) > most,
		ChecksumAlgorithm: upload.ChecksumAlgorithm, ChecksumType: upload.Template.ChecksumType,
	}
	for _, p := range parts[:min(len(parts), most)] {
		result.Parts = append(result.Parts, xmlapi.Part{PartNumber: p.Number, LastModified: xmlapi.Time(p.Modified), ETag: quote(p.ETag), Size: p.Size, Checksums: xmlapi.FromMap(p.Checksums)})
		result.NextPartNumberMarker = p.Number
	}
	c.xml(http.StatusOK, result)
	return nil
}

func abortUpload(c *call) error {
	id, err := c.uploadID()
	if err != nil {
		return err
	}
	if err := c.store().Abort(c.ctx(), c.bucket.ID, c.key, id); err != nil {
		return err
	}
	c.empty(http.StatusNoContent)
	return nil
}

func completeUpload(c *call) error {
	id, err := c.uploadID()
	if err != nil {
		return err
	}
	// The checksum headers speak of the object here, not of this body.
	data, err := c.body.all(xmlapi.MaxLongBody, false)
	if err != nil {
		return err
	}
	var request xmlapi.CompleteMultipartUpload
	if err := xmlapi.Unmarshal(data, &request); err != nil {
		return err
	}
	when, err := c.writeConditions()
	if err != nil {
		return err
	}
	complete := metadata.Complete{Bucket: c.bucket.ID, Key: c.key, Upload: id, If: when}
	if complete.Parts, err = completeParts(request.Parts); err != nil {
		return err
	}
	return c.keepAlive(func(ctx context.Context) (any, error) {
		v, err := c.complete(ctx, complete)
		if err != nil {
			return nil, err
		}
		scheme := "http"
		if c.r.TLS != nil {
			scheme = "https"
		}
		return completed{v, xmlapi.CompleteResult{
			Xmlns: xmlapi.Namespace, Location: scheme + "://" + c.r.Host + c.r.URL.EscapedPath(), Bucket: c.bucketName, Key: c.key,
			ETag: quote(v.ETag), ChecksumType: v.ChecksumType, Checksums: xmlapi.FromMap(v.Checksums),
		}}, nil
	})
}

// completed is the answer of a Complete with the version that its headers describe.
type completed struct {
	version metadata.Version
	body    xmlapi.CompleteResult
}

func completeParts(list []xmlapi.CompletePart) ([]metadata.CompletePart, error) {
	if len(list) == 0 || len(list) > multipart.MaxParts {
		return nil, Code("MalformedXML")
	}
	parts := make([]metadata.CompletePart, len(list))
	for i, p := range list {
		if p.ETag == "" {
			return nil, Code("MalformedXML") // without it, nothing says that the part is the one the client means
		}
		if p.PartNumber < 1 || p.PartNumber > multipart.MaxParts {
			return nil, Code("InvalidArgument").because("PartNumber must be an integer between 1 and 10000, inclusive.")
		}
		if i > 0 && p.PartNumber <= list[i-1].PartNumber {
			return nil, Code("InvalidPartOrder")
		}
		parts[i] = metadata.CompletePart{Number: p.PartNumber, ETag: unquote(p.ETag), Checksums: p.Map()}
	}
	return parts, nil
}

// complete works the object's checksum out and commits. An upload that is gone may have been completed by an earlier
// try of this request: the store knows, and then gives the same answer again.
func (c *call) complete(ctx context.Context, request metadata.Complete) (metadata.Version, error) {
	upload, err := c.store().Upload(ctx, c.bucket.ID, c.key, request.Upload)
	if errors.Is(err, metadata.ErrNoSuchUpload) {
		return c.store().Complete(ctx, request)
	}
	if err != nil {
		return metadata.Version{}, err
	}
	if err := c.sumParts(ctx, upload, &request); err != nil {
		return metadata.Version{}, err
	}
	return c.store().Complete(ctx, request)
}

// sumParts fills Checksums from the parts as they are now, and pins each listed part to what was seen: a part that is
// replaced meanwhile makes the commit fail instead of giving the object a checksum that is not its own.
func (c *call) sumParts(ctx context.Context, upload metadata.Upload, request *metadata.Complete) error {
	sizeHeader := c.header("X-Amz-Mp-Object-Size")
	a, summed := findAlgorithm(upload.ChecksumAlgorithm)
	if !summed && sizeHeader == "" {
		return c.compareObject(nil, "")
	}
	var sums []sizedSum
	size, after := int64(0), 0
	for len(sums) < len(request.Parts) {
		parts, err := c.store().Parts(ctx, c.bucket.ID, c.key, upload.ID, after, maxPage)
		if err != nil {
			return err
		}
		if len(parts) == 0 {
			return Code("InvalidPart")
		}
		after = parts[len(parts)-1].Number
		for _, p := range parts {
			if len(sums) == len(request.Parts) || p.Number < request.Parts[len(sums)].Number {
				continue
			}
			want := &request.Parts[len(sums)]
			if p.Number != want.Number || want.ETag != p.ETag {
				return Code("InvalidPart")
			}
			want.ETag = p.ETag
			sums = append(sums, sizedSum{p.Checksums[a.name], p.Size})
			size += p.Size
		}
	}
	if sizeHeader != "" && sizeHeader != strconv.FormatInt(size, 10) {
		return Code("InvalidRequest").because("The provided 'x-amz-mp-object-size' header does not match what was computed.")
	}
	if !summed {
		return c.compareObject(nil, "")
	}
	value, err := objectChecksum(a, upload.Template.ChecksumType, sums)
	if err != nil {
		return err
	}
	request.Checksums, request.ChecksumType = map[string]string{a.name: value}, upload.Template.ChecksumType
	return c.compareObject(request.Checksums, upload.Template.ChecksumType)
}

// compareObject compares the checksum that the client sent for the whole object with the one computed.
func (c *call) compareObject(sums map[string]string, kind string) error {
	if sent := c.header("X-Amz-Checksum-Type"); sent != "" && kind != "" && sent != kind {
		return Code("InvalidRequest").because("The upload was created with another checksum type.")
	}
	sent := c.body.declared
	if sent.algorithm == nil || sent.value == "" {
		return nil
	}
	computed, there := sums[sent.algorithm.name]
	if !there {
		return Code("InvalidRequest").because("The upload was created without this checksum algorithm.")
	}
	// Clients send composite values with the number of parts or without it.
	bare, _, _ := strings.Cut(computed, "-")
	if sent.value != computed && sent.value != bare {
		return Code("BadDigest")
	}
	return nil
}

// keepAlive runs work and answers with its result. Once it takes longer than the pause, the answer begins with status
// 200 and spaces, so that no one in between gives the connection up; an error then comes in the body, as on S3.
func (c *call) keepAlive(work func(context.Context) (any, error)) error {
	type result struct {
		answer any
		err    error
	}
	done := make(chan result, 1)
	go func() {
		answer, err := work(c.ctx())
		done <- result{answer, err}
	}()
	ticker := time.NewTicker(c.server.config.KeepAlive)
	defer ticker.Stop()
	for {
		select {
		case r := <-done:
			if r.err != nil && c.w.status == 0 {
				return r.err
			}
			if r.err != nil {
				c.err = r.err
				code, a := describe(r.err)
				return c.late(c.errorBody(code, a))
			}
			return c.sendCompleted(r.answer.(completed))
		case <-ticker.C:
			if err := c.space(); err != nil {
				r := <-done // the work is waited for: it runs on this request's context, which ends now
				return errors.Join(err, r.err)
			}
		}
	}
}

func (c *call) sendCompleted(done completed) error {
	if c.w.status != 0 {
		return c.late(done.body)
	}
	c.showNew(done.version)
	c.xml(http.StatusOK, done.body)
	return nil
}

// space sends one space; the first time behind the header, where XML allows it.
func (c *call) space() error {
	text := " "
	if c.w.status == 0 {
		c.w.Header().Set("Content-Type", "application/xml")
		text = xmlapi.Header + text
	}
	if _, err := c.w.Write([]byte(text)); err != nil {
		return err
	}
	return c.w.control.Flush()
}

// late sends the document behind spaces.
func (c *call) late(v any) error {
	data, err := xmlapi.Marshal(v)
	if err != nil {
		panic(err) // our own types always encode
	}
	_, err = c.w.Write(data)
	return err
}
