package s3

import (
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

// systemHeaders are the headers that an object keeps as they are, in lower case.
var systemHeaders = [...]string{"content-type", "cache-control", "content-disposition", "content-language", "content-encoding", "expires", redirectHeader}

// ownHeaders are those of them that a copy never takes from its source: it has what its request says, or the default.
var ownHeaders = [...]string{storageClassHeader, redirectHeader}

const (
	storageClassHeader = "x-amz-storage-class"
	redirectHeader     = "x-amz-website-redirect-location"
	standardClass      = "STANDARD"
	defaultType        = "binary/octet-stream"
)

// metaPrefixes begin the headers of user metadata. Both are treated alike and come back under the name they came with.
var metaPrefixes = [...]string{"x-amz-meta-", "x-csp-meta-"}

// storageClasses may be asked for; all are kept alike, and shown as they were asked for.
var storageClasses = [...]string{standardClass, "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER", "DEEP_ARCHIVE", "GLACIER_IR"}

// hoist makes headers of the signed query parameters that SDKs put there when they presign: metadata, storage class, ACL
// and what is refused. Others mean nothing in a query, on S3 neither: the SDK for JavaScript signs the checksum of an
// empty body into the URL of every upload.
func hoist(query sigv4.Query, h http.Header) error {
	for _, p := range query {
		if !hoistable(strings.ToLower(p.Name)) {
			continue
		}
		if sent := h.Values(p.Name); len(sent) > 0 && !slices.Equal(sent, []string{p.Value}) {
			return Code("InvalidRequest").because("Conflicting values provided in HTTP headers and query parameters.")
		}
		h.Set(p.Name, p.Value)
	}
	return nil
}

func hoistable(name string) bool {
	begins := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	is := func(header string) bool { return strings.EqualFold(name, header) }
	return name == storageClassHeader || name == "x-amz-acl" || begins("x-amz-grant-") ||
		slices.ContainsFunc(metaPrefixes[:], begins) || slices.ContainsFunc(refusedHeaders[:], is)
}

// meta reads what a request says of the object that it makes.
func (c *call) meta() (multipart.Meta, error) {
	headers, err := systemMeta(c.r.Header)
	if err != nil {
		return multipart.Meta{}, err
	}
	user, err := userMeta(c.r.Header)
	if err != nil {
		return multipart.Meta{}, err
	}
	tags, err := parseTagHeader(c.header("X-Amz-Tagging"))
	if err != nil {
		return multipart.Meta{}, err
	}
	return multipart.Meta{Headers: headers, User: user, Tags: tags, Owner: c.who.AccessKey}, c.checkACL()
}

func systemMeta(h http.Header) (map[string]string, error) {
	kept := map[string]string{}
	for _, name := range systemHeaders {
		value := strings.Join(h.Values(name), ",")
		if name == "content-encoding" {
			value = stripChunked(value)
		}
		if len(value) > maxSystemHeader {
			return nil, Code("InvalidArgument").because("The header " + name + " is too long.")
		}
		if value != "" {
			kept[name] = value
		}
	}
	if to := kept[redirectHeader]; to != "" && !redirects(to) {
		return nil, Code("InvalidRedirectLocation")
	}
	class := h.Get(storageClassHeader)
	if class != "" && !slices.Contains(storageClasses[:], class) {
		return nil, Code("InvalidStorageClass")
	}
	if class != "" && class != standardClass {
		kept[storageClassHeader] = class
	}
	return kept, nil
}

// redirects tells whether a website may redirect to a place: a path, or a URL of the web.
func redirects(to string) bool {
	return strings.HasPrefix(to, "/") || strings.HasPrefix(to, "http://") || strings.HasPrefix(to, "https://")
}

// stripChunked takes aws-chunked, which describes the wire alone, out of a list of codings.
func stripChunked(value string) string {
	var kept []string
	for coding := range strings.SplitSeq(value, ",") {
		if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "aws-chunked") {
			kept = append(kept, coding)
		}
	}
	return strings.Join(kept, ",")
}

