package root

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/kv/kvtest"
	"github.com/holdfast/holdfast/cluster/raft"
)

// localGroup applies what is proposed at once; with lose set it forgets every answer but the second of each command.
type localGroup struct {
	db      *kv.DB
	machine *Machine

	mu    sync.Mutex
	index uint64
	lose  bool
	lost  int
	last  []byte
}

func (g *localGroup) ID() raft.GroupID { return 1 }

func (g *localGroup) Propose(_ context.Context, command []byte) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.index++
	b := g.db.NewBatch()
	result := g.machine.Apply(g.index, 1, command, g.db, b)
	if err := g.db.Write(b); err != nil {
		return nil, err
	}
	if g.lose && !bytes.Equal(g.last, command) {
		g.last = bytes.Clone(command)
		g.lost++
		return nil, raft.ErrUnknownOutcome
	}
	return result, nil
}

func (g *localGroup) Barrier(context.Context) (uint64, error) { return 1, nil }
func (g *localGroup) State() kv.Reader                        { return g.db }
func (g *localGroup) Snapshot() (raft.Snapshot, error)        { return g.db.Snapshot() }

func newGroup(t *testing.T) *localGroup {
	t.Helper()
	return &localGroup{db: kvtest.Open(t), machine: New()}
}

func TestRowsAreComparedAndSwapped(t *testing.T) {
	for _, lose := range []bool{false, true} {
		g := newGroup(t)
		g.lose = lose
		c := NewClient(g)
		ctx := t.Context()
		if _, err := c.Row(ctx, Users, "a"); !errors.Is(err, ErrNotFound) {
			t.Fatalf("missing row: %v", err)
		}
		row, err := c.PutRow(ctx, Row{Kind: Users, Name: "a", Value: []byte("one")})
		if err != nil || row.Revision != 1 {
			t.Fatalf("put: %+v %v", row, err)
		}
		if _, err := c.PutRow(ctx, Row{Kind: Users, Name: "a", Value: []byte("two")}); !errors.Is(err, ErrConflict) {
			t.Fatalf("put of what exists: %v", err)
		}
		row.Value = []byte("three")
		if row, err = c.PutRow(ctx, row); err != nil || row.Revision != 2 || string(row.Value) != "three" {
			t.Fatalf("swap: %+v %v", row, err)
		}
		if got, err := c.Row(ctx, Users, "a"); err != nil || string(got.Value) != "three" || got.Revision != 2 {
			t.Fatalf("row %+v %v", got, err)
		}
		// All or none.
		_, err = c.PutRows(ctx, []Row{{Kind: Users, Name: "b"}, {Kind: Users, Name: "a", Revision: 1}})
		if !errors.Is(err, ErrConflict) {
			t.Fatalf("two rows, one of them stale: %v", err)
		}
		if _, err := c.Row(ctx, Users, "b"); !errors.Is(err, ErrNotFound) {
			t.Fatalf("half of a change was made: %v", err)
		}
		if err := c.DeleteRow(ctx, Users, "a", 1); !errors.Is(err, ErrConflict) {
			t.Fatalf("delete of an old revision: %v", err)
		}
		for range 2 {
			if err := c.DeleteRow(ctx, Users, "a", 2); err != nil {
				t.Fatal(err)
			}
		}
		if lose && g.lost == 0 {
			t.Fatal("no answer was lost")
		}
	}
}

func TestRowsAreListedByKindAndPrefix(t *testing.T) {
	c := NewClient(newGroup(t))
	ctx := t.Context()
	for _, row := range []Row{
		{Kind: Buckets, Name: "a"}, {Kind: Buckets, Name: "b1"}, {Kind: Buckets, Name: "b2"}, {Kind: Buckets, Name: "c"},
		{Kind: Cluster, Name: "b3"},
	} {
		if _, err := c.PutRow(ctx, row); err != nil {
			t.Fatal(err)
		}
	}
	names := func(prefix, after string, max int) string {
		rows, err := c.Rows(ctx, Buckets, prefix, after, max)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, row := range rows {
			out = append(out, row.Name)
		}
		return strings.Join(out, " ")
	}
	for _, try := range []struct {
		prefix, after string
		max           int
		want          string
	}{
		{"", "", 0, "a b1 b2 c"}, {"b", "", 0, "b1 b2"}, {"", "b1", 0, "b2 c"}, {"b", "b1", 0, "b2"},
		{"b", "a", 1, "b1"}, {"", "c", 0, ""},
	} {
		if got := names(try.prefix, try.after, try.max); got != try.want {
			t.Errorf("prefix %q after %q: %q, want %q", try.prefix, try.after, got, try.want)
		}
	}
}

