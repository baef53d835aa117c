package multipart_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

func TestFreedChunksWaitForDrivesThatAreAway(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("away", metadata.Unversioned)
	for i := range 5 {
		k.put(b, fmt.Sprint(i), storetest.Body(uint64(i), 100_000))
	}
	k.Chunks.Remove(3)
	for i := range 5 {
		if _, err := k.Store.Delete(t.Context(), metadata.Delete{Bucket: b, Key: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	k.Clock.Advance(16 * time.Minute)
	p, err := k.Store.Free(t.Context())
	if err != nil || p.Rows != 0 || p.Left != 5 {
		t.Fatalf("%+v, %v", p, err)
	}
	k.Chunks.Return(3)
	if p, err = k.Store.Free(t.Context()); err != nil || p.Rows != 5 || p.Left != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	if n := k.Shards(); n != 0 {
		t.Fatalf("%d shards are left", n)
	}
}

// indexed stores a file with more references than stand in its record.
func (k kit) indexed(b metadata.BucketID, key string) []byte {
	k.T.Helper()
	u := k.upload(b, key, true)
	body := storetest.Body(3, 3<<20)
	k.part(b, u, 1, body)
	rng := rand.New(rand.NewPCG(4, 4))
	var want []byte
	var pieces []multipart.Piece
	for range 60 {
		off := rng.Int64N(2 << 20)
		pieces = append(pieces, multipart.Piece{Part: 1, Off: off, Len: 100_000})
		want = append(want, body[off:off+100_000]...)
	}
	if _, err := k.Store.Compose(k.T.Context(), multipart.Compose{Bucket: b, Key: key, Upload: u.ID, Pieces: pieces}); err != nil {
		k.T.Fatal(err)
	}
	if err := k.Store.Abort(k.T.Context(), b, key, u.ID); err != nil {
		k.T.Fatal(err)
	}
	return want
}

// TestFreeGoesOnAfterEveryCrash stops the deleter at each of its commits, and lets the next pass do the rest.
func TestFreeGoesOnAfterEveryCrash(t *testing.T) {
	for stop := 0; ; stop++ {
		k := newKit(t)
		b := k.Bucket("crash", metadata.Unversioned)
		keep := k.indexed(b, "keep")
		k.indexed(b, "k")
		if _, err := k.Store.Delete(t.Context(), metadata.Delete{Bucket: b, Key: "k"}); err != nil {
			t.Fatal(err)
		}
		k.Clock.Advance(16 * time.Minute)
		left, fired := stop, false
		k.FailCommits(func() error {
			if left--; left < 0 {
				fired = true
				return raft.ErrStopped
			}
			return nil
		})
		_, err := k.Store.Free(t.Context())
		k.FailCommits(nil)
		if fired != (err != nil) {
			t.Fatalf("commit %d failed: %v, and the pass says %v", stop, fired, err)
		}
		k.WantNothingMissing()
		k.Settle()
		k.WantClean()
		k.want(b, "keep", keep)
		if !fired {
			if stop < 3 { // the list of index chunks, the freed rows, the list again
				t.Fatalf("only %d commits", stop)
			}
			return
		}
	}
}

// TestFreedIndexChunksWaitForDrivesThatAreAway has a drive away when the index chunks are deleted.
func TestFreedIndexChunksWaitForDrivesThatAreAway(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("away", metadata.Unversioned)
	k.indexed(b, "k")
	if _, err := k.Store.Delete(t.Context(), metadata.Delete{Bucket: b, Key: "k"}); err != nil {
		t.Fatal(err)
	}
	k.Clock.Advance(16 * time.Minute)
	commits := 0
	k.FailCommits(func() error {
		if commits++; commits == 2 { // the rows are gone after this one
			k.Chunks.Remove(3)
		}
		return nil
	})
	p, err := k.Store.Free(t.Context())
	k.FailCommits(nil)
	if err != nil || p.Left == 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	k.Chunks.Return(3)
	k.Settle()
	if n := k.Shards(); n != 0 {
		t.Fatalf("%d shards are left", n)
	}
}

func TestReadsOfDeletedChunksFailAndNeverLie(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("late", metadata.Unversioned)
	body := storetest.Body(1, 300_000)
	k.put(b, "k", body)
	o, err := k.Store.Open(t.Context(), b, "k", multipart.At{})
	if err != nil {
		t.Fatal(err)
	}
	k.put(b, "k", body[:100])
	k.Settle() // nobody ran the store's Run, and the reader slept: it took no hold
	r := o.Read(t.Context(), multipart.Span{Len: -1})
	if got, err := io.ReadAll(r); err == nil || len(got) != 0 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := errors.Join(r.Close(), o.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestObjectsReadBitExactWithLostDrives stores objects of every kind and reads them with four drives away, and gives an
// error with five.
func TestObjectsReadBitExactWithLostDrives(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("drives", metadata.Unversioned)
	bodies := k.objects(b)
	bodies["index"] = k.indexed(b, "index")
	rng := rand.New(rand.NewPCG(7, 7))
	for range 4 {
		away := rng.Perm(12)[:5]
		k.Chunks.Remove(away[:4]...)
		for key, body := range bodies {
			k.want(b, key, body)
		}
		k.Chunks.Remove(away[4])
		for key, body := range bodies {
			got, err := k.get(b, key, multipart.At{}, multipart.Span{Len: -1})
			switch {
			case len(body) <= multipart.DefaultInline && (err != nil || !bytes.Equal(got, body)):
				t.Fatalf("inline %q: %v", key, err)
			case len(body) > multipart.DefaultInline && !errors.Is(err, chunkstore.ErrLost):
				t.Fatalf("%q with five drives away: %v", key, err)
			}
		}
		k.Chunks.Return(away...)
	}
}

// TestIntentsAreCommittedWithTheVersion stores an object with a drive that takes no shards.
func TestIntentsAreCommittedWithTheVersion(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("intents", metadata.Unversioned)
	k.put(b, "warm", storetest.Body(0, 100_000)) // the volume is open on all twelve
	k.Chunks.Drives[5].Fail(memory.OpPut, errors.New("no"))
	v := k.put(b, "k", storetest.Body(1, 100_000))
	if k.Chunks.Drives[5].Fired(memory.OpPut) == 0 {
		t.Fatal("the fault did not fire")
	}
	rows, err := k.Catalog.Rows(t.Context(), []byte(multipart.IntentPrefix), nil, 10)
	if err != nil || len(rows) != 1 {
		t.Fatalf("%d intents, %v", len(rows), err)
	}
	in, err := multipart.ParseIntentRow(rows[0])
	if err != nil || in.Missing == 0 || in.Chunk.Size != uint32(v.Size) {
		t.Fatalf("%+v, %v", in, err)
	}
}

func TestObjectsAndFreedChunksOutliveARestart(t *testing.T) {
	k := newKit(t)
	b := k.Bucket("restart", metadata.Unversioned)
	bodies := k.objects(b)
	bodies["index"] = k.indexed(b, "index")
	k.put(b, "gone", storetest.Body(8, 100_000))
	if _, err := k.Store.Delete(t.Context(), metadata.Delete{Bucket: b, Key: "gone"}); err != nil {
		t.Fatal(err)
	}
	u := k.upload(b, "upload", false)
	k.part(b, u, 1, storetest.Body(5, 200_000))
	k.Restart()
	for key, body := range bodies {
		k.want(b, key, body)
	}
	k.Settle()
	k.WantClean()
	if _, err := k.Store.Complete(t.Context(), metadata.Complete{Bucket: b, Key: "upload", Upload: u.ID, Parts: []metadata.CompletePart{{Number: 1}}}); err != nil {
		t.Fatal(err)
	}
	k.want(b, "upload", storetest.Body(5, 200_000))
}
