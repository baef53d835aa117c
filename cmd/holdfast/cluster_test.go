package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/tests/expect"
)

// clusterWorld is peers that run in this process as `holdfast server`, and the environment of commands that ask the first.
type clusterWorld struct {
	world
	stops map[string]func()
}

// freePort is an address of this machine that nobody listened at a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}()
	return listener.Addr().String()
}

// begin runs a peer with some drives until the test ends, and returns where it serves S3.
func (s *clusterWorld) begin(name, zone, token string, drives int) (endpoint string) {
	t, out, address := s.t, &expect.Buffer{}, freePort(s.t)
	args := []string{"holdfast", "server", "--name", name, "--zone", zone, "--s3", address, "--peer", freePort(s.t), "--memory", "64MiB",
		"--dir", filepath.Join(s.dir, name), "--drives", s.drive(name, fmt.Sprintf("{1...%d}", drives))}
	if token != "" {
		args = append(args, "--join", token)
	}
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, args, streams{strings.NewReader(""), out, out}, func(string) (string, bool) { return "", false })
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		if c := <-code; c != exitDone {
			t.Errorf("%s ended with %d:\n%s", name, c, out)
		}
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, out)
		}
	})
	s.stops[name] = stop
	s.within(time.Minute, name+" to be ready", func() bool { return strings.Contains(out.String(), `"msg":"ready"`) })
	return "http://" + address
}

func (s *clusterWorld) drive(peer, number string) string {
	return filepath.Join(s.dir, peer+"-drives", "d"+number)
}

// within polls for longer than poll does: replicas and shards move, on a machine that others use.
func (s *clusterWorld) within(limit time.Duration, what string, ok func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(limit)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			out, errOut, _ := s.try("status")
			s.t.Fatalf("waited too long for %s:\n%s%s", what, out, errOut)
		}
		<-ticker.C
	}
}

func (s *clusterWorld) token() string {
	s.t.Helper()
	lines := strings.Split(strings.TrimSpace(s.do("cluster", "token")), "\n")
	return lines[len(lines)-1]
}

func (s *clusterWorld) status() *admin.Status {
	s.t.Helper()
	out, errOut, code := s.try("status", "--json")
	var st admin.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		s.t.Fatalf("status, exit %d: %v: %s", code, err, errOut)
	}
	return &st
}

// column is one column of the table that a command prints, without its head.
func (s *clusterWorld) column(n int, args ...string) []string {
	s.t.Helper()
	var cells []string
	for _, line := range strings.Split(strings.TrimSpace(s.do(args...)), "\n")[1:] {
		cells = append(cells, strings.Fields(line)[n])
	}
	return cells
}

// A peer whose record is gone from everywhere, or damaged everywhere, ends with the reason, and the cluster has no other
// peer by it.
func TestAServerThatLostItsCertificateEnds(t *testing.T) {
	s := &clusterWorld{world: world{t: t, dir: t.TempDir()}, stops: map[string]func(){}}
	first := s.begin("alder", "north", "", 6)
	s.env = map[string]string{"HOLDFAST_ENDPOINT": first, "HOLDFAST_DIR": filepath.Join(s.dir, "alder")}
	s.begin("birch", "south", s.token(), 2)
	s.stops["birch"]()
	records, err := filepath.Glob(filepath.Join(s.dir, "birch*", "*", "peer"))
	if records = append(records, filepath.Join(s.dir, "birch", "peer")); err != nil || len(records) != 3 {
		t.Fatalf("%q, %v", records, err)
	}
	server := []string{"server", "--name", "birch", "--zone", "south", "--s3", freePort(t), "--peer", freePort(t), "--memory", "64MiB",
		"--dir", filepath.Join(s.dir, "birch"), "--drives", s.drive("birch", "{1...2}")}
	for _, spoil := range []func(name string) error{
		func(name string) error { return os.WriteFile(name, []byte("{}"), 0o600) },
		os.Remove,
	} {
		for _, name := range records {
			if err := spoil(name); err != nil {
				t.Fatal(err)
			}
		}
		s.fails(exitError, "no record of this peer can be used", server...)
	}
	if st := s.status(); len(st.Peers) != 2 {
		t.Errorf("the cluster has %d peers", len(st.Peers))
	}
}

