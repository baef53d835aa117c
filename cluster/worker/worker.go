// Package worker runs the background work of a peer: each worker has one goroutine, a name and a state that status
// shows. A worker that fails is started again after a pause that grows, so one broken volume never stops repair.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// The pauses before a failed worker is started again: short enough that a passing fault costs nothing, long enough
// that a lasting one does not fill the log, and never so long that work waits for nothing after drives have returned.
const (
	firstPause = time.Second
	longPause  = 15 * time.Second
)

// Worker is one kind of background work, such as repair.
type Worker interface {
	Name() string
	// Run works until ctx ends. Anything it returns before that counts as a failure, nil too.
	Run(ctx context.Context) error
}

// Func makes a Worker of a function.
func Func(name string, run func(context.Context) error) Worker { return function{name, run} }

type function struct {
	name string
	run  func(context.Context) error
}

func (f function) Name() string                  { return f.name }
func (f function) Run(ctx context.Context) error { return f.run(ctx) }

// State is what a worker does now: "running", "waiting" (to start again after Err) or "stopped".
type State struct {
	Name  string
	Doing string
	// Err is why it last failed, nil when it runs.
	Err error
}

// Group runs workers. Make it with NewGroup; Close waits for all of them.
type Group struct {
	log    *slog.Logger
	cancel context.CancelFunc
	ctx    context.Context
	wait   sync.WaitGroup

	mu     sync.Mutex
	states []*State
	closed bool
}

// ErrClosed says that the group takes no more workers.
var ErrClosed = errors.New("workers are stopped")

// errEnded stands for a Run that returned nil although its context had not ended.
var errEnded = errors.New("ended by itself")

// NewGroup returns a group that logs failures to log.
func NewGroup(log *slog.Logger) *Group {
	ctx, cancel := context.WithCancel(context.Background())
	return &Group{log: log, cancel: cancel, ctx: ctx}
}

// Go starts a worker. It fails with ErrClosed after Close.
func (g *Group) Go(w Worker) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return fmt.Errorf("start %s: %w", w.Name(), ErrClosed)
	}
	state := &State{Name: w.Name(), Doing: "running"}
	g.states = append(g.states, state)
	g.wait.Go(func() { g.run(w, state) })
	return nil
}

func (g *Group) run(w Worker, state *State) {
	pause := firstPause
	for {
		started := time.Now()
		err := w.Run(g.ctx)
		if g.ctx.Err() != nil {
			g.set(state, "stopped", nil)
			return
		}
		if err == nil {
			err = errEnded
		}
		if time.Since(started) > longPause {
			pause = firstPause // it worked for a while: this is a new fault
		}
		g.set(state, "waiting", err)
		g.log.Warn("worker failed and starts again", "worker", w.Name(), "pause", pause, "err", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-g.ctx.Done():
			timer.Stop()
			g.set(state, "stopped", nil)
			return
		}
		g.set(state, "running", err)
		pause = min(2*pause, longPause)
	}
}

func (g *Group) set(state *State, doing string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	state.Doing, state.Err = doing, err
}

// States returns the states of all workers in the order in which they were started.
func (g *Group) States() []State {
	g.mu.Lock()
	defer g.mu.Unlock()
	states := make([]State, len(g.states))
	for i, s := range g.states {
		states[i] = *s
	}
	return states
}

// Close ends all workers and waits for them.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.wait.Wait()
}
