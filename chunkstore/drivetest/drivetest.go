package drivetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
)

// Env is one implementation under test, with an empty drive.
type Env struct {
	Drive chunkstore.Drive
	// Reopen closes the drive and opens it again with what it kept. Nil: the implementation keeps nothing.
	Reopen func(t testing.TB, d chunkstore.Drive) chunkstore.Drive
	// Damage flips a bit of the stored payload of a shard.
	Damage func(t testing.TB, d chunkstore.Drive, s *Shard, off int64)
	// SetFull makes the drive full, or ends that. Nil: it cannot.
	SetFull func(t testing.TB, full bool)
}

// Run checks that the drives that open makes keep the contract of chunkstore.Drive.
func Run(t *testing.T, open func(t testing.TB) Env) {
	claims := []struct {
		name  string
		check func(t *testing.T, e Env)
	}{
		{"ShardsOfEverySizeReadBack", sizes},
		{"SpansReadOnlyWhatIsAsked", spans},
		{"MissingShardsAreNotFound", missing},
		{"PutReplaces", replaces},
		{"ContradictoryPutsAreRefused", contradictions},
		{"DeletedShardsNeverComeBack", deletes},
		{"SealedEpochsAreRefused", seals},
		{"ListsAreSortedAndExact", lists},
		{"WrongChunkIsDamaged", wrongChunk},
		{"DamageIsFoundAndCounted", damage},
		{"FullDrivesStillDelete", fullDrive},
		{"ConcurrentCallsAgree", concurrent},
		{"EndedContextsEndCalls", contexts},
		{"ClosedDrivesAreDown", closes},
		{"CallersKeepTheirBuffers", buffers},
	}
	for _, claim := range claims {
		t.Run(claim.name, func(t *testing.T) {
			e := open(t)
			claim.check(t, e)
		})
	}
}

func put(t testing.TB, d chunkstore.Drive, s *Shard) *Shard {
	t.Helper()
	if err := s.Put(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	return s
}

// WantRead fails the test unless the drive gives the shard back bit-exact, whole and checked.
func WantRead(t testing.TB, d chunkstore.Drive, s *Shard) {
	t.Helper()
	got, err := s.Read(context.Background(), d)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, s.Payload) {
		t.Fatalf("%v: wrong bytes", s.Header.Key)
	}
	if err := d.Check(context.Background(), s.Header.Key); err != nil {
		t.Fatal(err)
	}
}

