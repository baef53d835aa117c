package worker

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestFailedWorkerStartsAgainWithGrowingPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup(slog.New(slog.DiscardHandler))
		began := time.Now()
		var starts []time.Duration
		broken := errors.New("broken")
		err := g.Go(Func("repair", func(ctx context.Context) error {
			starts = append(starts, time.Since(began))
			if len(starts) < 4 {
				return broken
			}
			<-ctx.Done()
			return ctx.Err()
		}))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := g.States(); len(s) != 1 || s[0].Doing != "waiting" || !errors.Is(s[0].Err, broken) {
			t.Errorf("states after a failure: %+v", s)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := g.States(); s[0].Doing != "running" {
			t.Errorf("states while it runs: %+v", s)
		}
		g.Close()
		want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second}
		if len(starts) != len(want) {
			t.Fatalf("started at %v, want %v", starts, want)
		}
		for i := range want {
			if starts[i] != want[i] {
				t.Errorf("started at %v, want %v", starts, want)
			}
		}
		if s := g.States(); s[0].Doing != "stopped" {
			t.Errorf("states after Close: %+v", s)
		}
		if err := g.Go(Func("late", nil)); !errors.Is(err, ErrClosed) {
			t.Errorf("Go after Close: %v", err)
		}
	})
}

func TestWorkerThatEndsByItselfCountsAsFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup(slog.New(slog.DiscardHandler))
		runs := 0
		if err := g.Go(Func("once", func(context.Context) error { runs++; return nil })); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := g.States(); s[0].Err == nil {
			t.Errorf("a worker that ended shows no error: %+v", s)
		}
		g.Close()
		if runs < 3 {
			t.Errorf("ran %d times in 10 s", runs)
		}
	})
}
