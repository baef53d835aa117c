package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3/sigv4"
	"github.com/holdfast/holdfast/multipart/s3/xmlapi"
)

// call is one authenticated request on its way through a handler.
type call struct {
	server *Server
	r      *http.Request
	w      *response
	id     string
	op     string // of the route
	host   string // without port
	who    Principal
	query  sigv4.Query
	body   *body

	bucketName, key string
	bucket          metadata.Bucket // set before the handlers of bucket and object routes run

	err error // what the request failed with, for the log
}

func (c *call) ctx() context.Context { return c.r.Context() }

func (c *call) store() Store { return c.server.config.Store }

// header returns one request header.
func (c *call) header(name string) string { return c.r.Header.Get(name) }

// locate finds bucket and key in a decoded path.
func (c *call) locate(vhost, path string) error {
	path = strings.TrimPrefix(path, "/")
	if vhost != "" {
		c.bucketName, c.key = vhost, path
	} else {
		c.bucketName, c.key, _ = strings.Cut(path, "/")
	}
	switch {
	case c.bucketName == "" && c.key == "":
		return nil
	case !validBucketName(c.bucketName):
		if c.bucketName == "-" {
			return Code("NoSuchKey") // an unknown reserved path
		}
		return Code("InvalidBucketName")
	}
	if c.key != "" {
		return checkKey(c.key)
	}
	return nil
}

// checkKey holds keys to S3's rules; beyond these they are opaque.
func checkKey(key string) error {
	switch {
	case key == "" || len(key) > multipart.MaxKey:
		return Code("KeyTooLongError")
	case !utf8.ValidString(key):
		return Code("InvalidURI")
	}
	return nil
}

// validBucketName holds the rules of general purpose buckets.
func validBucketName(name string) bool {
	if len(name) < 3 || len(name) > 63 || strings.Contains(name, "..") || net.ParseIP(name) != nil ||
		strings.HasPrefix(name, "xn--") || strings.HasSuffix(name, "-s3alias") || strings.HasSuffix(name, "--ol-s3") {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case (c == '-' || c == '.') && i > 0 && i < len(name)-1:
		default:
			return false
		}
	}
	return true
}

// fail answers with an error. When the header is out already, it breaks the connection: a cut answer must not look
// like a whole one.
func (c *call) fail(err error) {
	c.err = err
	if c.w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	if errors.Is(err, metadata.ErrDeleteMarker) {
		c.w.Header().Set("X-Amz-Delete-Marker", "true")
	}
	code, answer := describe(err)
	if answer.status == http.StatusServiceUnavailable {
		c.w.Header().Set("Retry-After", retryAfter)
	}
	if answer.status == http.StatusNotModified || c.r.Method == http.MethodHead {
		c.w.WriteHeader(answer.status)
		return
	}
	c.xml(answer.status, c.errorBody(code, answer))
}

func (c *call) errorBody(code Code, a answer) xmlapi.Error {
	resource := c.bucketName
	if c.key != "" {
		resource += "/" + c.key
	}
	return xmlapi.Error{Code: string(code), Message: a.message, Bucket: c.bucketName, Key: c.key, Resource: "/" + resource, RequestID: c.id, HostID: c.id}
}

// xml sends an XML answer.
func (c *call) xml(status int, v any) {
	data, err := xmlapi.Marshal(v)
	if err != nil {
		panic(err) // our own types always encode
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/xml")
	h.Set("Content-Length", strconv.Itoa(len(xmlapi.Header)+len(data)))
	c.w.WriteHeader(status)
	if _, err := c.w.Write(append([]byte(xmlapi.Header), data...)); err != nil {
		c.err = err // the client is gone; what it asked for is done
	}
}

// empty sends an answer without a body.
func (c *call) empty(status int) {
	if status != http.StatusNoContent {
		c.w.Header().Set("Content-Length", "0")
	}
	c.w.WriteHeader(status)
}

// readXML reads and decodes the body.
func (c *call) readXML(v any, limit int64) error {
	data, err := c.body.all(limit, true)
	if err != nil {
		return err
	}
	return xmlapi.Unmarshal(data, v)
}

// number reads a query parameter between 0 and most, fallback when it is not there. Larger values are cut to most.
func (c *call) number(name string, fallback, most int) (int, error) {
	if !c.query.Has(name) || c.query.Get(name) == "" {
		return fallback, nil
	}
	return parseNumber(name, c.query.Get(name), most)
}

func parseNumber(name, value string, most int) (int, error) {
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || n < 0 {
		return 0, Code("InvalidArgument").because("Argument " + name + " must be an integer between 0 and 2147483647.")
	}
	return min(int(n), most), nil
}

// at reads versionId.
func (c *call) at() (multipart.At, error) {
	return parseAt(c.query.Get("versionId"), c.query.Has("versionId"))
}

func parseAt(id string, given bool) (multipart.At, error) {
	switch {
	case !given:
		return multipart.At{}, nil
	case id == "null":
		return multipart.At{Null: true}, nil
	case id == "":
		return multipart.At{}, Code("InvalidArgument").because("Version id cannot be the empty string.")
	}
	version, err := metadata.ParseVersionID(id)
	if err != nil {
		return multipart.At{}, Code("InvalidArgument").because("Invalid version id specified.")
	}
	return multipart.At{Version: &version}, nil
}

// versionName is a version's id as clients see it.
func versionName(id metadata.VersionID, null bool) string {
	if null {
		return "null"
	}
	return id.String()
}

// showVersion sets x-amz-version-id where S3 does: in buckets that have or had versioning.
func (c *call) showVersion(id metadata.VersionID, null bool) {
	if c.bucket.Versioning != metadata.Unversioned {
		c.w.Header().Set("X-Amz-Version-Id", versionName(id, null))
	}
}

// showNew sets x-amz-version-id of a version that PUT or Complete made. S3 does not name null versions there, which
// buckets with suspended versioning get.
func (c *call) showNew(v metadata.Version) {
	if !v.Null {
		c.w.Header().Set("X-Amz-Version-Id", v.ID.String())
	}
}

// owner makes the stable 64-digit id that S3 gives for accounts; it reveals no access key.
func owner(name string) xmlapi.Owner {
	sum := sha256.Sum256([]byte("holdfast owner " + name))
	return xmlapi.Owner{ID: hex.EncodeToString(sum[:]), DisplayName: name}
}

func quote(etag string) string { return `"` + etag + `"` }

func unquote(etag string) string {
	etag = strings.TrimSpace(etag)
	if len(etag) >= 2 && etag[0] == '"' && etag[len(etag)-1] == '"' {
		return etag[1 : len(etag)-1]
	}
	return etag
}