func wantIs(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// boundaries returns chunk sizes at every boundary of the layout.
func boundaries() []uint32 {
	return []uint32{1, 4095, 8 << 12, 8<<12 + 1, 8 << 14, 8<<14 + 1, 100_000, 200_000, 8<<16 - 1, 8 << 16, 8<<16 + 1, 3 << 20,
		chunkstore.MaxChunk}
}

func sizes(t *testing.T, e Env) {
	var shards []*Shard
	for i, size := range boundaries() {
		shards = append(shards, put(t, e.Drive, NewShard(Key(1, uint32(i), uint8(i%12)), 1, size)))
	}
	check := func() {
		for _, s := range shards {
			WantRead(t, e.Drive, s)
			h, err := e.Drive.Header(t.Context(), s.Header.Key)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Verify(s.Chunk); err != nil {
				t.Fatal(err)
			}
			if h.Owner != s.Header.Owner || h.Epoch != s.Header.Epoch || !slices.Equal(h.Leaves, s.Header.Leaves) {
				t.Fatalf("header of %v differs", s.Header.Key)
			}
		}
	}
	check()
	if e.Reopen != nil {
		e.Drive = e.Reopen(t, e.Drive)
		check()
	}
}

func spans(t *testing.T, e Env) {
	for _, size := range []uint32{200_000, 3 << 20} {
		s := put(t, e.Drive, NewShard(Key(1, size, 3), 1, size))
		leaf, total := s.Header.Layout.Leaf, int64(len(s.Payload))
		for off := int64(0); off < total; off += leaf {
			for _, end := range []int64{min(off+leaf, total), total} {
				dst := make([]byte, end-off)
				if err := e.Drive.Read(t.Context(), s.Chunk, 3, off, dst); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(dst, s.Payload[off:end]) {
					t.Fatalf("bytes %d to %d of %d are wrong", off, end, total)
				}
			}
		}
		err := e.Drive.Read(t.Context(), s.Chunk, 3, total-leaf, make([]byte, 2*leaf))
		wantIs(t, err, chunkstore.ErrDamaged)
	}
}

func missing(t *testing.T, e Env) {
	s := NewShard(Key(1, 1, 0), 1, 1000)
	_, err := s.Read(t.Context(), e.Drive)
	wantIs(t, err, chunkstore.ErrNotFound)
	_, err = e.Drive.Header(t.Context(), s.Header.Key)
	wantIs(t, err, chunkstore.ErrNotFound)
	wantIs(t, e.Drive.Check(t.Context(), s.Header.Key), chunkstore.ErrNotFound)
	put(t, e.Drive, s)
	_, err = e.Drive.Header(t.Context(), Key(1, 1, 1))
	wantIs(t, err, chunkstore.ErrNotFound)
	_, err = e.Drive.Header(t.Context(), Key(2, 1, 0))
	wantIs(t, err, chunkstore.ErrNotFound)
}

func replaces(t *testing.T, e Env) {
	put(t, e.Drive, NewShard(Key(1, 1, 4), 1, 5000))
	again := put(t, e.Drive, NewShard(Key(1, 1, 4), 2, 70_000))
	check := func() {
		WantRead(t, e.Drive, again)
		list, err := e.Drive.Shards(t.Context(), 1)
		if err != nil || len(list) != 1 || list[0].Epoch != 2 || list[0].Size != 70_000 {
			t.Fatalf("shards %+v: %v", list, err)
		}
	}
	check()
	if e.Reopen != nil {
		e.Drive = e.Reopen(t, e.Drive)
		check()
	}
}

func contradictions(t *testing.T, e Env) {
	for name, spoil := range map[string]func(s *Shard){
		"a cell is missing":      func(s *Shard) { s.Cells = s.Cells[1:] },
		"a leaf is missing":      func(s *Shard) { s.Header.Leaves = s.Header.Leaves[1:] },
		"no such shard":          func(s *Shard) { s.Header.Key.Shard = chunkstore.Shards },
		"a cell is not aligned":  func(s *Shard) { s.Cells[0] = append(make([]byte, 0, 1<<17), make([]byte, 1<<16+1)...)[1:] },
		"the root is of another": func(s *Shard) { s.Header.Roots[s.Header.Key.Shard][0] ^= 1 },
	} {
		s := NewShard(Key(1, 9, 0), 1, 1<<20)
		spoil(s)
		if err := s.Put(t.Context(), e.Drive); err == nil {
			t.Errorf("%s: put succeeded", name)
		}
	}
	if list, err := e.Drive.Shards(t.Context(), 1); err != nil || len(list) != 0 {
		t.Errorf("shards %v: %v", list, err)
	}
}

func deletes(t *testing.T, e Env) {
	gone, stays := NewShard(Key(1, 1, 0), 1, 5000), NewShard(Key(1, 2, 0), 1, 5000)
	never := NewShard(Key(1, 3, 0), 1, 5000)
	put(t, e.Drive, gone)
	put(t, e.Drive, stays)
	if err := e.Drive.Delete(t.Context(), []chunkstore.ShardKey{gone.Header.Key, never.Header.Key}); err != nil {
		t.Fatal(err)
	}
	if err := e.Drive.Delete(t.Context(), []chunkstore.ShardKey{gone.Header.Key}); err != nil {
		t.Fatalf("second delete: %v", err)
	}
	if err := e.Drive.Delete(t.Context(), nil); err != nil {
		t.Fatalf("delete of nothing: %v", err)
	}
	check := func() {
		_, err := gone.Read(t.Context(), e.Drive)
		wantIs(t, err, chunkstore.ErrNotFound)
		wantIs(t, gone.Put(t.Context(), e.Drive), chunkstore.ErrDeleted)
		wantIs(t, never.Put(t.Context(), e.Drive), chunkstore.ErrDeleted)
		WantRead(t, e.Drive, stays)
		if status := e.Drive.Status(); status.Shards != 1 {
			t.Fatalf("%d shards told, 1 is there", status.Shards)
		}
	}
	check()
	if e.Reopen != nil {
		e.Drive = e.Reopen(t, e.Drive)
		check()
	}
}

func seals(t *testing.T, e Env) {
	old := put(t, e.Drive, NewShard(Key(5, 1, 0), 1, 5000))
	if err := e.Drive.Seal(t.Context(), 5, 3); err != nil {
		t.Fatal(err)
	}
	if err := e.Drive.Seal(t.Context(), 5, 2); err != nil {
		t.Fatal(err)
	}
	check := func() {
		wantIs(t, NewShard(Key(5, 2, 0), 2, 5000).Put(t.Context(), e.Drive), chunkstore.ErrStaleVolume)
		WantRead(t, e.Drive, old)
		put(t, e.Drive, NewShard(Key(5, 3, 0), 3, 5000))
		put(t, e.Drive, NewShard(Key(6, 1, 0), 1, 5000))
	}
	check()
	if e.Reopen != nil {
		e.Drive = e.Reopen(t, e.Drive)
		check()
	}
}

func lists(t *testing.T, e Env) {
	var want []chunkstore.ShardInfo
	for _, n := range []uint32{5, 3, 9, 1} {
		for _, shard := range []uint8{2, 0} {
			s := put(t, e.Drive, NewShard(Key(1, n, shard), 1, 5000+n))
			want = append(want, chunkstore.ShardInfo{Key: s.Header.Key, Epoch: 1, Size: s.Header.Size, Digest: s.Chunk.Digest})
		}
	}
	put(t, e.Drive, NewShard(Key(300, 1, 0), 1, 5000))
	slices.SortFunc(want, func(a, b chunkstore.ShardInfo) int {
		return int(a.Key.Chunk.Seq)*100 + int(a.Key.Shard) - int(b.Key.Chunk.Seq)*100 - int(b.Key.Shard)
	})
	check := func() {
		got, err := e.Drive.Shards(t.Context(), 1)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("shards %+v, want %+v: %v", got, want, err)
		}
		volumes, err := e.Drive.Volumes(t.Context())
		if err != nil || len(volumes) != 2 || volumes[0].Volume != 1 || volumes[1].Volume != 300 {
			t.Fatalf("volumes %+v: %v", volumes, err)
		}
		if volumes[0].Shards != 8 || volumes[0].Bytes != 8*8192 || volumes[0].Length < volumes[0].Bytes {
			t.Fatalf("volume %+v, want 8 shards of 8 KiB", volumes[0])
		}
		if status := e.Drive.Status(); status.Shards != 9 || status.Bytes != 9*8192 || status.Down != nil {
			t.Fatalf("status %+v", status)
		}
	}
	check()
	if e.Reopen != nil {
		e.Drive = e.Reopen(t, e.Drive)
		check()
	}
	if list, err := e.Drive.Shards(t.Context(), 2); err != nil || len(list) != 0 {
		t.Errorf("shards of an unknown volume %v: %v", list, err)
	}
}

