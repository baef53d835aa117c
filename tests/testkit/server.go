// Package testkit runs the holdfast binary for tests: a server in a directory of its own, on a port of its own, with
// known keys, over HTTP or HTTPS, with or without a mount; and the programs that users point at it. Everything it
// starts dies with the test, also after a panic, and mounts are taken down.
package testkit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/tests/expect"
)

// The keys of every server that a test starts.
const (
	AccessKey = "HOLDFASTTESTKEY"
	SecretKey = "holdfast-test-secret-0123456789abcdef"
)

// Options say how to run a server. The zero Options are 12 drives in a fresh directory over HTTP with no mount.
type Options struct {
	Dir   string // "" is a fresh directory
	TLS   bool
	Mount bool
	// Args are added to the command line, Env to the environment.
	Args []string
	Env  []string
}

// Server is a running `holdfast up`.
type Server struct {
	t        testing.TB
	options  Options
	Dir      string
	MountDir string // "" without a mount
	Addr     string // host:port
	Endpoint string // http://… or https://…
	CAFile   string // certificate to trust, "" over HTTP

	process *process // nil while it does not run
	output  *expect.Buffer
}

// Binary is the holdfast binary under test: HOLDFAST_BIN, or one built once for this test process.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("HOLDFAST_BIN"); path != "" {
		return path
	}
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-bin-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "holdfast")
	command := exec.Command("go", "build", "-o", path, "github.com/holdfast/holdfast/cmd/holdfast")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build holdfast: %w\n%s", err, out)
	}
	return path, nil
})

// Up starts a server and waits until it is ready. It is stopped when the test ends.
func Up(t testing.TB, options Options) *Server {
	t.Helper()
	s := Prepare(t, options)
	s.Start()
	s.WaitReady(30 * time.Second)
	return s
}

// Prepare chooses directory, port and certificate without starting anything.
func Prepare(t testing.TB, options Options) *Server {
	t.Helper()
	s := &Server{t: t, options: options, Dir: options.Dir, Addr: freeAddr(t)}
	if s.Dir == "" {
		s.Dir = filepath.Join(t.TempDir(), "data")
	}
	s.Endpoint = "http://" + s.Addr
	if options.TLS {
		s.Endpoint = "https://" + s.Addr
		s.CAFile = writeCertificate(t)
	}
	if options.Mount {
		if _, err := os.Stat("/dev/fuse"); err != nil {
			t.Skip("this machine has no /dev/fuse")
		}
		s.MountDir = filepath.Join(t.TempDir(), "mnt")
		if err := os.Mkdir(s.MountDir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.cleanup)
	return s
}

// Start starts the process; it does not wait.
func (s *Server) Start() {
	s.t.Helper()
	args := []string{"up", "--dir", s.Dir, "--s3", s.Addr}
	if s.CAFile != "" {
		args = append(args, "--tls-cert", s.CAFile, "--tls-key", s.CAFile+".key")
	}
	if s.MountDir != "" {
		args = append(args, "--mount", s.MountDir)
	}
	s.process = startProcess(s.t, append(s.Env(), s.options.Env...), Binary(s.t), append(args, s.options.Args...)...)
	s.output = s.process.output
}

// Env is the environment for clients and servers: known keys, no foreign configuration.
func (s *Server) Env() []string { return environment(s.Endpoint, rootKey...) }

// WaitReady waits until the server is ready, and its mount is there when one was asked for. It returns how long it took.
func (s *Server) WaitReady(limit time.Duration) time.Duration {
	s.t.Helper()
	begin := time.Now()
	Poll(s.t, limit, "the server to become ready", func() bool {
		if s.process.ended() {
			s.t.Fatalf("server ended: %v\n%s", s.process.waitErr, s.output)
		}
		return s.Ready() && (s.MountDir == "" || s.Mounted())
	})
	return time.Since(begin)
}

// Ready asks the server whether it serves.
func (s *Server) Ready() bool {
	response, err := s.HTTP().Get(s.Endpoint + "/-/health/ready")
	if err != nil {
		return false
	}
	_, copyErr := io.Copy(io.Discard, response.Body)
	closeErr := response.Body.Close()
	return copyErr == nil && closeErr == nil && response.StatusCode == http.StatusOK
}

// HTTP is a client that trusts the server's certificate.
func (s *Server) HTTP() *http.Client {
	return &http.Client{Transport: Transport(s.t, s.CAFile), Timeout: 10 * time.Second}
}

// Mounted tells whether a file system is mounted at MountDir.
func (s *Server) Mounted() bool { return isMounted(s.MountDir) }

// Kill kills the server and its children without warning and takes the dead mount away.
func (s *Server) Kill() {
	s.t.Helper()
	if s.process != nil {
		s.process.kill(s.t)
		s.process = nil
	}
	s.unmount()
}

// Stop asks the server to stop and waits for it.
func (s *Server) Stop() {
	s.t.Helper()
	if s.process == nil {
		return
	}
	err := s.process.stop(s.t, 40*time.Second)
	s.process = nil
	if err != nil {
		s.t.Errorf("server did not stop cleanly: %v\n%s", err, s.output)
	}
}

// Output is what the server printed so far.
func (s *Server) Output() string { return s.output.String() }

// PID is the process id of the running server.
func (s *Server) PID() int { return s.process.pid() }

func (s *Server) cleanup() {
	s.Kill()
	if s.t.Failed() && s.output != nil {
		s.t.Logf("server output:\n%s", tail(s.output.String(), 800<<10))
	}
}

// unmount aborts the connection of a mount that nobody serves any more and takes it away.
func (s *Server) unmount() {
	if s.MountDir == "" {
		return
	}
	takeAway(s.t, s.MountDir)
}

// Run runs a program with the server's environment and fails the test when it fails or takes longer than limit.
func (s *Server) Run(limit time.Duration, name string, args ...string) string {
	s.t.Helper()
	out, err := s.Try(limit, name, args...)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, tail(out, 4<<10))
	}
	return out
}

// Try is Run for programs that may fail.
func (s *Server) Try(limit time.Duration, name string, args ...string) (string, error) {
	_, all, err := runProgram(limit, s.Env(), name, args...)
	return all, err
}

// Holdfast runs a command of the binary under test.
func (s *Server) Holdfast(args ...string) string {
	s.t.Helper()
	return s.Run(2*time.Minute, Binary(s.t), args...)
}

// Poll waits until ok, and fails the test after limit.
func Poll(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	PollEvery(t, 20*time.Millisecond, limit, what, ok)
}

// PollEvery is Poll for what costs something to ask.
func PollEvery(t testing.TB, interval, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", limit, what)
		}
		<-tick.C
	}
}

// Need fails the test when a program is not installed.
func Need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is not installed; `make setup` installs it", program)
	}
	return path
}

func freeAddr(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return addr
}

func writeCertificate(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "holdfast test"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "server.pem")
	for name, block := range map[string]*pem.Block{path: {Type: "CERTIFICATE", Bytes: der}, path + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}
