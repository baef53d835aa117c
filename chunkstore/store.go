package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/cluster"
)

// The defaults of Config.
const (
	// DefaultVolumeSize is the length that a volume's chunk files grow to: small enough to copy in seconds, large
	// enough that a drive of 20 TB has 20,000 files.
	DefaultVolumeSize = 1 << 30
	// DefaultReadDeadline is how long a read waits for a drive: several seeks of a loaded disk, and still a pause
	// that nobody takes for a hang.
	DefaultReadDeadline = 500 * time.Millisecond
	// DefaultHedge is longer than what a thread usually waits for its turn on a busy machine (the scheduler's slices are
	// 3 to 4 ms), which is no fault of a drive, and not longer than a seek of a disk.
	DefaultHedge = 5 * time.Millisecond
	// MinMemory is the least memory that a Store runs with: 32 rows, enough for a write, a read and a repair at once.
	MinMemory = 32 * rowSize

	maxDefaultMemory = 1 << 30
	closeWait        = 3 * time.Second       // how long Close waits for drives that hang: nothing that was acknowledged needs it
	buffersAgain     = 10 * time.Millisecond // how often Close looks whether its buffers came back
)

// ErrClosed says that the Store was closed.
var ErrClosed = errors.New("chunk store is closed")

// Config is what a Store is made from.
type Config struct {
	Volumes Volumes
	Drives  *Drives
	// Self is the peer that this Store runs on. It writes only to volumes that it opened itself. Zero: the only peer.
	Self cluster.PeerID
	// Domains tells in which failure domains a drive lies; it is called often and must not wait. Nil: all drives are on
	// one peer in one rack.
	Domains func(cluster.DriveID) Domains
	// Leaving says that a drive is drained: new volumes go around it as long as enough others are healthy. It is called
	// often and must not wait. Nil: none is.
	Leaving func(cluster.DriveID) bool
	// Memory is the budget of row buffers in bytes, at least MinMemory; all reads, writes and repairs share it. Zero
	// means a quarter of the machine's memory, at most 1 GiB.
	Memory int64
	// PutDeadline is how long a write waits for its slowest drives once enough shards are durable. Zero means three
	// times the 95th percentile of recent writes, at least 250 ms and at most 2 s.
	PutDeadline time.Duration
	// ReadDeadline is how long a read waits for a drive before it goes around it. Zero means DefaultReadDeadline.
	ReadDeadline time.Duration
	// Hedge is the least time after which a read that waits for a drive asks others as well; it waits longer where
	// the drive takes longer, for twice its 95th percentile, up to half of ReadDeadline. Zero means DefaultHedge; negative: reads ask no others
	// before ReadDeadline, and do not go around slow drives.
	Hedge time.Duration
	// Near says that a drive is of this peer, so that what is read from it need not be moved. Nil: all are alike.
	Near func(cluster.DriveID) bool
	// VolumeSize is the size in bytes of a chunk file at which its volume is sealed; on small drives it is sealed sooner,
	// at the 128th part of the smallest, but not below 16 MiB. Zero means DefaultVolumeSize.
	VolumeSize int64
	// Silent tells for how long a drive has not answered somebody else, zero when it does. Nil: nobody else asks.
	Silent func(cluster.DriveID) time.Duration
	Log    *slog.Logger     // nil: slog.Default()
	Now    func() time.Time // nil: time.Now
}

// Store keeps chunks on the drives of a registry. All methods may be called concurrently.
//
// Lock order: volumeSet.mu, Drives.mu, member.mu, budget.mu, paceDigest.mu, allowance.mu; no I/O under any of them.
type Store struct {
	config  Config
	codec   *erasure.Codec
	budget  *budget
	hasher  *hasher
	volumes *volumeSet
	ids     chunkIDs
	latency latency
	stats   counters
	paces   paces
	// allowance is what hedging may still take.
	allowance *allowance
	damage    *damageLog

	// life ends when Close is called; calls on drives live by it and not by the request that caused them, so that a
	// client that goes away leaves no drive in the middle of something.
	life   context.Context
	cancel context.CancelFunc

	mu     sync.Mutex // guards closed against wait.Add
	closed bool
	wait   sync.WaitGroup
	active atomic.Int64 // goroutines of calls on drives
}

// NewStore returns a Store over the drives of config.Drives. It reads nothing before it is used.
func NewStore(config Config) (*Store, error) {
	if config.Volumes == nil || config.Drives == nil {
		return nil, errors.New("chunk store needs volumes and drives")
	}
	if config.Memory == 0 {
		memory, err := DefaultMemory()
		if err != nil {
			return nil, err
		}
		config.Memory = memory
	}
	if config.Memory < MinMemory {
		return nil, fmt.Errorf("memory of %d bytes for row buffers is less than %d", config.Memory, int64(MinMemory))
	}
	if config.ReadDeadline == 0 {
		config.ReadDeadline = DefaultReadDeadline
	}
	if config.Hedge == 0 {
		config.Hedge = DefaultHedge
	}
	if config.VolumeSize == 0 {
		config.VolumeSize = DefaultVolumeSize
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Domains == nil {
		config.Domains = func(cluster.DriveID) Domains { return Domains{} }
	}
	codec, err := erasure.New(erasure.Default)
	if err != nil {
		return nil, err
	}
	budget, err := newBudget(config.Memory)
	if err != nil {
		return nil, err
	}
	s := &Store{config: config, codec: codec, budget: budget, hasher: newHasher(), allowance: newAllowance()}
	s.life, s.cancel = context.WithCancel(context.Background())
	s.volumes = newVolumeSet(s)
	s.damage = newDamageLog(s)
	s.ids.lease = config.Volumes.LeaseChunkBlock
	s.spawn(s.volumes.run)
	s.spawn(s.damage.run)
	return s, nil
}

// Close stops the Store and waits for what it has under way on drives. Writes and reads under way fail. A drive that
// hangs holds Close up for three seconds; the memory of such calls is then left to them and an error says so.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	done := make(chan struct{})
	go func() {
		s.wait.Wait()
		close(done)
	}()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		return fmt.Errorf("close chunk store: %d calls hang on drives: %w", s.active.Load(), ErrDriveDown)
	}
	// Whoever used the Store is told by its errors now, and gives its buffers back a moment later.
	again := time.NewTicker(buffersAgain)
	defer again.Stop()
	for {
		err := s.budget.close()
		if !errors.Is(err, errBuffersInUse) {
			return err
		}
		select {
		case <-again.C:
		case <-timer.C:
			return fmt.Errorf("close chunk store: %w", err)
		}
	}
}

// spawn runs f in a goroutine that Close waits for. It returns false, and runs nothing, when the Store is closed.
func (s *Store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.active.Add(1)
	s.wait.Go(func() {
		defer s.active.Add(-1)
		f()
	})
	return true
}

func (s *Store) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// DefaultMemory is the budget of row buffers, in bytes, of a Config that names none: a quarter of the machine's memory,
// at most 1 GiB.
func DefaultMemory() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("ask for the size of memory: %w", err)
	}
	quarter := int64(info.Totalram) * int64(info.Unit) / 4
	return max(MinMemory, min(quarter, maxDefaultMemory)), nil
}
