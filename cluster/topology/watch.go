package topology

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster/root"
)

// watchEvery is how often a Watcher asks for the epoch.
const watchEvery = time.Second

// Watcher keeps the newest map that this peer has seen. It may be used concurrently.
type Watcher struct {
	client *root.Client
	log    *slog.Logger

	mu      sync.Mutex
	current Map
	news    chan struct{} // closed and replaced when current changes
}

// NewWatcher makes a Watcher that begins with a map, which may be an old one.
func NewWatcher(client *root.Client, first Map, log *slog.Logger) *Watcher {
	return &Watcher{client: client, log: log, current: first, news: make(chan struct{})}
}

// Current returns the newest map, and a channel that is closed when there is a newer one.
func (w *Watcher) Current() (Map, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current, w.news
}

// Map returns the newest map.
func (w *Watcher) Map() Map {
	m, _ := w.Current()
	return m
}

// Take gives the Watcher a map that was read elsewhere.
func (w *Watcher) Take(m Map) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.Epoch <= w.current.Epoch {
		return
	}
	w.current = m
	close(w.news)
	w.news = make(chan struct{})
}

// Refresh reads the map if there is a newer one.
func (w *Watcher) Refresh(ctx context.Context) error {
	now, _, err := epoch(ctx, w.client)
	if err != nil || now <= w.Map().Epoch {
		return err
	}
	m, err := Load(ctx, w.client)
	if err != nil {
		return err
	}
	w.Take(m)
	return nil
}

// Name says what the worker is called in status.
func (w *Watcher) Name() string { return "topology" }

// Run looks for a newer map until ctx ends. While the root group does not answer the map stays as it is.
func (w *Watcher) Run(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		if err := w.Refresh(ctx); err != nil && ctx.Err() == nil {
			w.log.Debug("the topology was not read", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