func wrongChunk(t *testing.T, e Env) {
	s := put(t, e.Drive, NewShard(Key(1, 1, 0), 1, 5000))
	dst := make([]byte, len(s.Payload))
	digest, size := s.Chunk, s.Chunk
	digest.Digest[0] ^= 1
	size.Size--
	wantIs(t, e.Drive.Read(t.Context(), digest, 0, 0, dst), chunkstore.ErrDamaged)
	wantIs(t, e.Drive.Read(t.Context(), size, 0, 0, dst), chunkstore.ErrDamaged)
}

func damage(t *testing.T, e Env) {
	if e.Damage == nil {
		t.Skip("this drive cannot be damaged")
	}
	s := put(t, e.Drive, NewShard(Key(1, 1, 0), 1, 1<<20))
	other := put(t, e.Drive, NewShard(Key(1, 2, 0), 1, 1<<20))
	e.Damage(t, e.Drive, s, 20_000)
	before := e.Drive.Status().Damaged
	_, err := s.Read(t.Context(), e.Drive)
	wantIs(t, err, chunkstore.ErrDamaged)
	wantIs(t, e.Drive.Check(t.Context(), s.Header.Key), chunkstore.ErrDamaged)
	if e.Drive.Status().Damaged <= before {
		t.Error("damage is not counted")
	}
	dst := make([]byte, s.Header.Layout.Leaf)
	if err := e.Drive.Read(t.Context(), s.Chunk, 0, 0, dst); err != nil || !bytes.Equal(dst, s.Payload[:len(dst)]) {
		t.Errorf("the leaf before the damaged one: %v", err)
	}
	WantRead(t, e.Drive, other)
	put(t, e.Drive, s) // repair writes the shard again
	WantRead(t, e.Drive, s)
}

