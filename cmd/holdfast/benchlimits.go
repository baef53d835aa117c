package main

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes and times of the machine's own limits: long enough to outlast the caches of a disk and a burst of a CPU.
const (
	hashFor     = 500 * time.Millisecond
	diskFile    = 512 << 20
	diskBlock   = 8 << 20
	syncFor     = time.Second
	directAlign = 4096
)

// limits is what this machine can do at all, in MB/s (10^6) and operations a second.
type limits struct {
	MD5       float64 `json:"md5_one_core_mb_s"`
	SHA256    float64 `json:"sha256_one_core_mb_s"`
	SHA256All float64 `json:"sha256_all_cores_mb_s"`
	Write     float64 `json:"disk_write_mb_s"`
	Read      float64 `json:"disk_read_mb_s"`
	Sync      float64 `json:"one_writer_4k_fdatasync_s"`
}

func (l limits) rows() []figure {
	return []figure{
		{Name: "MD5, one core", Value: l.MD5, Unit: "MB/s"},
		{Name: "SHA-256, one core", Value: l.SHA256, Unit: "MB/s"},
		{Name: "SHA-256, all cores", Value: l.SHA256All, Unit: "MB/s"},
		{Name: "disk write", Value: l.Write, Unit: "MB/s"},
		{Name: "disk read", Value: l.Read, Unit: "MB/s"},
		{Name: "append 4 KiB + fdatasync", Value: l.Sync, Unit: "/s"},
	}
}

// put is what hashing allows for PUT on all cores: a byte costs MD5 once and SHA-256 over the one and a half bytes that
// are stored.
func (l limits) put() float64 {
	if l.MD5 == 0 || l.SHA256 == 0 {
		return 0
	}
	return float64(runtime.NumCPU()) / (1/l.MD5 + 1.5/l.SHA256)
}

func measure(ctx context.Context, dir string) (limits, error) {
	l := limits{MD5: hashRate(md5.New, 1), SHA256: hashRate(sha256.New, 1), SHA256All: hashRate(sha256.New, runtime.NumCPU())}
	var err error
	if l.Write, l.Read, err = diskRates(ctx, filepath.Join(dir, "disk")); err != nil {
		return l, err
	}
	l.Sync, err = syncRate(ctx, filepath.Join(dir, "sync"))
	return l, err
}

// hashRate is the speed of a hash on so many cores at once, in MB/s.
func hashRate(make func() hash.Hash, cores int) float64 {
	block := randomBlock(1<<20, 1)
	var wait sync.WaitGroup
	var mu sync.Mutex
	total := 0.0
	for range cores {
		wait.Go(func() {
			h, n := make(), 0
			began := time.Now()
			for time.Since(began) < hashFor {
				h.Write(block)
				n++
			}
			rate := float64(n) * float64(len(block)) / 1e6 / time.Since(began).Seconds()
			mu.Lock()
			total += rate
			mu.Unlock()
		})
	}
	wait.Wait()
	return total
}

// randomBlock is n bytes that do not compress.
func randomBlock(n int, seed byte) []byte {
	block := make([]byte, n)
	// ChaCha8's Read never fails.
	if _, err := rand.NewChaCha8([32]byte{seed}).Read(block); err != nil {
		panic(err)
	}
	return block
}

// alignedBlock is random bytes at an address that direct I/O takes.
func alignedBlock(n int) []byte {
	raw := randomBlock(n+directAlign, 2)
	skip := directAlign - int(uintptr(unsafe.Pointer(&raw[0]))%directAlign)
	return raw[skip : skip+n : skip+n]
}

// diskRates writes a file with direct I/O where that works, syncs it, and reads it back, in MB/s.
func diskRates(ctx context.Context, name string) (write, read float64, err error) {
	file, err := openDirect(name)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(name)) }()
	block := alignedBlock(diskBlock)
	began := time.Now()
	for off := int64(0); off < diskFile && ctx.Err() == nil; off += diskBlock {
		if _, err := file.WriteAt(block, off); err != nil {
			return 0, 0, err
		}
	}
	if err := unix.Fdatasync(int(file.Fd())); err != nil {
		return 0, 0, fmt.Errorf("fdatasync: %w", err)
	}
	write = diskFile / 1e6 / time.Since(began).Seconds()
	if err := forget(file); err != nil {
		return 0, 0, err
	}
	began = time.Now()
	for off := int64(0); off < diskFile && ctx.Err() == nil; off += diskBlock {
		if _, err := file.ReadAt(block, off); err != nil {
			return 0, 0, err
		}
	}
	return write, diskFile / 1e6 / time.Since(began).Seconds(), ctx.Err()
}

func openDirect(name string) (*os.File, error) {
	flags := os.O_RDWR | os.O_CREATE | os.O_TRUNC
	file, err := os.OpenFile(name, flags|unix.O_DIRECT, 0o600)
	if errors.Is(err, unix.EINVAL) {
		return os.OpenFile(name, flags, 0o600)
	}
	return file, err
}

// forget takes a file's clean pages out of the page cache.
func forget(file *os.File) error {
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("fadvise %s: %w", file.Name(), err)
	}
	return nil
}

// syncRate is how often one writer can append 4 KiB and have them on the medium, a second.
func syncRate(ctx context.Context, name string) (rate float64, err error) {
	file, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(name)) }()
	block := randomBlock(4<<10, 3)
	began, n := time.Now(), 0
	for time.Since(began) < syncFor && ctx.Err() == nil {
		if _, err := file.Write(block); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return 0, fmt.Errorf("fdatasync: %w", err)
		}
		n++
	}
	return float64(n) / time.Since(began).Seconds(), ctx.Err()
}
