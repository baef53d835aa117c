package chunkstore_test

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"io"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/hashkern"
	"github.com/holdfast/holdfast/chunkstore/storetest"
)

const benchSize = 64 << 20

// BenchmarkWrite64MiB writes to memory drives with the MD5 that an ETag takes. BenchmarkMD5 and BenchmarkSHA256 are
// what this machine can do: the coder of one write is bound by MD5, which carries the SHA-256 of the leaves.
func BenchmarkWrite64MiB(b *testing.B) {
	k := storetest.New(b, 12, func(c *chunkstore.Config) { c.Memory = 256 << 20 })
	body := storetest.Body(1, benchSize)
	b.SetBytes(benchSize)
	for b.Loop() {
		var h hashkern.MD5
		w, err := k.Store.Write(b.Context(), bytes.NewReader(body), chunkstore.WriteOptions{Size: benchSize, MD5: &h})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := k.Store.Delete(b.Context(), w.Chunks); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkRead64MiB(b *testing.B) {
	k := storetest.New(b, 12, func(c *chunkstore.Config) { c.Memory = 256 << 20 })
	w, err := k.Store.Write(b.Context(), bytes.NewReader(storetest.Body(1, benchSize)), chunkstore.WriteOptions{Size: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchSize)
	for b.Loop() {
		r := k.Store.Read(b.Context(), storetest.Refs(w.Chunks), 0, benchSize)
		if n, err := io.Copy(io.Discard, r); err != nil || n != benchSize {
			b.Fatal(n, err)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMD5(b *testing.B) {
	body := storetest.Body(1, 1<<20)
	b.SetBytes(1 << 20)
	for b.Loop() {
		_ = md5.Sum(body)
	}
}

func BenchmarkSHA256(b *testing.B) {
	body := storetest.Body(1, 16<<10)
	b.SetBytes(16 << 10)
	for b.Loop() {
		_ = sha256.Sum256(body)
	}
}
