package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/tests/testkit"
)

const (
	// moreThanNeeded is the part of what had to move that may move besides.
	moreThanNeeded = 0.1
	// evenWithin is how far the use of two drives may lie apart, in hundredths of their size.
	evenWithin = 5
	// settled is how long nothing may be left to move until it is believed.
	settled = 25 * time.Second
)

// A machine with twelve drives becomes a cluster while clients work, and shrinks again, with no request failing. No more
// moves than had to, and in the end the drives are as full as each other.
func TestOneMachineGrowsAndShrinksUnderLoad(t *testing.T) {
	chaosOnly(t)
	peerSize := int64(pick(12, 24)) << 30 // of all drives of a peer: some hundredths are to be filled
	c, l := begin(t, testkit.ClusterOptions{Peers: 1, Drives: 12, DriveSize: peerSize / 12})
	first := c.Nodes()[0]
	pid, began := first.PID(), time.Now()
	reached := func(what string) { t.Logf("after %v: %s", time.Since(began).Round(time.Second), what) }
	fill(t, first, l, pick(100, 200))
	reached("filled")
	w := startLightLoad(t, c, l, 4)
	w.progress(l.acknowledged(), 100)
	for _, step := range growth() {
		start, before := l.acknowledged(), weigh(t, c)
		for len(c.Nodes()) < step.peers {
			w.strike(func() { c.AddSized(step.drives, peerSize/int64(step.drives)) })
		}
		testkit.PollEvery(t, 500*time.Millisecond, wholeLimit, "the voters", func() bool { return voters(t, first) == step.voters })
		w.progress(start, 20)
		reached(fmt.Sprintf("%d peers, %d voters", step.peers, step.voters))
		waitSettled(t, c)
		reached("bytes are spread")
		before.wantFewMoves(t, weigh(t, c))
		wantEven(t, c)
	}
	leaving := c.Nodes()[1:pick(2, 3)]
	before := weigh(t, c)
	for _, n := range leaving {
		w.strike(func() { first.Holdfast(time.Minute, "peer", "drain", n.Name) })
	}
	testkit.PollEvery(t, time.Second, 10*time.Minute, "the drained peers to be empty", func() bool {
		st, err := first.Status()
		if err != nil {
			return false
		}
		for _, n := range leaving {
			if shardsOn(st, n.Name) > 0 {
				return false
			}
		}
		return true
	})
	waitSettled(t, c)
	reached("drained")
	before.wantFewMoves(t, weigh(t, c))
	for _, n := range leaving {
		testkit.PollEvery(t, time.Second, 2*wholeLimit, n.Name+" to be removed", func() bool { return remove(t, first, n.Name) })
		reached(n.Name + " is removed")
		n.Stop()
		c.Forget(n)
	}
	w.progress(l.acknowledged(), 20)
	w.stop(0)
	c.WaitWhole(wholeLimit)
	wantEven(t, c)
	reached("whole")
	if now := first.PID(); now != pid {
		t.Errorf("the first peer was restarted: process %d, was %d", now, pid)
	}
	l.check(t, c)
}

type growthStep struct{ peers, drives, voters int }

func growth() []growthStep {
	if long() {
		return []growthStep{{3, 4, 3}, {5, 4, 5}, {12, 2, 5}}
	}
	return []growthStep{{3, 4, 3}, {5, 4, 5}}
}

// fill writes so many objects of 20 MiB through a node.
func fill(t *testing.T, n *testkit.Node, l *ledger, objects int) {
	t.Helper()
	client := n.S3()
	var writers errgroup.Group
	writers.SetLimit(4)
	for i := range objects {
		writers.Go(func() error {
			key := fmt.Sprintf("filling%04d", i)
			body := bodyOf(key, 20<<20)
			l.begin(key, valueOf(body))
			_, err := client.PutObject(context.Background(), &s3.PutObjectInput{Bucket: &l.bucket, Key: &key, Body: bytes.NewReader(body)})
			l.end(key, valueOf(body), err == nil, err == nil)
			return err
		})
	}
	if err := writers.Wait(); err != nil {
		t.Fatal(err)
	}
}

// weight is what drives hold at a moment, and what was written and moved until then, in bytes.
type weight struct {
	drives         map[string]int64
	written, moved float64
	chunks         float64 // written
	peers          int
	volumes        []volumeWeight
}

// volumeWeight is what the slots of a volume hold, in bytes each, and how many of them lie on each peer.
type volumeWeight struct {
	bytes int64
	slots map[string]int
}

// excess is what has to leave peers so that none holds more slots of a volume than when all hold about the same.
func (w weight) excess(peers int) (bytes float64) {
	share := (12 + peers - 1) / peers
	for _, v := range w.volumes {
		for _, n := range v.slots {
			bytes += float64(v.bytes) * float64(max(0, n-share))
		}
	}
	return bytes
}

func weigh(t *testing.T, c *testkit.Cluster) weight {
	t.Helper()
	w := weight{drives: make(map[string]int64), peers: len(c.Nodes())}
	st, err := c.Nodes()[0].Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range st.Drives {
		w.drives[d.ID] = d.Bytes
	}
	w.volumes = volumesOf(t, c)
	for _, n := range c.Nodes() {
		for series, sum := range map[string]*float64{
			"holdfast_chunk_bytes_written_total": &w.written, "holdfast_chunks_written_total": &w.chunks,
			"holdfast_shard_bytes_restored_total": &w.moved,
		} {
			value, err := n.Metric(series)
			if err != nil {
				t.Fatal(err)
			}
			*sum += value
		}
	}
	return w
}