func TestNumbersAreGivenOutOnce(t *testing.T) {
	g := newGroup(t)
	g.lose = true
	c := NewClient(g)
	var mu sync.Mutex
	seen := make(map[uint64]bool)
	var w sync.WaitGroup
	for range 4 {
		w.Go(func() {
			for range 4 {
				n, err := c.Allocate(t.Context(), SessionIDs)
				mu.Lock()
				if err != nil || n == 0 || seen[n] {
					t.Errorf("number %d again, %v", n, err)
				}
				seen[n] = true
				mu.Unlock()
			}
		})
	}
	w.Wait()
	if n, err := c.Allocate(t.Context(), Blocks); err != nil || n != 2 { // 1 went with the lost answer
		t.Fatalf("first block %d %v", n, err)
	}
}

func TestLimits(t *testing.T) {
	c := NewClient(newGroup(t))
	for _, row := range []Row{
		{Kind: Users, Name: strings.Repeat("n", MaxName+1)}, {Kind: Users, Name: "a", Value: make([]byte, MaxValue+1)},
	} {
		if _, err := c.PutRow(t.Context(), row); !errors.Is(err, ErrTooLarge) {
			t.Errorf("row of %d and %d bytes: %v", len(row.Name), len(row.Value), err)
		}
	}
	ok := Row{Kind: Users, Name: strings.Repeat("n", MaxName), Value: make([]byte, MaxValue)}
	if _, err := c.PutRow(t.Context(), ok); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutRows(t.Context(), []Row{ok, ok, ok, ok}); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("four large rows: %v", err)
	}
}

// TestCommandsOfFormatOne keeps the bytes of commands that stand in logs.
func TestCommandsOfFormatOne(t *testing.T) {
	nonce := bytes.Repeat([]byte{9}, nonceSize)
	for _, c := range []struct {
		command command
		want    string
	}{
		{command{nonce: nonce, counter: Blocks, count: 1, floor: 300}, "016b0909090909090909090909090909090901ac02"},
		{command{nonce: nonce, changes: []change{
			{row: Row{Kind: Users, Name: "a", Value: []byte("v"), Revision: 2}}, {row: Row{Kind: Users, Name: "b"}, remove: true, force: true},
		}}, "0100090909090909090909090909090909090275000201610176750300016200"},
		{command{nonce: nonce, changes: []change{{row: Row{Kind: Tokens, Name: "t", Revision: 1}, remove: true, present: true}}},
			"010009090909090909090909090909090909016a0501017400"},
	} {
		if got := fmt.Sprintf("%x", c.command.encode()); got != c.want {
			t.Errorf("command %s, want %s", got, c.want)
		}
	}
}

// FuzzCommand decodes any bytes: an error, or a command that means the same again.
func FuzzCommand(f *testing.F) {
	nonce := make([]byte, nonceSize)
	f.Add(command{nonce: nonce, counter: Any, count: 1}.encode())
	f.Add(command{nonce: nonce, changes: []change{{row: Row{Kind: Drives, Name: "d", Value: []byte("v")}, remove: true}}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decode(b)
		if err != nil {
			return
		}
		again, err := decode(c.encode())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(c) {
			t.Fatalf("%v came back as %v, %v", c, again, err)
		}
	})
}

// TestChangesPutAndRemoveTogether changes several rows by one command.
func TestChangesPutAndRemoveTogether(t *testing.T) {
	for _, lose := range []bool{false, true} {
		g := newGroup(t)
		g.lose = lose
		c, ctx := NewClient(g), t.Context()
		token, err := c.PutRow(ctx, Row{Kind: Tokens, Name: "once", Value: []byte("t")})
		if err != nil {
			t.Fatal(err)
		}
		peer := Row{Kind: Peers, Name: "p1", Value: []byte("one")}
		rows, err := c.Change(ctx, []Row{peer}, []Row{token, {Kind: Tokens, Name: "never there"}})
		if err != nil || len(rows) != 1 || rows[0].Revision != 1 || string(rows[0].Value) != "one" {
			t.Fatalf("change: %+v %v", rows, err)
		}
		// The token is used up: nobody else gets in by it.
		if _, err = c.Change(ctx, []Row{{Kind: Peers, Name: "p2"}}, []Row{token}); !errors.Is(err, ErrConflict) {
			t.Fatalf("a token was used twice: %v", err)
		}
		stale := rows[0]
		stale.Revision = 7
		if _, err = c.Change(ctx, []Row{{Kind: Peers, Name: "p2"}}, []Row{stale}); !errors.Is(err, ErrConflict) {
			t.Fatalf("removal of another revision: %v", err)
		}
		left, err := c.Rows(ctx, Peers, "", "", 0)
		if err != nil || len(left) != 1 || left[0].Name != "p1" || left[0].Revision != 1 {
			t.Fatalf("rows %+v %v", left, err)
		}
		if _, err = c.Change(ctx, []Row{peer}, []Row{peer}); err == nil || errors.Is(err, ErrConflict) {
			t.Fatalf("one row twice: %v", err)
		}
		if rows, err := c.Change(ctx, nil, nil); err != nil || len(rows) != 0 {
			t.Fatalf("no change: %+v %v", rows, err)
		}
		if lose && g.lost == 0 {
			t.Fatal("no answer was lost")
		}
	}
}

