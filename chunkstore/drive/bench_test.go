package drive_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// BenchmarkPut writes shards from several goroutines. Beside it stands what one writer can sync on the same device.
func BenchmarkPut(b *testing.B) {
	b.Run("one-writer-4KiB-append-and-sync", benchmarkSync)
	for _, size := range []uint32{1, chunkstore.MaxChunk} {
		for _, writers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("chunk-%d/writers-%d", size, writers), func(b *testing.B) { benchmarkPut(b, size, writers) })
		}
	}
}

func benchmarkSync(b *testing.B) {
	f, err := vfs.OS().OpenFile(filepath.Join(b.TempDir(), "f"), os.O_RDWR|os.O_CREATE, 0o600)
	must(b, err)
	page := vfs.Aligned(vfs.Align)
	off := int64(0)
	for b.Loop() {
		if _, err := f.WriteAt(page, off); err != nil {
			b.Fatal(err)
		}
		must(b, f.Sync())
		off += vfs.Align
	}
	must(b, f.Close())
}

func benchmarkPut(b *testing.B, size uint32, writers int) {
	dir := filepath.Join(b.TempDir(), "d1")
	must(b, drive.Init(vfs.OS(), dir, identity))
	d := open(b, vfs.OS(), func(c *drive.Config) { c.Dir = dir })
	shard := drivetest.NewShard(drivetest.Key(1, 0, 0), 1, size)
	b.SetBytes(int64(len(shard.Payload)))
	var next atomic.Uint32
	var group sync.WaitGroup
	b.ResetTimer()
	for range writers {
		group.Go(func() {
			h := shard.Header
			for {
				n := next.Add(1)
				if n > uint32(b.N) {
					return
				}
				h.Key.Chunk.Seq = n
				if err := d.Put(context.Background(), &h, shard.Cells); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}