// userMeta reads user metadata by lower-case header name. Values are text: RFC 2047 words are decoded, and bytes that
// are not UTF-8 are taken for Latin-1, as HTTP once said.
func userMeta(h http.Header) (map[string]string, error) {
	meta := map[string]string{}
	size := 0
	for name, values := range h {
		lower := strings.ToLower(name)
		for _, prefix := range metaPrefixes {
			short, is := strings.CutPrefix(lower, prefix)
			if !is || short == "" {
				continue
			}
			value := decodeText(strings.Join(values, ","))
			meta[lower] = value
			size += len(short) + len(value)
		}
	}
	if size > maxUserMeta {
		return nil, Code("MetadataTooLarge")
	}
	return meta, nil
}

func decodeText(value string) string {
	if !utf8.ValidString(value) {
		runes := make([]rune, len(value))
		for i := range len(value) {
			runes[i] = rune(value[i])
		}
		return string(runes)
	}
	if !strings.Contains(value, "=?") {
		return value
	}
	decoded, err := new(mime.WordDecoder).DecodeHeader(value)
	if err != nil || strings.ContainsFunc(decoded, func(c rune) bool { return c < ' ' }) {
		return value // not a word after all, or one that hides a line break
	}
	return decoded
}

// encodeText is the form in which a header can hold a value: ASCII as it is, other text as RFC 2047 words.
func encodeText(value string) string { return mime.BEncoding.Encode("UTF-8", value) }

// parseTagHeader reads x-amz-tagging, a query string.
func parseTagHeader(value string) (map[string]string, error) {
	if value == "" {
		return nil, nil
	}
	query, err := sigv4.ParseQuery(value)
	if err != nil {
		return nil, Code("InvalidArgument").because("The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.")
	}
	tags := map[string]string{}
	for _, p := range query {
		if _, twice := tags[p.Name]; twice {
			return nil, Code("InvalidTag").because("Cannot provide multiple Tags with the same key.")
		}
		tags[p.Name] = p.Value
	}
	return tags, checkTags(tags)
}

func checkTags(tags map[string]string) error {
	if len(tags) > maxTags {
		return Code("InvalidTag").because("Object tags cannot be greater than 10.")
	}
	for key, value := range tags {
		switch {
		case key == "" || utf8.RuneCountInString(key) > maxTagKey || !utf8.ValidString(key):
			return Code("InvalidTag").because("The TagKey you have provided is invalid.")
		case utf8.RuneCountInString(value) > maxTagValue || !utf8.ValidString(value):
			return Code("InvalidTag").because("The TagValue you have provided is invalid.")
		case strings.HasPrefix(key, "aws:"):
			return Code("InvalidTag").because("System tags cannot be added or updated by requester.")
		}
	}
	return nil
}

// copySource is a parsed x-amz-copy-source.
type copySource struct {
	bucket, key string
	at          multipart.At
}

// parseCopySource reads "[/]bucket/key[?versionId=id]", escaped once. The question mark is looked for before anything
// is decoded, and nothing is decoded twice.
func parseCopySource(value string) (copySource, error) {
	if len(value) > maxCopySource {
		return copySource{}, Code("InvalidArgument").because("Copy Source is too long.")
	}
	raw, version, versioned := strings.Cut(value, "?versionId=")
	path, err := url.PathUnescape(raw)
	if err != nil {
		return copySource{}, Code("InvalidArgument").because("Copy Source is not properly URL-encoded.")
	}
	var s copySource
	var found bool
	s.bucket, s.key, found = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !found || s.key == "" || !validBucketName(s.bucket) {
		return copySource{}, Code("InvalidArgument").because("Copy Source must mention the source bucket and key: sourcebucket/sourcekey.")
	}
	if err := checkKey(s.key); err != nil {
		return copySource{}, err
	}
	s.at, err = parseAt(version, versioned)
	return s, err
}
