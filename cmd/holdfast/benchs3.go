package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

// The loads, as the project's bars name them.
const (
	largeObject   = 64 << 20
	largeObjects  = 8
	smallObject   = 4 << 10
	smallClients  = 16
	manyClients   = 64
	listPage      = 1000
	listKeys      = 10_000
	listKeysLarge = 1_000_000
	listRounds    = 100
	firstBytes    = 200
	rangeSpan     = 256 << 10
)

func largeKey(i int) string { return fmt.Sprintf("large/%d", i) }

func (b *bench) put(ctx context.Context, key string, body []byte) error {
	return b.wire.put(ctx, b.bucket, key, body)
}

// steady runs do in so many goroutines for the configured time and returns how many finished a second. do gets a number
// that no other call gets.
func (b *bench) steady(ctx context.Context, clients int, do func(ctx context.Context, n int64) error) (float64, error) {
	var next atomic.Int64
	var group errgroup.Group
	limit := time.Duration(b.options.seconds) * time.Second
	began := time.Now()
	for range clients {
		group.Go(func() error {
			for time.Since(began) < limit {
				if err := do(ctx, next.Add(1)-1); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return float64(next.Load()) / time.Since(began).Seconds(), err
}

func (b *bench) putLarge(ctx context.Context) error {
	body := randomBlock(largeObject, 4)
	rate, err := b.steady(ctx, 2*runtime.NumCPU(), func(ctx context.Context, n int64) error {
		return b.put(ctx, largeKey(int(n%largeObjects)), body)
	})
	if err != nil {
		return err
	}
	limit := min(b.limits.put(), b.limits.Write/1.5)
	b.add(figure{Name: "PUT 64 MiB", Value: rate * largeObject / 1e6, Unit: "MB/s", Bar: 0.6 * limit,
		Beside: fmt.Sprintf("60 %% of %s MB/s, min(MD5 + SHA-256, disk write / 1.5)", amount(limit))})
	return nil
}

// haveLarge puts the large objects, so that all are there to be read.
func (b *bench) haveLarge(ctx context.Context) error {
	if b.large {
		return nil
	}
	body := randomBlock(largeObject, 4)
	for i := range largeObjects {
		if err := b.put(ctx, largeKey(i), body); err != nil {
			return err
		}
	}
	b.large = true
	return nil
}

func (b *bench) getLarge(ctx context.Context) error {
	if err := b.haveLarge(ctx); err != nil {
		return err
	}
	cold := "cold"
	if err := b.chill(); err != nil {
		cold = "maybe warm: " + err.Error()
	}
	began := time.Now()
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for i := range largeObjects { // each once, so that none is in a cache
		group.Go(func() error {
			out, err := b.wire.get(ctx, b.bucket, largeKey(i), "")
			if err != nil {
				return err
			}
			_, err = discard(out)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	limit := min(b.limits.SHA256All, b.limits.Read)
	b.add(figure{Name: "GET 64 MiB, " + cold, Value: largeObjects * largeObject / 1e6 / time.Since(began).Seconds(), Unit: "MB/s",
		Bar: 0.5 * limit, Beside: fmt.Sprintf("50 %% of %s MB/s, min(SHA-256, disk read)", amount(limit))})
	return nil
}

// errNoChunks says that the chunk files are not to be reached from here.
var errNoChunks = errors.New("no chunk files below --dir")

// chill takes the chunk files of the store out of the page cache, where they can be reached from here.
func (b *bench) chill() error { return chill(b.itself().dir) }

// chill takes the chunk files below a directory out of the page cache.
func chill(dir string) error {
	found := false
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a store that runs removes files
		}
		if err != nil || !entry.Type().IsRegular() || !strings.Contains(name, "/volumes/") {
			return err
		}
		file, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		return errors.Join(file.Sync(), forget(file), file.Close())
	})
	if err == nil && !found {
		err = errNoChunks
	}
	return err
}

// firstByte measures how long a reader waits for the first byte of a span somewhere in a large object.
func (b *bench) firstByte(ctx context.Context) error {
	if err := b.haveLarge(ctx); err != nil {
		return err
	}
	times := make([]time.Duration, 0, firstBytes)
	for range firstBytes {
		off := rand.Int64N(largeObject - rangeSpan)
		key := largeKey(rand.IntN(largeObjects))
		began := time.Now()
		out, err := b.wire.get(ctx, b.bucket, key, fmt.Sprintf("bytes=%d-", off))
		if err != nil {
			return err
		}
		var first [1]byte
		if _, err := io.ReadFull(out, first[:]); err != nil {
			return errors.Join(err, out.Close())
		}
		times = append(times, time.Since(began))
		if err := out.Close(); err != nil {
			return err
		}
	}
	slices.Sort(times)
	b.add(figure{Name: "GET first byte, p50", Value: milliseconds(times[len(times)/2]), Unit: "ms"})
	b.add(figure{Name: "GET first byte, p99", Value: milliseconds(times[len(times)*99/100]), Unit: "ms", Bar: 20, AtMost: true})
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// smallRange reads 4 KiB out of large objects and asks the server what that took from drives.
func (b *bench) smallRange(ctx context.Context) error {
	if err := b.haveLarge(ctx); err != nil {
		return err
	}
	const reads = 50
	before, err := b.whenQuiet(ctx)
	if err != nil {
		return err
	}
	for range reads {
		off := rand.Int64N(largeObject-smallObject) / smallObject * smallObject
		out, err := b.wire.get(ctx, b.bucket, largeKey(0), fmt.Sprintf("bytes=%d-%d", off, off+smallObject-1))
		if err != nil {
			return err
		}
		if n, err := discard(out); err != nil || n != smallObject {
			return fmt.Errorf("a range of %d bytes gave %d: %w", smallObject, n, err)
		}
	}
	after, err := b.admin.Status(ctx)
	if err != nil {
		return err
	}
	read := float64(after.Traffic.FromDrives-before.Traffic.FromDrives) / reads
	b.add(figure{Name: "4 KiB range of 64 MiB reads", Value: read / 1024, Unit: "KiB", Bar: 64, AtMost: true})
	return nil
}

// whenQuiet waits until what earlier requests read ahead has come from the drives.
func (b *bench) whenQuiet(ctx context.Context) (*admin.Status, error) {
	var before int64 = -1
	for {
		st, err := b.admin.Status(ctx)
		if err != nil || st.Traffic.FromDrives == before {
			return st, err
		}
		before = st.Traffic.FromDrives
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (b *bench) putSmall(ctx context.Context) error {
	body := randomBlock(smallObject, 5)
	syncs, err := b.syncRateNow(ctx)
	if err != nil {
		return err
	}
	rate, err := b.steady(ctx, smallClients, func(ctx context.Context, n int64) error {
		return b.put(ctx, fmt.Sprintf("small/%09d", n), body)
	})
	if err != nil {
		return err
	}
	b.add(figure{Name: "PUT 4 KiB, 16 clients", Value: rate, Unit: "/s", Bar: min(8*syncs, 3000),
		Beside: fmt.Sprintf("min(8 x %s fsyncs/s just before, 3000)", amount(syncs))})
	return nil
}

// prefixed is a number of keys with a prefix of their own.
type prefixed struct {
	prefix string
	keys   int
}

// list measures one page of 1,000 keys where there are 10,000 of them, and with --large where there are a million. The
// two are compared page by page in turn: minutes apart the machine itself is faster or slower by more than the bar.
func (b *bench) list(ctx context.Context) error {
	few, many := prefixed{"few/", listKeys}, prefixed{"many/", listKeysLarge}
	if err := b.fill(ctx, few); err != nil {
		return err
	}
	alone, err := b.timeLists(ctx, few)
	if err != nil {
		return err
	}
	b.add(figure{Name: "LIST 1,000 of 10 k keys", Value: milliseconds(alone[0]), Unit: "ms"})
	if !b.options.large {
		return nil
	}
	if err := b.fill(ctx, many); err != nil {
		return err
	}
	both, err := b.timeLists(ctx, few, many)
	if err != nil {
		return err
	}
	b.add(figure{Name: "LIST 1,000 of 1 M keys", Value: milliseconds(both[1]), Unit: "ms", Bar: 1.3 * milliseconds(both[0]), AtMost: true,
		Beside: fmt.Sprintf("1.3 x %s ms, a page of 10 k in turn with it", amount(milliseconds(both[0])))})
	return nil
}

func (b *bench) fill(ctx context.Context, set prefixed) error {
	var group errgroup.Group
	group.SetLimit(manyClients)
	for n := 0; n < set.keys && ctx.Err() == nil; n++ {
		group.Go(func() error { return b.put(ctx, set.key(n), nil) })
	}
	return errors.Join(group.Wait(), ctx.Err())
}

func (p prefixed) key(n int) string { return fmt.Sprintf("%s%09d", p.prefix, n) }

// timeLists gives for each set the median time of a page that starts anywhere among its keys.
func (b *bench) timeLists(ctx context.Context, sets ...prefixed) ([]time.Duration, error) {
	times := make([][]time.Duration, len(sets))
	for range listRounds {
		for i, set := range sets {
			began := time.Now()
			out, err := b.s3.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.bucket, Prefix: &set.prefix,
				StartAfter: aws.String(set.key(rand.IntN(set.keys - listPage - 1))), MaxKeys: aws.Int32(listPage)})
			if err != nil {
				return nil, err
			}
			if len(out.Contents) != listPage {
				return nil, fmt.Errorf("a page of %d keys held %d", listPage, len(out.Contents))
			}
			times[i] = append(times[i], time.Since(began))
		}
	}
	medians := make([]time.Duration, len(sets))
	for i := range times {
		slices.Sort(times[i])
		medians[i] = times[i][listRounds/2]
	}
	return medians, nil
}

// manyPuts sends 64 large objects at once and watches the server's memory.
func (b *bench) manyPuts(ctx context.Context) error {
	body := randomBlock(largeObject, 6)
	var group errgroup.Group
	for i := range manyClients {
		group.Go(func() error { return b.put(ctx, fmt.Sprintf("many/%d", i), body) })
	}
	done := make(chan error, 1)
	go func() { done <- group.Wait() }()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	most, budget := int64(0), int64(0)
	for {
		select {
		case err := <-done:
			bar := mega(budget + 200<<20)
			b.add(figure{Name: "memory at 64 PUTs of 64 MiB", Value: mega(most), Unit: "MB", Bar: bar, AtMost: true,
				Beside: fmt.Sprintf("budget of %s + 200 MiB", size(budget))})
			return err
		case <-ticker.C:
			st, err := b.admin.Status(ctx)
			if err != nil {
				return errors.Join(err, <-done)
			}
			most, budget = max(most, st.Memory.Resident), st.Memory.Budget
		}
	}
}
