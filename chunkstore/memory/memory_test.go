package memory_test

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/cluster"
)

func TestContract(t *testing.T) {
	drivetest.Run(t, func(t testing.TB) drivetest.Env {
		d := memory.New(cluster.DriveID(cluster.NewID()))
		return drivetest.Env{
			Drive: d,
			Damage: func(t testing.TB, _ chunkstore.Drive, s *drivetest.Shard, off int64) {
				if !d.Damage(s.Header.Key, off) {
					t.Fatal("no such shard")
				}
			},
			SetFull: func(_ testing.TB, full bool) { d.SetFull(full) },
		}
	})
}

func TestSwitchesActAndCount(t *testing.T) {
	ctx := context.Background()
	d := memory.New(cluster.DriveID(cluster.NewID()))
	s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, 5000)
	cause := errors.New("cause")
	d.Fail(memory.OpPut, cause)
	if err := s.Put(ctx, d); !errors.Is(err, cause) || d.Fired(memory.OpPut) != 1 {
		t.Fatalf("put: %v after %d faults", err, d.Fired(memory.OpPut))
	}
	d.Fail(memory.OpPut, nil)

	release := d.Hang(memory.OpPut)
	done := make(chan error)
	bounded, cancel := context.WithCancel(ctx)
	go func() { done <- s.Put(bounded, d) }()
	for d.Fired(memory.OpPut) < 2 {
		select {
		case err := <-done:
			t.Fatalf("hanging put returned %v", err)
		default:
		}
	}
	cancel()
	release()
	if err := <-done; err != nil {
		t.Fatalf("released put: %v", err)
	}
	drivetest.WantRead(t, d, s)

	d.Down(cause)
	if _, err := s.Read(ctx, d); !errors.Is(err, chunkstore.ErrDriveDown) || !errors.Is(err, cause) {
		t.Fatalf("read of a down drive: %v", err)
	}
	d.Return()
	d.DamageHeader(s.Header.Key)
	if _, err := d.Header(ctx, s.Header.Key); !errors.Is(err, chunkstore.ErrDamaged) {
		t.Fatalf("forged header: %v", err)
	}
	if !d.Lose(s.Header.Key) || d.Status().Shards != 0 {
		t.Fatal("shard not lost")
	}
}
