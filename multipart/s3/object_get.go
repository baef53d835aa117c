package s3

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// open opens the version that the request names.
func (c *call) open() (multipart.Object, error) {
	at, err := c.at()
	if err != nil {
		return nil, err
	}
	object, err := c.store().Open(c.ctx(), c.bucket.ID, c.key, at)
	var met *multipart.MarkerError
	if errors.As(err, &met) {
		c.showMarker(met.Marker, at != multipart.At{})
	}
	return object, err
}

// showMarker tells which delete marker stands in the way. One that was asked for by its id can only be deleted.
func (c *call) showMarker(marker metadata.Version, named bool) {
	c.showVersion(marker.ID, marker.Null)
	if named {
		c.w.Header().Set("Last-Modified", marker.Modified.UTC().Format(http.TimeFormat))
		c.w.Header().Set("Allow", http.MethodDelete)
	}
}

// getObject serves GET and HEAD, which differ in the body alone.
func getObject(c *call) error {
	object, err := c.open()
	if err != nil {
		return err
	}
	defer c.release(object)
	v := object.Version()
	c.showObject(v)
	switch readConditions(c.r.Header, "").decide(v) {
	case notModified:
		c.w.Header().Del("Content-Type")
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	case failed:
		c.dropObject()
		return Code("PreconditionFailed")
	}
	span, partial, err := c.span(object, v)
	if err != nil {
		c.dropObject()
		if errors.Is(err, Code("InvalidRange")) {
			c.w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(v.Size, 10))
		}
		return err
	}
	h := c.w.Header()
	for param, header := range map[string]string{
		"response-content-type": "Content-Type", "response-content-language": "Content-Language", "response-expires": "Expires",
		"response-cache-control": "Cache-Control", "response-content-disposition": "Content-Disposition", "response-content-encoding": "Content-Encoding",
	} {
		if c.query.Has(param) {
			h.Set(header, c.query.Get(param))
		}
	}
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		if v.Size > 0 {
			h.Set("Content-Range", contentRange(span, v.Size))
		}
	} else if strings.EqualFold(c.header("X-Amz-Checksum-Mode"), "ENABLED") {
		showChecksums(h, v.Checksums, v.ChecksumType)
	}
	h.Set("Content-Length", strconv.FormatInt(span.Len, 10))
	if c.r.Method == http.MethodHead || span.Len == 0 {
		c.w.WriteHeader(status)
		return nil
	}
	return c.send(object, span, status)
}

// release closes what was read from. What it read was verified by then, so a failure to close is the operator's
// business and not the client's.
func (c *call) release(from io.Closer) {
	if err := from.Close(); err != nil {
		c.server.config.Log.Warn("close after reading failed", "bucket", c.bucketName, "key", c.key, "request", c.id, "err", err)
	}
}

// send streams a span. The first piece is read before the header goes out, so that an object whose bytes cannot be had
// gives an error and no promise; a failure behind it breaks the connection.
func (c *call) send(object multipart.Object, span multipart.Span, status int) error {
	reader := object.Read(c.ctx(), span)
	defer c.release(reader)
	buf := make([]byte, min(pieceSize, span.Len))
	n, err := io.ReadFull(reader, buf)
	if err != nil {
		c.dropObject()
		return tooShort(err)
	}
	c.w.WriteHeader(status)
	left := span.Len
	for {
		if _, err := c.w.Write(buf[:n]); err != nil {
			return err
		}
		if left -= int64(n); left == 0 {
			return nil
		}
		if n, err = io.ReadFull(reader, buf[:min(pieceSize, left)]); err != nil {
			return tooShort(err)
		}
	}
}

// tooShort makes an object that ended early the server's fault, whatever words the reader had for it.
func tooShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.Join(err, Code("InternalError"))
	}
	return err
}

// span finds the bytes that Range or partNumber asks for.
func (c *call) span(object multipart.Object, v metadata.Version) (span multipart.Span, partial bool, err error) {
	header := c.header("Range")
	if c.query.Has("partNumber") {
		if header != "" {
			return span, false, Code("InvalidRequest").because("Cannot specify both Range header and partNumber query parameter.")
		}
		n, err := strconv.Atoi(c.query.Get("partNumber"))
		if err != nil || n < 1 || n > multipart.MaxParts {
			return span, false, Code("InvalidArgument").because("Part number must be an integer between 1 and 10000, inclusive.")
		}
		span, count, err := object.PartSpan(c.ctx(), n)
		if errors.Is(err, metadata.ErrInvalidPart) {
			return span, false, Code("InvalidPartNumber")
		}
		if err == nil && count > 0 {
			c.w.Header().Set("X-Amz-Mp-Parts-Count", strconv.Itoa(count))
		}
		return span, true, err
	}
	if condition := c.header("If-Range"); header == "" || condition != "" && !c.sameAs(condition, v) {
		return multipart.Span{Len: v.Size}, false, nil
	}
	return parseRange(header, v.Size)
}

// sameAs tells whether If-Range names the version, by ETag or by time.
func (c *call) sameAs(condition string, v metadata.Version) bool {
	if at, err := http.ParseTime(condition); err == nil {
		return v.Modified.Unix() <= at.Unix()
	}
	return unquote(condition) == v.ETag
}

// showObject sets the headers that describe a version.
func (c *call) showObject(v metadata.Version) {
	h := c.w.Header()
	h.Set("Content-Type", defaultType)
	for name, value := range v.Headers {
		if !strings.ContainsFunc(value, isControl) {
			h.Set(name, value)
		}
	}
	for name, value := range v.Meta {
		// Written in lower case, as S3 does: botocore hands the name on as it came over the wire.
		h[name] = []string{encodeText(value)}
	}
	h.Set("Etag", quote(v.ETag))
	h.Set("Last-Modified", v.Modified.UTC().Format(http.TimeFormat))
	h.Set("Accept-Ranges", "bytes")
	c.showVersion(v.ID, v.Null)
	if len(v.Tags) > 0 {
		h.Set("X-Amz-Tagging-Count", strconv.Itoa(len(v.Tags)))
	}
}

// dropObject takes them back for an error: what may not be read is not described.
func (c *call) dropObject() {
	keep := map[string]bool{"Server": true, "X-Amz-Request-Id": true, "X-Amz-Id-2": true, "X-Content-Type-Options": true}
	for name := range c.w.Header() {
		if !keep[name] {
			c.w.Header().Del(name)
		}
	}
}

// isControl finds what would break a header: a value may have come in by XML or by the mount.
func isControl(c rune) bool { return c < ' ' || c == 0x7f }

func showChecksums(h http.Header, sums map[string]string, kind string) {
	for name, value := range sums {
		h.Set(checksumPrefix+strings.ToLower(name), value)
	}
	if len(sums) > 0 && kind != "" {
		h.Set("X-Amz-Checksum-Type", kind)
	}
}