// volumesOf asks where the slots of volumes lie, and looks how long their files are.
func volumesOf(t *testing.T, c *testkit.Cluster) []volumeWeight {
	t.Helper()
	sizes := make(map[uint64]int64)
	for _, n := range c.Nodes() {
		for _, d := range n.Drives {
			files, err := filepath.Glob(filepath.Join(d, "volumes", "*", "*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				id, err := strconv.ParseUint(strings.SplitN(filepath.Base(file), ".", 2)[0], 16, 64)
				if err != nil {
					t.Fatalf("%s is no chunk file: %v", file, err)
				}
				if info, err := os.Stat(file); err == nil { // it may be gone by now
					sizes[id] = max(sizes[id], info.Size())
				}
			}
		}
	}
	var rows []admin.Volume
	if err := json.Unmarshal([]byte(c.Nodes()[0].Holdfast(time.Minute, "volume", "ls", "--json")), &rows); err != nil {
		t.Fatal(err)
	}
	var volumes []volumeWeight
	for _, row := range rows {
		v := volumeWeight{bytes: sizes[row.ID], slots: make(map[string]int)}
		for _, drive := range row.Slots {
			peer, _, _ := strings.Cut(drive, "/")
			if len(c.Nodes()) == 1 {
				peer = c.Nodes()[0].Name
			}
			v.slots[peer]++
		}
		volumes = append(volumes, v)
	}
	return volumes
}

// wantFewMoves compares what moved since then with what had to: what drives hold more than before, but for what clients
// wrote meanwhile, or what had to leave peers that held too many slots of a volume. No peer may have been started again in between.
func (before weight) wantFewMoves(t *testing.T, now weight) {
	t.Helper()
	const shards, record = 12, 8 << 10 // what a shard takes beside its payload, at most
	must := -shards/8.0*(now.written-before.written) - shards*record*(now.chunks-before.chunks)
	for id, bytes := range now.drives {
		must += float64(max(0, bytes-before.drives[id]))
	}
	if now.peers > before.peers {
		must = max(must, before.excess(now.peers))
	}
	moved := now.moved - before.moved
	t.Logf("%d peers, then %d: %.0f MB had to move, %.0f MB moved (%.2f times); clients wrote %.0f MB",
		before.peers, now.peers, must/1e6, moved/1e6, moved/must, (now.written-before.written)/1e6)
	if moved == 0 {
		t.Error("nothing moved")
	}
	if moved > (1+moreThanNeeded)*must {
		t.Errorf("%.0f MB moved, and %.0f MB had to", moved/1e6, must/1e6)
	}
}

// wantEven demands that drives are as full as each other.
func wantEven(t *testing.T, c *testkit.Cluster) {
	t.Helper()
	st, err := c.Nodes()[0].Status()
	if err != nil {
		t.Fatal(err)
	}
	least, most := 100.0, 0.0
	for _, d := range st.Drives {
		used := 100 * float64(d.Total-d.Free) / float64(d.Total)
		least, most = min(least, used), max(most, used)
	}
	t.Logf("the drives are from %.1f %% to %.1f %% full", least, most)
	if most-least > evenWithin {
		t.Errorf("some drives are %.1f %% full, others %.1f %%", least, most)
	}
}

// voters is how many voters both groups have, 0 when they differ.
func voters(t *testing.T, n *testkit.Node) int {
	t.Helper()
	st, err := n.Status()
	if err != nil || len(st.Groups) != 2 || len(st.Groups[0].Voters) != len(st.Groups[1].Voters) {
		return 0
	}
	return len(st.Groups[0].Voters)
}

// waitSettled waits until everything lies where the topology wants it: nothing is left to move, also a while later.
func waitSettled(t *testing.T, c *testkit.Cluster) {
	t.Helper()
	var since time.Time
	testkit.PollEvery(t, time.Second, 15*time.Minute, "bytes to be spread", func() bool {
		if !spread(c) {
			since = time.Time{}
			return false
		}
		if since.IsZero() {
			since = time.Now()
		}
		return time.Since(since) > settled
	})
}

// spread tells whether everything survives the loss of a peer, as new objects do in a cluster of three or more, and
// nothing is left to move.
func spread(c *testkit.Cluster) bool {
	st, err := c.Up()[0].Status()
	return err == nil && st.Losses.Bytes.Peers >= 1 && st.Protection == admin.Shortage{} && st.Moving == admin.Moving{}
}

// shardsOn is how many shards the drives of a peer hold.
func shardsOn(st *admin.Status, peer string) int64 {
	var sum int64
	for _, d := range st.Drives {
		if d.Peer == peer {
			sum += d.Shards
		}
	}
	return sum
}

// remove removes a drained peer when it is empty.
func remove(t *testing.T, at *testkit.Node, name string) bool {
	t.Helper()
	out, err := at.Try(time.Minute, "peer", "rm", name)
	if err != nil {
		return false
	}
	t.Logf("%s", out)
	return true
}
