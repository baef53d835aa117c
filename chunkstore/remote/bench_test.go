package remote_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// each runs a benchmark with shards of 1 MiB on a memory drive and on a disk, as they are and through TLS on loopback.
func each(b *testing.B, bench func(b *testing.B, d chunkstore.Drive, s *drivetest.Shard)) {
	disk := func(b *testing.B) chunkstore.Drive {
		dir := filepath.Join(b.TempDir(), "d1")
		must(b, drive.Init(vfs.OS(), dir, drive.Identity{
			Format: drive.IdentityFormat, Cluster: here, Drive: driveID, Name: "d1", Created: time.Now().UTC(),
		}))
		d, err := drive.Open(b.Context(), drive.Config{FS: vfs.OS(), Dir: dir, Cluster: here, Reserve: -1})
		must(b, err)
		b.Cleanup(func() { must(b, d.Close()) })
		return d
	}
	for name, open := range map[string]func(*testing.B) chunkstore.Drive{
		"Memory": func(*testing.B) chunkstore.Drive { return memory.New(driveID) },
		"Disk":   disk,
	} {
		s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, chunkstore.MaxChunk)
		run := func(how string, wrap func(b *testing.B, d chunkstore.Drive) chunkstore.Drive) {
			b.Run(fmt.Sprintf("%s/%s", name, how), func(b *testing.B) {
				d := wrap(b, open(b))
				must(b, s.Put(b.Context(), d))
				b.SetBytes(int64(len(s.Payload)))
				b.ReportAllocs()
				bench(b, d, s)
			})
		}
		run("Local", func(_ *testing.B, d chunkstore.Drive) chunkstore.Drive { return d })
		for _, n := range networks[:2] {
			run(n.name, func(b *testing.B, d chunkstore.Drive) chunkstore.Drive {
				return n.newLink(b, serve(func() chunkstore.Drive { return d }), nil).drive(b)
			})
		}
	}
}

func BenchmarkPut1MiB(b *testing.B) {
	each(b, func(b *testing.B, d chunkstore.Drive, s *drivetest.Shard) {
		for b.Loop() {
			must(b, s.Put(b.Context(), d))
		}
	})
}

func BenchmarkRead1MiB(b *testing.B) {
	each(b, func(b *testing.B, d chunkstore.Drive, s *drivetest.Shard) {
		dst := make([]byte, len(s.Payload))
		for b.Loop() {
			must(b, d.Read(b.Context(), s.Chunk, 0, 0, dst))
		}
	})
}

func BenchmarkRead16KiB(b *testing.B) {
	each(b, func(b *testing.B, d chunkstore.Drive, s *drivetest.Shard) {
		dst := make([]byte, s.Header.Layout.Leaf)
		b.SetBytes(int64(len(dst)))
		for b.Loop() {
			must(b, d.Read(b.Context(), s.Chunk, 0, 0, dst))
		}
	})
}
