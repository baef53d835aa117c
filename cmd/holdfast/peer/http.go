package peer

import (
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast/holdfast/cluster/placement"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/multipart/s3"
)

// Reserved paths of the S3 listener.
const (
	livePath    = "/-/health/live"
	readyPath   = "/-/health/ready"
	metricsPath = "/-/metrics"
)

const tokenFile = "metrics.token"

// listen takes the address, so that a port in use is known before anything is made.
func (p *Peer) listen() error {
	listener, err := p.seams.Network.Listen(p.config.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("address %s is %w; choose another with --s3", p.config.Listen, ErrInUse)
	}
	if err != nil {
		return fmt.Errorf("listen at %s: %w", p.config.Listen, err)
	}
	p.listener = listener
	front, err := p.newFront()
	if err != nil {
		return err
	}
	p.server = s3.HTTPServer(p.config.Listen, front)
	p.server.ErrorLog = slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	if p.config.TLSCert == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(p.config.TLSCert, p.config.TLSKey)
	if err != nil {
		return fmt.Errorf("%w: certificate: %w", ErrConfig, err)
	}
	p.scheme = "https"
	p.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	return nil
}

// serve answers requests until the server is shut down.
func (p *Peer) serve() {
	var err error
	if p.scheme == "https" {
		err = p.server.ServeTLS(p.listener, "", "")
	} else {
		err = p.server.Serve(s3.ReadAhead(p.listener))
	}
	if !errors.Is(err, http.ErrServerClosed) {
		p.log.Error("the listener ended", "err", err)
	}
}

// front is what the HTTP server calls: the core's S3 face, or before there is a core, one that serves only reserved
// paths and answers 503 to everything else, mounts included.
type front struct {
	peer    *Peer
	waiting *s3.Server
}

// closedStore stands where the object path will be; front never lets a request through to it.
type closedStore struct{ s3.Store }

func (p *Peer) newFront() (*front, error) {
	waiting, err := s3.New(s3.Config{Store: closedStore{}, Keys: p.lookupKey, Domain: p.config.Domain, Now: p.seams.Now, Log: p.log})
	if err != nil {
		return nil, err
	}
	p.reserveHealth(waiting)
	waiting.Reserve(admin.Prefix, admin.Handler(source{p, nil}, rootOnly), false)
	return &front{peer: p, waiting: waiting}, nil
}

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c := f.peer.core.Load(); c != nil {
		c.face.ServeHTTP(w, r)
		return
	}
	// A mount asks again after a 503: its open files survive a restart.
	if strings.HasPrefix(r.URL.Path, "/-/") && !strings.HasPrefix(r.URL.Path, remote.PathPrefix) {
		f.waiting.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusServiceUnavailable)
	if r.Method != http.MethodHead {
		answer(w, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"+
			`<Error><Code>ServiceUnavailable</Code><Message>The store waits for its drives. Try again.</Message></Error>`)
	}
}

// answer writes a body whose client may have gone.
func answer(w io.Writer, text string) {
	if _, err := io.WriteString(w, text); err != nil {
		return // there is nobody to tell
	}
}

// reserve puts everything beside S3 on the core's face.
func (c *core) reserve(registry *prometheus.Registry) error {
	p := c.peer
	if err := registry.Register(collectors.NewGoCollector()); err != nil {
		return err
	}
	if err := registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})); err != nil {
		return err
	}
	if err := registry.Register(newStoreCollector(c)); err != nil {
		return err
	}
	p.reserveHealth(c.face)
	c.face.Reserve(admin.Prefix, admin.Handler(source{p, c}, rootOnly), false)
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelWarn)})
	c.face.Reserve(metricsPath, p.tokenOnly(metrics), true)
	c.reserveMount()
	return nil
}

func rootOnly(r *http.Request) bool {
	who, ok := s3.PrincipalFrom(r.Context())
	return ok && who.Root
}

// reserveHealth serves the two probes. Live is open to all and says only that the process answers. Ready is open to
// this machine and to the bearer of the metrics token, because it says what is wrong.
func (p *Peer) reserveHealth(face *s3.Server) {
	face.Reserve(livePath, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, "live\n") }), true)
	face.Reserve(readyPath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fromHere(r) && !p.bearsToken(r) {
			http.Error(w, "ask from the machine itself, or with the metrics token", http.StatusForbidden)
			return
		}
		if reasons := p.notReady(); len(reasons) > 0 {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "not ready: "+strings.Join(reasons, "; "), http.StatusServiceUnavailable)
			return
		}
		answer(w, "ready\n")
	}), true)
}

// notReady says why the peer cannot serve everything now, nothing when it can.
func (p *Peer) notReady() []string {
	c := p.core.Load()
	if c == nil {
		if reasons := p.whyNot(); len(reasons) > 0 {
			return reasons
		}
		return []string{"starting"}
	}
	var reasons []string
	if err := c.host.Failed(); err != nil {
		reasons = append(reasons, "names: "+oneLine(err))
	}
	if m := c.watcher.Map(); m.Epoch == 0 {
		reasons = append(reasons, "the topology was not read yet")
	} else if len(m.Placeable()) < placement.Least {
		reasons = append(reasons, fmt.Sprintf("the cluster has %d drives to write on, and needs %d", len(m.Placeable()), placement.Least))
	}
	for _, group := range []raft.GroupID{rootGroup, tabletGroup} {
		if _, _, ok := c.leaders.of(group); !ok {
			reasons = append(reasons, "nobody leads the "+groupNames[group])
		}
	}
	if reason := p.tooFew(); reason != "" {
		reasons = append(reasons, reason+": what needs them cannot be read until they return")
	}
	return reasons
}

func fromHere(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (p *Peer) bearsToken(r *http.Request) bool {
	given, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return found && p.token != "" && subtle.ConstantTimeCompare([]byte(given), []byte(p.token)) == 1
}

func (p *Peer) tokenOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.bearsToken(r) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "present the token of the data directory's metrics.token", http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// loadToken reads the metrics token, and makes one when there is none.
func loadToken(fsys vfs.FS, dir string) (string, error) {
	name := path.Join(dir, tokenFile)
	text, err := vfs.ReadFile(fsys, name, maxSmall)
	token := strings.TrimSpace(string(text))
	if err == nil && token != "" {
		return token, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the metrics token: %w", err)
	}
	random := make([]byte, 32)
	fill(random)
	token = hex.EncodeToString(random)
	if err := vfs.WriteFile(fsys, name, []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write the metrics token: %w", err)
	}
	return token, nil
}
