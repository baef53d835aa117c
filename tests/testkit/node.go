package testkit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/tests/expect"
)

// Node is a peer of a Cluster. Its methods are for the goroutine of the test, but for Alive and Endpoint.
type Node struct {
	Name, Zone string
	Host       string
	Endpoint   string   // of its gateway
	Dir        string   // its own state
	Drives     []string // directories

	c       *Cluster
	before  []string
	token   string   // what it joined with, "" for the first
	mounts  []string // drives that are mounted
	process *process
	outputs []*expect.Buffer // of every run

	mu   sync.Mutex
	down bool // it does not run, or is stopped
}

// mountDrives makes each drive a file system in memory.
func (n *Node) mountDrives(size int64) {
	t := n.c.t
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	for _, d := range n.Drives {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", d, "tmpfs", 0, fmt.Sprint("size=", size)); err != nil {
			t.Skipf("this kernel mounts nothing here: %v", err)
		}
		n.mounts = append(n.mounts, d)
	}
}

// Start starts the node's process again with the directories that it had.
func (n *Node) Start() {
	n.c.t.Helper()
	if n.Alive() {
		n.c.t.Fatalf("%s runs already", n.Name)
	}
	args := append([]string(nil), n.before...)
	args = append(args, Binary(n.c.t), "server", "--dir", n.Dir, "--name", n.Name, "--memory", "96MiB", "--log-format", "text",
		"--s3", net.JoinHostPort(n.Host, "9000"), "--peer", net.JoinHostPort(n.Host, "9001"))
	for _, d := range n.Drives {
		args = append(args, "--drives", d)
	}
	if n.Zone != "" {
		args = append(args, "--zone", n.Zone)
	}
	args = append(args, n.c.options.Args...)
	env := environment(n.Endpoint)
	if n.token == "" {
		env = append(env, rootKey...)
	} else {
		env = append(env, "HOLDFAST_JOIN="+n.token) // a secret: never in a command line
	}
	n.process = startProcess(n.c.t, env, args[0], args[1:]...)
	n.outputs = append(n.outputs, n.process.output)
	n.setDown(false)
}

// Alive tells whether the node's process runs and is not paused.
func (n *Node) Alive() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.down
}

func (n *Node) setDown(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = down
}

// mustRun fails the test when the node's process ended by itself.
func (n *Node) mustRun() {
	n.c.t.Helper()
	if n.Alive() && n.process.ended() {
		n.setDown(true)
		n.c.t.Fatalf("%s ended: %v\n%s", n.Name, n.process.waitErr, tail(n.process.output.String(), 8<<10))
	}
}

// Kill kills the node's process without warning.
func (n *Node) Kill() {
	n.c.t.Helper()
	n.mustRun()
	n.setDown(true)
	n.process.kill(n.c.t)
}

// Stop asks the node to stop and waits for it.
func (n *Node) Stop() {
	n.c.t.Helper()
	n.mustRun()
	n.setDown(true)
	if err := n.process.stop(n.c.t, 60*time.Second); err != nil {
		n.c.t.Errorf("%s did not stop cleanly: %v\n%s", n.Name, err, tail(n.process.output.String(), 8<<10))
	}
}

// Pause makes the node stand still: its process gets no time, its sockets stay open.
func (n *Node) Pause() {
	n.c.t.Helper()
	n.mustRun()
	n.setDown(true)
	n.process.signal(n.c.t, syscall.SIGSTOP)
}

// Resume lets a paused node go on.
func (n *Node) Resume() {
	n.c.t.Helper()
	n.process.signal(n.c.t, syscall.SIGCONT)
	n.setDown(false)
}