// TestARepeatedCommandIsAppliedOnce lets others change the rows between the two times that a command is applied.
func TestARepeatedCommandIsAppliedOnce(t *testing.T) {
	row := func(value string, revision uint64) Row {
		return Row{Kind: Users, Name: "a", Value: []byte(value), Revision: revision}
	}
	put := func(r Row) change { return change{row: r} }
	remove := func(revision uint64) change {
		return change{row: row("", revision), remove: true, force: revision == 0}
	}
	for name, try := range map[string]struct {
		before, twice, between []change // each a command
		became                 error
		value                  string // at the end; empty: no row
	}{
		"a row that was removed is not made again":    {nil, []change{put(row("x", 0))}, []change{remove(0)}, nil, ""},
		"a row that was made anew is not removed":     {[]change{put(row("x", 0))}, []change{remove(0)}, []change{put(row("y", 0))}, nil, "y"},
		"nor is it by its revision":                   {[]change{put(row("x", 0))}, []change{remove(1)}, []change{put(row("y", 0))}, nil, "y"},
		"a row that was changed since is not changed": {[]change{put(row("x", 0))}, []change{put(row("y", 1))}, []change{put(row("z", 2))}, nil, "z"},
		"a refused change stays refused":              {nil, []change{put(row("x", 1))}, []change{put(row("y", 0))}, ErrConflict, "y"},
	} {
		g := newGroup(t)
		apply := func(b []byte) error {
			out, err := g.Propose(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			return out.(outcome).err
		}
		fresh := func(changes []change) []byte { return command{nonce: newNonce(), changes: changes}.encode() }
		twice := fresh(try.twice)
		if err := apply(fresh(try.before)); err != nil {
			t.Fatal(name, err)
		}
		first := apply(twice)
		if err := apply(fresh(try.between)); err != nil {
			t.Fatal(name, err)
		}
		second := apply(twice)
		if !errors.Is(first, try.became) || !errors.Is(second, try.became) {
			t.Errorf("%s: became %v, then %v", name, first, second)
		}
		now, found, err := readRow(g.db, Users, "a")
		if err != nil || found != (try.value != "") || string(now.Value) != try.value {
			t.Errorf("%s: the row is %q %v", name, now.Value, err)
		}
	}
}

// TestTheMemoryIsBounded applies more commands than are remembered.
func TestTheMemoryIsBounded(t *testing.T) {
	g := newGroup(t)
	apply := func(n int) error {
		nonce := make([]byte, nonceSize)
		binary.BigEndian.PutUint64(nonce, uint64(n))
		c := command{nonce: nonce, changes: []change{{row: Row{Kind: Users, Name: fmt.Sprint(n)}}}}
		b := g.db.NewBatch()
		err := applyChanges(c, g.db, b)
		if writeErr := g.db.Write(b); writeErr != nil {
			t.Fatal(writeErr)
		}
		return err
	}
	const more = 3
	for n := range remembered + more {
		if err := apply(n); err != nil {
			t.Fatal(n, err)
		}
	}
	for _, space := range []byte{nonceSpace, orderSpace} {
		it := g.db.Iterate(kv.Span{Start: []byte{prefix, space}, End: []byte{prefix, space + 1}})
		count := 0
		for it.Next() {
			count++
		}
		it.Close()
		want := remembered
		if space == orderSpace {
			want++ // the count of commands
		}
		if err := it.Err(); err != nil || count != want {
			t.Errorf("%d keys in space %c, want %d: %v", count, space, want, err)
		}
	}
	for _, n := range []int{more, remembered + more - 1} {
		if err := apply(n); err != nil {
			t.Errorf("command %d of %d again: %v", n, remembered+more, err)
		}
	}
	if err := apply(more - 1); !errors.Is(err, ErrConflict) {
		t.Errorf("the command before all that are remembered again: %v", err)
	}
}

// TestStaleReadsNeedNoLeader reads the state of a replica.
func TestStaleReadsNeedNoLeader(t *testing.T) {
	g := newGroup(t)
	c := NewClient(g)
	if _, err := c.PutRows(t.Context(), []Row{{Kind: Peers, Name: "a1"}, {Kind: Peers, Name: "a2"}, {Kind: Peers, Name: "b"}}); err != nil {
		t.Fatal(err)
	}
	rows, err := Stale(g.db, Peers, "a", "a1", 0)
	if err != nil || len(rows) != 1 || rows[0].Name != "a2" || rows[0].Revision != 1 {
		t.Fatalf("%+v %v", rows, err)
	}
	b := g.db.NewBatch()
	b.Put(rowKey(Peers, "c"), []byte("short"))
	if err := g.db.Write(b); err != nil {
		t.Fatal(err)
	}
	if rows, err := Stale(g.db, Peers, "", "", 0); !errors.Is(err, errFormat) || rows != nil {
		t.Fatalf("a damaged row: %+v %v", rows, err)
	}
}
