package raft

import (
	"fmt"
	"os"
	"testing"

	"github.com/holdfast/holdfast/cluster/vfs"
)

// TestCheckpointsGoForwardWithTheirNumbers takes two points and exports the later one first, as two callers at once may.
// The earlier one must not become the newer checkpoint, or the log would be let go that it needs.
func TestCheckpointsGoForwardWithTheirNumbers(t *testing.T) {
	t.Parallel()
	f := vfs.NewMemory(5)
	b := newBench(t, f, 12)
	h := b.bootstrap(t)
	point := func(command string) pointAnswer {
		propose(t, h, 1, command)
		answer := make(chan pointAnswer, 1)
		h.core.Load().points <- pointRequest{answer}
		p := <-answer
		if p.err != nil {
			t.Fatal(p.err)
		}
		return p
	}
	early, late := point("one"), point("two")
	for _, p := range []pointAnswer{late, early} {
		if err := h.core.Load().export(testContext(t), p, false); err != nil {
			t.Fatal(err)
		}
		p.snap.Close()
	}
	members := h.Mirrors().Members
	closeHost(t, h)
	log := newLog(b.config, members)
	heads, err := log.checkpoints(log.drivesOf(log.reachable()))
	if err != nil || len(heads) == 0 {
		t.Fatalf("%d checkpoints, %v", len(heads), err)
	}
	for i := 1; i < len(heads); i++ {
		if heads[i].seq < heads[i-1].seq {
			t.Errorf("checkpoint %d covers frame %d, checkpoint %d only %d", heads[i-1].number, heads[i-1].seq, heads[i].number, heads[i].seq)
		}
	}
}

// TestAFrameOnOneMirrorReachesTheOthers leaves one mirror a few frames ahead of the others, as a power cut may, and
// wants recovery to bring all of them level before anything is appended.
func TestAFrameOnOneMirrorReachesTheOthers(t *testing.T) {
	t.Parallel()
	for ahead := range 5 {
		t.Run(fmt.Sprint("mirror ", ahead), func(t *testing.T) {
			b, f, want, members := smallLog(t)
			short := map[string][]byte{}
			for _, m := range members {
				name, _ := used(t, b, f, m.Dir)
				data, err := vfs.ReadFile(f, name, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				short[m.Dir] = data
			}
			h := b.open(t)
			propose(t, h, 1, "ahead")
			want = append(want, "ahead")
			closeHost(t, h)
			for i, m := range members {
				if i == ahead {
					continue
				}
				name, _ := used(t, b, f, m.Dir)
				file, err := f.OpenFile(name, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := writeAll(file, short[m.Dir], 0); err != nil {
					t.Fatal(err)
				}
				if err := file.Close(); err != nil {
					t.Fatal(err)
				}
			}
			h = b.open(t)
			wantItems(t, h, 1, want)
			for _, command := range []string{"after 1", "after 2"} {
				propose(t, h, 1, command)
				want = append(want, command)
			}
			closeHost(t, h)
			// Any one mirror must know it all, the ones that were behind too.
			for survivor := range members {
				alone := copyTree(t, f)
				for i, m := range members {
					if i == survivor {
						continue
					}
					if err := alone.RemoveAll(m.Dir); err != nil {
						t.Fatal(err)
					}
				}
				if err := alone.RemoveAll(b.config.StateDir); err != nil {
					t.Fatal(err)
				}
				h := b.on(alone).open(t)
				wantItems(t, h, 1, want)
				closeHost(t, h)
			}
		})
	}
}
