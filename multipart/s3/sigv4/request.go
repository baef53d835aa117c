package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	terminator = "aws4_request"
	service    = "s3"
	timeFormat = "20060102T150405Z"
	dateFormat = "20060102"

	paramAlgorithm     = "X-Amz-Algorithm"
	paramCredential    = "X-Amz-Credential"
	paramDate          = "X-Amz-Date"
	paramExpires       = "X-Amz-Expires"
	paramSignedHeaders = "X-Amz-SignedHeaders"
	paramSignature     = "X-Amz-Signature"
	paramPayload       = "X-Amz-Content-Sha256"

	headerDate    = "X-Amz-Date"
	headerPayload = "X-Amz-Content-Sha256"
)

// The values of x-amz-content-sha256 that are not digests.
const (
	Unsigned                 = "UNSIGNED-PAYLOAD"
	StreamingSigned          = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	StreamingSignedTrailer   = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	StreamingUnsignedTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
)

// EmptySHA256 is the digest of no bytes.
const EmptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// Request is what a signature covers, as it stands on the wire.
type Request struct {
	Method string
	Path   string // decoded once, see DecodePath
	Query  Query
	Host   string
	Header http.Header // not changed by Parse and Verify; Sign sets headers in it
}

// FromServer takes the request apart that a server of net/http received, from its unparsed target. The error wraps
// ErrURI.
func FromServer(r *http.Request) (*Request, error) {
	target := r.RequestURI
	if !strings.HasPrefix(target, "/") {
		// The absolute form, which proxies send: net/http has put its authority into r.Host.
		_, rest, found := strings.Cut(target, "://")
		if !found {
			return nil, fmt.Errorf("request target has no path: %w", ErrURI)
		}
		slash := strings.IndexAny(rest, "/?")
		switch {
		case slash < 0:
			target = "/"
		case rest[slash] == '?':
			target = "/" + rest[slash:]
		default:
			target = rest[slash:]
		}
	}
	rawPath, rawQuery, _ := strings.Cut(target, "?")
	path, err := DecodePath(rawPath)
	if err != nil {
		return nil, err
	}
	query, err := ParseQuery(rawQuery)
	if err != nil {
		return nil, err
	}
	header := r.Header
	if len(r.TransferEncoding) > 0 || header.Get("Content-Length") == "" && r.ContentLength >= 0 {
		// net/http takes these two out of the header, but a client may have signed them.
		header = header.Clone()
		if len(r.TransferEncoding) > 0 {
			header.Set("Transfer-Encoding", strings.Join(r.TransferEncoding, ","))
		} else {
			header.Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
		}
	}
	return &Request{Method: r.Method, Path: path, Query: query, Host: r.Host, Header: header}, nil
}

// FromClient takes a request apart that is about to be sent, for Sign and Presign. The error wraps ErrURI.
func FromClient(r *http.Request) (*Request, error) {
	raw := r.URL.EscapedPath()
	if raw == "" {
		raw = "/"
	}
	path, err := DecodePath(raw)
	if err != nil {
		return nil, err
	}
	query, err := ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	return &Request{Method: r.Method, Path: path, Query: query, Host: host, Header: r.Header}, nil
}

// canonical gives the canonical request over the given signed headers.
func (r *Request) canonical(signed []string, payload string) string {
	var b strings.Builder
	b.WriteString(r.Method + "\n" + EncodePath(r.Path) + "\n" + r.Query.canonical() + "\n")
	for _, name := range signed {
		b.WriteString(name + ":" + r.headerValue(name) + "\n")
	}
	b.WriteString("\n" + strings.Join(signed, ";") + "\n" + payload)
	return b.String()
}

func (r *Request) headerValue(name string) string {
	if name == "host" {
		return strings.TrimSpace(r.Host)
	}
	values := r.Header[http.CanonicalHeaderKey(name)]
	trimmed := make([]string, len(values))
	for i, v := range values {
		trimmed[i] = squeeze(v)
	}
	return strings.Join(trimmed, ",")
}

// squeeze trims a header value and makes one space of several.
func squeeze(v string) string {
	v = strings.TrimSpace(v)
	if !strings.Contains(v, "  ") {
		return v
	}
	return strings.Join(strings.FieldsFunc(v, func(c rune) bool { return c == ' ' }), " ")
}

// scope is what a signing key is good for.
type scope struct{ date, region, service string }

func (s scope) String() string {
	return s.date + "/" + s.region + "/" + s.service + "/" + terminator
}

func (s scope) key(secret string) []byte {
	key := mac([]byte("AWS4"+secret), s.date)
	key = mac(key, s.region)
	key = mac(key, s.service)
	return mac(key, terminator)
}

func mac(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(data))
	return h.Sum(nil)
}

func hexSHA256(data string) string {
	sum := sha256.Sum256([]byte(data))
	return hex.EncodeToString(sum[:])
}

// sign returns the hexadecimal signature of a request.
func (r *Request) sign(key []byte, at time.Time, sc scope, signed []string, payload string) string {
	text := algorithm + "\n" + at.UTC().Format(timeFormat) + "\n" + sc.String() + "\n" + hexSHA256(r.canonical(signed, payload))
	return hex.EncodeToString(mac(key, text))
}
