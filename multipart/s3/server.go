package s3

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

// reservedRoot begins the paths that no bucket can have: a bucket name is never "-".
const reservedRoot = "/-/"

// Config says what a Server stands on.
type Config struct {
	Store Store
	// Keys looks access keys up, once a request.
	Keys Keys
	// Region is what clients are told; requests signed for any region are accepted. Empty means us-east-1.
	Region string
	// Domain, when set, serves bucket.Domain as well as paths (virtual-hosted style). Several are separated by commas.
	Domain string
	// Now is the clock that signatures are checked against; nil means time.Now.
	Now func() time.Time
	// Log takes a line a request at debug level and faults at error level; nil means none.
	Log *slog.Logger
	// Metrics registers the series of metrics.go; nil means that they are kept and not shown.
	Metrics prometheus.Registerer
	// KeepAlive is the pause between the spaces that a long CompleteMultipartUpload sends. Zero means 10 s.
	KeepAlive time.Duration
}

// Server answers S3 requests. It is an http.Handler that must stand directly under an http.Server, because a mux in
// between would clean paths.
type Server struct {
	config   Config
	domains  []string
	reserved []reservation
	metrics  *metrics
	routes   []route

	signingKeys signingKeys
}

// reservation is a reserved path with its handler.
type reservation struct {
	prefix  string
	handler http.Handler
	open    bool
}

// New returns a Server.
func New(c Config) (*Server, error) {
	if c.Store == nil || c.Keys == nil {
		return nil, errors.New("s3 server needs a store and a lookup of access keys")
	}
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = keepAlive
	}
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Server{config: c, metrics: m, routes: routes()}
	for domain := range strings.SplitSeq(c.Domain, ",") {
		if domain = strings.ToLower(strings.TrimSpace(domain)); domain != "" {
			s.domains = append(s.domains, "."+domain)
		}
	}
	return s, nil
}

// Reserve serves the paths that begin with prefix, such as "/-/admin/", or equal it when it does not end with a slash,
// by h. Unless open, h runs only for requests whose signature was verified: PrincipalFrom tells whose it is, and the
// request's body is the decoded, verifying one. An open handler gets the request as it came and answers for its own
// safety. All calls of Reserve must be made before the first request.
func (s *Server) Reserve(prefix string, h http.Handler, open bool) {
	if !strings.HasPrefix(prefix, reservedRoot) || h == nil {
		panic("s3: reserved paths begin with " + reservedRoot)
	}
	for _, r := range s.reserved {
		if r.prefix == prefix {
			panic("s3: " + prefix + " is reserved twice")
		}
	}
	s.reserved = append(s.reserved, reservation{prefix, h, open})
}

// Reserved are the paths that Reserve took, in the order of its calls.
func (s *Server) Reserved() []string {
	var prefixes []string
	for _, r := range s.reserved {
		prefixes = append(prefixes, r.prefix)
	}
	return prefixes
}

// findReserved finds the longest reservation that covers a path.
func (s *Server) findReserved(path string) (found reservation) {
	for _, r := range s.reserved {
		if path == r.prefix || strings.HasSuffix(r.prefix, "/") && strings.HasPrefix(path, r.prefix) {
			if len(r.prefix) > len(found.prefix) {
				found = r
			}
		}
	}
	return found
}

// HTTPServer returns a server for handler with the limits that keep slow and hostile clients from using it up. It
// speaks HTTP/1.1 only, as S3 does.
func HTTPServer(addr string, handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Addr:              addr,
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         protocols,
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{server: s, r: r, w: newResponse(w, r), id: requestID(), op: "Unknown"}
	header := c.w.Header()
	header.Set("Server", "holdfast")
	header.Set("X-Amz-Request-Id", c.id)
	header.Set("X-Amz-Id-2", c.id)
	header.Set("X-Content-Type-Options", "nosniff")
	done := s.metrics.begin()
	defer func() { s.finish(c, done()) }()
	if err := s.serve(c); err != nil {
		c.fail(err)
	}
}

// serve takes a request through the door and to its handler.
func (s *Server) serve(c *call) error {
	request, err := sigv4.FromServer(c.r)
	if err != nil {
		return err
	}
	host, vhost := s.virtualBucket(c.r.Host)
	var special reservation
	if vhost == "" {
		special = s.findReserved(request.Path)
	}
	if special.open {
		c.op = "Reserved"
		special.handler.ServeHTTP(c.w, c.r)
		return nil
	}
	auth, err := s.authenticate(c.w, c.r, request)
	if err != nil {
		return err
	}
	c.who, c.query, c.body = auth.who, request.Query, auth.body
	ctx := context.WithValue(c.r.Context(), principalKey{}, auth.who)
	if special.handler != nil {
		c.op = "Reserved"
		inner := c.r.WithContext(ctx)
		inner.Body = struct {
			io.Reader
			io.Closer
		}{auth.body.reader, c.r.Body}
		special.handler.ServeHTTP(c.w, inner)
		return nil
	}
	c.r = c.r.WithContext(ctx)
	c.r.Body = http.NoBody // what handlers read is c.body
	c.host = host
	if err := c.locate(vhost, request.Path); err != nil {
		return err
	}
	return c.dispatch()
}

// virtualBucket finds the bucket that a host names in virtual-hosted style, "" for path style.
func (s *Server) virtualBucket(host string) (hostname, bucket string) {
	name := strings.ToLower(host)
	if i := strings.LastIndexByte(name, ':'); i >= 0 && !strings.HasSuffix(name, "]") {
		name = name[:i]
	}
	for _, domain := range s.domains {
		if bucket, found := strings.CutSuffix(name, domain); found && bucket != "" {
			return name, bucket
		}
	}
	return name, ""
}

// finish writes the access line and counts the request.
func (s *Server) finish(c *call, took time.Duration) {
	status := c.w.status
	if status == 0 {
		status = http.StatusOK
	}
	s.metrics.observe(c.op, status, took, c.w)
	log := s.config.Log
	attrs := []any{"op", c.op, "status", status, "bucket", c.bucketName, "key", c.key, "access_key", c.who.AccessKey,
		"bytes", c.w.bytes, "took", took, "request", c.id, "remote", c.r.RemoteAddr}
	switch {
	case c.err != nil && c.r.Context().Err() != nil:
		log.Debug("client went away", append(attrs, "err", c.err)...)
	case c.err != nil && fault(status):
		log.Error("request failed", append(attrs, "err", c.err)...)
	case c.err != nil:
		log.Debug("request refused", append(attrs, "err", c.err)...)
	default:
		log.Debug("request", attrs...)
	}
}

// requestID is 16 hexadecimal digits in upper case, as S3's.
func requestID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails, says its contract
	return strings.ToUpper(hex.EncodeToString(b[:]))
}