// Three peers, from the first to the removal of the second, as an operator sees them.
func TestCommandsAgainstACluster(t *testing.T) {
	s := &clusterWorld{world: world{t: t, dir: t.TempDir()}, stops: map[string]func(){}}
	first := s.begin("alder", "north", "", 8)
	s.env = map[string]string{"HOLDFAST_ENDPOINT": first, "HOLDFAST_DIR": filepath.Join(s.dir, "alder")}
	token := s.token()
	s.begin("birch", "south", token, 4)
	third := s.begin("cedar", "east", s.token(), 4)
	s.do("bucket", "create", "photos")
	large := filepath.Join(t.TempDir(), "large")
	writeFile(t, large, 9<<20, 5)
	s.do("cp", large, "photos/large")
	s.within(time.Minute, "three voters", func() bool {
		return slices.Equal(s.column(4, "tablet", "ls"), []string{"3", "3"}) && len(s.status().Groups[1].Voters) == 3
	})

	t.Run("tokens", func(t *testing.T) { s.tokens(t, token) })
	t.Run("tables", s.tables)
	t.Run("settings", s.settings)
	t.Run("refusals", s.refusals)
	t.Run("a new drive", func(t *testing.T) { s.newDrive(t, third) })
	t.Run("drain", s.drain)
	s.t = t
	back := filepath.Join(t.TempDir(), "large")
	s.do("cp", "photos/large", back)
	if got, want := sums(t, filepath.Dir(back)), sums(t, filepath.Dir(large)); !maps.Equal(got, want) {
		t.Error("the object reads otherwise")
	}
}

func (s *clusterWorld) tokens(t *testing.T, used string) {
	s.t = t
	server := func(name, token string) []string {
		return []string{"server", "--name", name, "--s3", freePort(t), "--peer", freePort(t), "--dir", filepath.Join(s.dir, "never"),
			"--drives", filepath.Join(s.dir, "never", "d1"), "--join", token}
	}
	fresh := s.token()
	s.fails(exitError, "used already", server("oak", used)...)
	s.fails(exitError, "choose another with --name", server("birch", fresh)...)
	s.fails(exitUsage, "cut short", server("oak", fresh[:60])...)
	s.fails(exitUsage, "not a join token", server("oak", "something")...)
	s.fails(exitUsage, "--join", server("oak", "@"+filepath.Join(s.dir, "nothing"))...)
	s.fails(exitUsage, "between 1s and 1h", "cluster", "token", "--life", "2h")
	s.fails(exitUsage, "between 1s and 1h", "cluster", "token", "--life", "-1s")
	if _, errOut, code := s.try("cluster", "token"); code != exitDone || !strings.Contains(errOut, "other machines cannot reach that") {
		t.Errorf("a token that only this machine can use: exit %d: %s", code, errOut)
	}
}

func (s *clusterWorld) tables(t *testing.T) {
	s.t = t
	if got := s.column(0, "peer", "ls"); !slices.Equal(got, []string{"alder", "birch", "cedar"}) {
		t.Errorf("peer ls lists %q", got)
	}
	want := strings.Fields("d1 d2 d3 d4 d5 d6 d7 d8 d1 d2 d3 d4 d1 d2 d3 d4")
	if got := s.column(1, "drive", "ls"); !slices.Equal(got, want) {
		t.Errorf("drive ls lists %q", got)
	}
	s.within(time.Minute, "a loss of any peer to be survived", func() bool {
		l := s.status().Losses
		return l.Bytes.Peers == 1 && l.Names.Peers == 1 && l.Root.Peers == 1 && l.Names.Zones == 1
	})
	out := s.do("status")
	for _, line := range []string{"peers     3 of 3 up in 3 zones", "led by", "3 of 3 voters up", "drives  devices  peers  zones"} {
		if !strings.Contains(out, line) {
			t.Errorf("status lacks %q:\n%s", line, out)
		}
	}
	if out := s.do("__complete", "peer", "drain", ""); !strings.HasPrefix(out, "alder\nbirch\ncedar\n") {
		t.Errorf("a shell is offered %q", out)
	}
	if out := s.do("__complete", "drive", "rm", "birch"); !strings.Contains(out, "birch/d2\n") {
		t.Errorf("a shell is offered %q", out)
	}
}