// Ready asks the node whether it serves.
func (n *Node) Ready() bool {
	client := http.Client{Transport: Transport(n.c.t, ""), Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	request, err := http.NewRequest(http.MethodGet, n.Endpoint+"/-/health/ready", nil)
	if err != nil {
		return false
	}
	if token, err := os.ReadFile(filepath.Join(n.Dir, "metrics.token")); err == nil {
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	_, copyErr := io.Copy(io.Discard, response.Body)
	return errors.Join(copyErr, response.Body.Close()) == nil && response.StatusCode == http.StatusOK
}

// Metric is the value of a series without labels at this node.
func (n *Node) Metric(name string) (float64, error) {
	client := http.Client{Transport: Transport(n.c.t, ""), Timeout: 15 * time.Second}
	defer client.CloseIdleConnections()
	request, err := http.NewRequest(http.MethodGet, n.Endpoint+"/-/metrics", nil)
	if err != nil {
		return 0, err
	}
	token, err := os.ReadFile(filepath.Join(n.Dir, "metrics.token"))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("%s has no series %s", n.Name, name)
}

// WaitReady waits until the node serves, and returns how long that took.
func (n *Node) WaitReady(limit time.Duration) time.Duration {
	n.c.t.Helper()
	begin := time.Now()
	Poll(n.c.t, limit, n.Name+" to become ready", func() bool {
		n.mustRun()
		return n.Ready()
	})
	return time.Since(begin)
}

// RemoveDrives moves drives of the node away, as if they were pulled out; the returned function brings them back.
func (n *Node) RemoveDrives(numbers ...int) (back func()) {
	n.c.t.Helper()
	rename := func(from, to string) {
		n.c.t.Helper()
		if err := os.Rename(from, to); err != nil {
			n.c.t.Fatal(err)
		}
	}
	aside := func(drive string) string { return drive + ".aside" }
	for _, i := range numbers {
		rename(n.Drives[i], aside(n.Drives[i]))
	}
	return func() {
		n.c.t.Helper()
		for _, i := range numbers {
			rename(aside(n.Drives[i]), n.Drives[i])
		}
	}
}

// Status is what `holdfast status --json` says at this node.
func (n *Node) Status() (*admin.Status, error) {
	out, all, err := n.run(15*time.Second, "status", "--json")
	st := new(admin.Status)
	if json.Unmarshal([]byte(out), st) != nil { // it exits with 3 when something is wrong, and says what
		return nil, fmt.Errorf("%w: %s", err, tail(all, 1<<10))
	}
	return st, nil
}

// Group is what `holdfast tablet ls --json` says of a group, "root" or "tablet".
func (n *Node) Group(name string) (admin.Group, error) {
	out, all, err := n.run(15*time.Second, "tablet", "ls", "--json")
	if err != nil {
		return admin.Group{}, fmt.Errorf("%w: %s", err, tail(all, 1<<10))
	}
	var groups []admin.Group
	if err := json.Unmarshal([]byte(out), &groups); err != nil {
		return admin.Group{}, err
	}
	for _, g := range groups {
		if g.Name == name {
			return g, nil
		}
	}
	return admin.Group{}, fmt.Errorf("%s has no group %q", n.Name, name)
}

// Holdfast runs a command of the binary against the node's gateway, and fails the test when it fails.
func (n *Node) Holdfast(limit time.Duration, args ...string) string {
	n.c.t.Helper()
	out, all, err := n.run(limit, args...)
	if err != nil {
		n.c.t.Fatalf("holdfast %s at %s: %v\n%s", strings.Join(args, " "), n.Name, err, tail(all, 4<<10))
	}
	return out
}

func (n *Node) run(limit time.Duration, args ...string) (stdout, all string, err error) {
	return runProgram(limit, environment(n.Endpoint), Binary(n.c.t), args...)
}

// Env is the environment of programs that use the node's gateway.
func (n *Node) Env() []string { return environment(n.Endpoint) }

// S3 is an aws-sdk-go-v2 client of the node's gateway that tries once.
func (n *Node) S3(change ...func(*s3.Options)) *s3.Client {
	options := s3.Options{
		BaseEndpoint: aws.String(n.Endpoint), Region: "us-east-1", UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(AccessKey, SecretKey, ""),
		HTTPClient:  &http.Client{Transport: Transport(n.c.t, "")},
	}
	return s3.New(options, change...)
}

// Output is what the node printed in all its runs.
func (n *Node) Output() string {
	var all strings.Builder
	for _, o := range n.outputs {
		all.WriteString(o.String())
	}
	return all.String()
}

// PID is the process id of the node.
func (n *Node) PID() int { return n.process.pid() }

// Try runs a command of the binary against the node's gateway.
func (n *Node) Try(limit time.Duration, args ...string) (string, error) {
	_, all, err := n.run(limit, args...)
	return all, err
}