func fullDrive(t *testing.T, e Env) {
	if e.SetFull == nil {
		t.Skip("this drive cannot be made full")
	}
	s := put(t, e.Drive, NewShard(Key(1, 1, 0), 1, 5000))
	e.SetFull(t, true)
	// Space that was reserved ahead may take some shards more.
	err := error(nil)
	for i := uint32(0); err == nil && i < 64; i++ {
		err = NewShard(Key(1, 100+i, 0), 1, chunkstore.MaxChunk).Put(t.Context(), e.Drive)
	}
	wantIs(t, err, chunkstore.ErrFull)
	if err := e.Drive.Status().Down; err != nil {
		t.Fatalf("a full drive is down: %v", err)
	}
	WantRead(t, e.Drive, s)
	if err := e.Drive.Delete(t.Context(), []chunkstore.ShardKey{s.Header.Key}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Read(t.Context(), e.Drive)
	wantIs(t, err, chunkstore.ErrNotFound)
}

func concurrent(t *testing.T, e Env) {
	const writers, each = 16, 12
	var group sync.WaitGroup
	for w := range uint32(writers) {
		group.Go(func() {
			for i := range uint32(each) {
				s := NewShard(Key(chunkstore.VolumeID(1+i%3), w*1000+i, uint8(w%12)), 1, 3000+w*40_000)
				if err := s.Put(t.Context(), e.Drive); err != nil {
					t.Error(err)
					return
				}
				if got, err := s.Read(t.Context(), e.Drive); err != nil || !bytes.Equal(got, s.Payload) {
					t.Errorf("%v: %v", s.Header.Key, err)
				}
				if i%4 == 3 {
					if err := e.Drive.Delete(t.Context(), []chunkstore.ShardKey{s.Header.Key}); err != nil {
						t.Error(err)
					}
				}
				if _, err := e.Drive.Shards(t.Context(), 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if got := e.Drive.Status().Shards; got != writers*each*3/4 {
		t.Errorf("%d shards, want %d", got, writers*each*3/4)
	}
}

func contexts(t *testing.T, e Env) {
	s := put(t, e.Drive, NewShard(Key(1, 1, 0), 1, 5000))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantIs(t, NewShard(Key(1, 2, 0), 1, 5000).Put(ctx, e.Drive), context.Canceled)
	_, err := s.Read(ctx, e.Drive)
	wantIs(t, err, context.Canceled)
	wantIs(t, e.Drive.Delete(ctx, []chunkstore.ShardKey{s.Header.Key}), context.Canceled)
	wantIs(t, e.Drive.Seal(ctx, 1, 9), context.Canceled)
	wantIs(t, e.Drive.Check(ctx, s.Header.Key), context.Canceled)
	WantRead(t, e.Drive, s)
}

func closes(t *testing.T, e Env) {
	s := put(t, e.Drive, NewShard(Key(1, 1, 0), 1, 5000))
	var group sync.WaitGroup
	for i := range uint32(8) {
		group.Go(func() {
			err := NewShard(Key(1, 100+i, 0), 1, 5000).Put(context.Background(), e.Drive)
			if err != nil && !errors.Is(err, chunkstore.ErrDriveDown) {
				t.Errorf("put during close: %v", err)
			}
		})
	}
	for range 2 {
		if err := e.Drive.Close(); err != nil {
			t.Fatal(err)
		}
	}
	group.Wait()
	_, err := s.Read(context.Background(), e.Drive)
	wantIs(t, err, chunkstore.ErrDriveDown)
	wantIs(t, s.Put(context.Background(), e.Drive), chunkstore.ErrDriveDown)
	wantIs(t, e.Drive.Delete(context.Background(), []chunkstore.ShardKey{s.Header.Key}), chunkstore.ErrDriveDown)
	wantIs(t, e.Drive.Seal(context.Background(), 1, cluster.Epoch(2)), chunkstore.ErrDriveDown)
	_, err = e.Drive.Shards(context.Background(), 1)
	wantIs(t, err, chunkstore.ErrDriveDown)
	_, err = e.Drive.Volumes(context.Background())
	wantIs(t, err, chunkstore.ErrDriveDown)
	if down := e.Drive.Status().Down; !errors.Is(down, chunkstore.ErrDriveDown) {
		t.Errorf("status says %v", down)
	}
}

func buffers(t *testing.T, e Env) {
	s := NewShard(Key(1, 1, 0), 1, 1<<20)
	kept := fmt.Sprintf("%x", s.Payload)
	put(t, e.Drive, s)
	if fmt.Sprintf("%x", s.Payload) != kept {
		t.Fatal("put changed the cells")
	}
	clear(s.Payload) // the caller uses its buffers again
	s.Header.Leaves[0][0] ^= 1
	WantRead(t, e.Drive, NewShard(Key(1, 1, 0), 1, 1<<20))
	h, err := e.Drive.Header(t.Context(), s.Header.Key)
	if err != nil {
		t.Fatal(err)
	}
	h.Leaves[0][0] ^= 1
	WantRead(t, e.Drive, NewShard(Key(1, 1, 0), 1, 1<<20))
}
