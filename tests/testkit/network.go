package testkit

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Network is a switch with a network namespace for each peer, and a leg of this machine in it. Its links can be cut one
// way: what is sent then reaches nobody, and nobody is told.
type Network struct {
	t      testing.TB
	name   string // of the bridge
	subnet string // its first three bytes
	spaces []string
}

// NewNetwork makes namespaces for so many peers. It needs root; the test is skipped without.
func NewNetwork(t testing.TB, peers int) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("network namespaces need ip(8)")
	}
	id := rand.IntN(1 << 16)
	n := &Network{t: t, name: fmt.Sprintf("hf%04x", id), subnet: fmt.Sprintf("10.%d.%d", 100+id>>8%100, id&255)}
	t.Cleanup(n.cleanup)
	if out, err := n.try("link", "add", n.name, "type", "bridge"); err != nil {
		t.Skipf("this machine makes no bridges: %v %s", err, out)
	}
	n.ip("addr", "add", n.subnet+".254/24", "dev", n.name)
	n.ip("link", "set", n.name, "up")
	for i := range peers {
		n.add(i)
	}
	return n
}

func (n *Network) add(i int) {
	n.t.Helper()
	space, leg := fmt.Sprintf("%s-%d", n.name, i), fmt.Sprintf("%s-%d", n.name, i)
	n.ip("netns", "add", space)
	n.spaces = append(n.spaces, space)
	n.ip("link", "add", leg, "type", "veth", "peer", "name", "eth0", "netns", space)
	n.ip("link", "set", leg, "master", n.name, "up")
	n.ip("-n", space, "addr", "add", n.host(i)+"/24", "dev", "eth0")
	n.ip("-n", space, "link", "set", "eth0", "up")
	n.ip("-n", space, "link", "set", "lo", "up")
}

func (n *Network) host(i int) string { return fmt.Sprintf("%s.%d", n.subnet, i+1) }

// Place is for ClusterOptions.
func (n *Network) Place(i int) (host string, before []string) {
	n.t.Helper()
	if i >= len(n.spaces) {
		n.t.Fatalf("the network has no place for peer %d", i+1)
	}
	return n.host(i), []string{"ip", "netns", "exec", n.spaces[i]}
}

// nobody is a hardware address that no interface has: what is sent there is lost.
const nobody = "02:de:ad:00:00:01"

// Cut makes everything that peer from sends to peer to be lost. Peers are numbered as for Place.
func (n *Network) Cut(from, to int) {
	n.t.Helper()
	n.ip("-n", n.spaces[from], "neigh", "replace", n.host(to), "lladdr", nobody, "dev", "eth0", "nud", "permanent")
}

// Heal ends a Cut.
func (n *Network) Heal(from, to int) {
	n.t.Helper()
	n.ip("-n", n.spaces[from], "neigh", "del", n.host(to), "dev", "eth0")
}

// Between does something to every pair of peers of two sets, both ways: Cut or Heal.
func (n *Network) Between(one, two []int, do func(from, to int)) {
	for _, a := range one {
		for _, b := range two {
			do(a, b)
			do(b, a)
		}
	}
}

// Reaches tells whether one peer can connect to the gateway of another.
func (n *Network) Reaches(from, to int) bool {
	_, _, err := runProgram(2*time.Second, os.Environ(), "ip", "netns", "exec", n.spaces[from], "bash", "-c", ": < /dev/tcp/"+n.host(to)+"/9000")
	return err == nil
}

func (n *Network) ip(args ...string) {
	n.t.Helper()
	if out, err := n.try(args...); err != nil {
		n.t.Fatalf("ip %s: %v %s", strings.Join(args, " "), err, out)
	}
}

func (n *Network) try(args ...string) (string, error) {
	_, out, err := runProgram(30*time.Second, os.Environ(), "ip", args...)
	return out, err
}

func (n *Network) cleanup() {
	for _, space := range n.spaces {
		if out, err := n.try("netns", "del", space); err != nil {
			n.t.Errorf("delete namespace %s: %v %s", space, err, out)
		}
	}
	if out, err := n.try("link", "del", n.name); err != nil && len(n.spaces) > 0 {
		n.t.Errorf("delete bridge %s: %v %s", n.name, err, out)
	}
}