func (s *clusterWorld) settings(t *testing.T) {
	s.t = t
	s.fails(exitUsage, "odd", "cluster", "set", "--voters", "4")
	s.fails(exitUsage, "odd", "cluster", "set", "--root-voters", "11")
	s.fails(exitUsage, "nothing to set", "cluster", "set")
	if out := s.do("cluster", "set", "--voters", "5", "--root-voters", "9"); !strings.Contains(out, "tablet: 5 voters, now 3 until") {
		t.Errorf("cluster set says %q", out)
	}
	if out := s.do("tablet", "ls"); !strings.Contains(out, "3 (set: 5)") || !strings.Contains(out, "3 (set: 9)") {
		t.Errorf("tablet ls:\n%s", out)
	}
	s.do("cluster", "set", "--voters", "0")
	if st := s.status(); st.Groups[0].Set != 9 || st.Groups[1].Set != 0 {
		t.Errorf("one setting changed another: %+v", st.Groups)
	}
	s.do("cluster", "set", "--root-voters", "0")
}

func (s *clusterWorld) refusals(t *testing.T) {
	s.t = t
	s.fails(exitNotFound, `no such peer "oak"`, "peer", "drain", "oak")
	s.fails(exitNotFound, `no such drive "birch/d9"`, "drive", "drain", "birch/d9")
	s.fails(exitError, "write PEER/d1", "drive", "drain", "d1")
	s.fails(exitError, "drain it and wait", "peer", "rm", "birch")
	s.fails(exitError, "drain it and wait", "drive", "rm", "birch/d1")
	s.fails(exitUsage, "usage:", "peer", "rm")
	if out := s.do("peer", "drain", "alder"); !strings.Contains(out, "8 drives are left for 12 shards") {
		t.Errorf("a drain that leaves few drives says %q", out)
	}
	s.fails(exitError, "4 drives would be left", "peer", "drain", "birch")
	s.do("peer", "undrain", "alder")
	for _, p := range s.status().Peers {
		if p.State != "active" {
			t.Errorf("%s is %s", p.Name, p.State)
		}
	}
}

// newDrive replaces a drive that died by a blank one in its place.
func (s *clusterWorld) newDrive(t *testing.T, endpoint string) {
	s.t = t
	at := s.drive("cedar", "4")
	s.fails(exitError, "is drive d4 already", "drive", "add", "--endpoint", endpoint, at)
	s.fails(exitError, "name it in --drives", "drive", "add", "--endpoint", endpoint, s.dir)
	s.fails(exitUsage, "absolute", "drive", "add", "d4")
	if err := os.Rename(at, at+".dead"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		for _, d := range s.status().Drives {
			if d.Peer == "cedar" && d.Path == at {
				return d.Name + " " + d.State
			}
		}
		return ""
	}
	s.within(time.Minute, "the loss to be seen", func() bool { return state() == "d4 blank" })
	s.do("drive", "rm", "--force", "cedar/d4")
	// What is there stays, but for what the peer itself writes to a drive that goes at that moment.
	record, err := os.ReadFile(filepath.Join(s.dir, "cedar", "peer"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(at, "peer"), record, 0o600), os.Mkdir(filepath.Join(at, "photos"), 0o700)); err != nil {
		t.Fatal(err)
	}
	s.fails(exitError, "photos is there", "drive", "add", "--endpoint", endpoint, at)
	if err := os.Remove(filepath.Join(at, "photos")); err != nil {
		t.Fatal(err)
	}
	if out := s.do("drive", "add", "--endpoint", endpoint, at); !strings.Contains(out, "is drive cedar/d4 now") {
		t.Errorf("drive add says %q", out)
	}
	s.within(time.Minute, "the new drive", func() bool { return state() == "d4 up" })
	s.within(2*time.Minute, "all shards to be back", func() bool { return s.status().Whole() })
}

// drain empties a peer and removes it.
func (s *clusterWorld) drain(t *testing.T) {
	s.t = t
	s.do("peer", "drain", "birch")
	said := ""
	s.within(3*time.Minute, "the removal of birch", func() bool {
		_, errOut, code := s.try("peer", "rm", "birch")
		if errOut != said {
			t.Log(time.Now().Format(time.TimeOnly), errOut)
			said = errOut
		}
		if code != exitDone && !strings.Contains(errOut, "drain it and wait") && !strings.Contains(errOut, "ask again") {
			t.Fatalf("peer rm: exit %d: %s", code, errOut)
		}
		return code == exitDone
	})
	s.stops["birch"]()
	if got := s.column(0, "peer", "ls"); !slices.Equal(got, []string{"alder", "cedar"}) {
		t.Errorf("peer ls lists %q", got)
	}
	s.within(time.Minute, "a whole cluster of two", func() bool { return s.status().Whole() })
}
