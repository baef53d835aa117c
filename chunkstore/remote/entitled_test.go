package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/cluster"
)

// gate allows changes of some volumes, and remembers what it was asked.
type gate struct {
	mu    sync.Mutex
	asked []string
	may   map[chunkstore.VolumeID]error
}

func (g *gate) allow(_ context.Context, volume chunkstore.VolumeID, change remote.Change) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, fmt.Sprintf("%v %d", change, volume))
	return g.may[volume]
}

func (g *gate) took() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := g.asked
	g.asked = nil
	return list
}

// TestChangesAskWhoMayMakeThem makes every call on a volume of the caller, on another's, and on one of which nobody can
// tell. What only reads is open to all.
func TestChangesAskWhoMayMakeThem(t *testing.T) {
	const own, others, unknown = 1, 2, 3
	errNobody := errors.New("nobody can tell")
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			m := memory.New(driveID)
			g := &gate{may: map[chunkstore.VolumeID]error{others: fmt.Errorf("volume of another: %w", remote.ErrNotEntitled), unknown: errNobody}}
			refusals := new(remote.Refusals)
			l := n.newLink(t, remote.Handler(func(id cluster.DriveID) (chunkstore.Drive, bool) { return m, id == driveID },
				remote.HandlerOptions{Cluster: here, Allow: g.allow, Refusals: refusals}), nil)
			d := l.drive(t)
			for volume, want := range map[chunkstore.VolumeID]error{own: nil, others: remote.ErrNotEntitled, unknown: chunkstore.ErrDriveDown} {
				s := drivetest.NewShard(drivetest.Key(volume, 1, 0), 1, 1<<20)
				second := drivetest.NewShard(drivetest.Key(volume, 2, 0), 1, 1<<20)
				must(t, second.Put(t.Context(), m))
				for call, do := range map[string]func() error{
					"put":    func() error { return s.Put(t.Context(), d) },
					"delete": func() error { return d.Delete(t.Context(), []chunkstore.ShardKey{second.Header.Key}) },
					"seal":   func() error { return d.Seal(t.Context(), volume, 1) },
				} {
					err := do()
					if !errors.Is(err, want) || want != nil && !errors.Is(err, chunkstore.ErrDriveDown) {
						t.Errorf("%s in volume %d: %v, want %v", call, volume, err, want)
					}
					if asked := g.took(); !slices.Equal(asked, []string{fmt.Sprintf("%s %d", call, volume)}) {
						t.Errorf("%s in volume %d asked for %q", call, volume, asked)
					}
				}
				_, err := m.Header(t.Context(), s.Header.Key)
				if stored := err == nil; stored != (want == nil) {
					t.Errorf("volume %d: the shard of the put is there: %v", volume, err)
				}
				_, err = m.Header(t.Context(), second.Header.Key)
				if there := err == nil; there != (want != nil) {
					t.Errorf("volume %d: the shard that was to go: %v", volume, err)
				}
				if want == nil {
					continue
				}
				must(t, s.Put(t.Context(), m)) // not sealed: the seal was refused
				if _, err := s.Read(t.Context(), d); err != nil {
					t.Errorf("read in volume %d: %v", volume, err)
				}
				if _, err := d.Shards(t.Context(), volume); err != nil {
					t.Errorf("list of volume %d: %v", volume, err)
				}
			}
			g.took()
			mixed := []chunkstore.ShardKey{drivetest.Key(own, 1, 0), drivetest.Key(own, 2, 0), drivetest.Key(others, 1, 0)}
			if err := d.Delete(t.Context(), mixed); !errors.Is(err, remote.ErrNotEntitled) {
				t.Errorf("a delete that takes one of another: %v", err)
			}
			if _, err := m.Header(t.Context(), mixed[0]); err != nil {
				t.Errorf("some of a refused delete was done: %v", err)
			}
			if got := refusals.NotEntitled.Load(); got != 4 {
				t.Errorf("%d calls were counted as not entitled", got)
			}
		})
	}
}

// tape keeps the last request that went through it, byte for byte.
type tape struct {
	inner http.RoundTripper
	path  string
	body  []byte
}

func (p *tape) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if r.URL.Path == remote.Prefix+"status" { // it comes by itself
		r.Body = io.NopCloser(bytes.NewReader(body))
		return p.inner.RoundTrip(r)
	}
	p.path, p.body = r.URL.Path, body
	r.Body = io.NopCloser(bytes.NewReader(body))
	return p.inner.RoundTrip(r)
}

// TestARecordedCallIsNoOther plays a recorded call to every other method, to another drive and another cluster, and
// the same put again after its volume was sealed. Each is refused and counted.
func TestARecordedCallIsNoOther(t *testing.T) {
	m := memory.New(driveID)
	refusals := new(remote.Refusals)
	var moved atomic.Bool // the drive is on another peer now
	l := networks[0].newLink(t, remote.Handler(func(id cluster.DriveID) (chunkstore.Drive, bool) { return m, id == driveID && !moved.Load() },
		remote.HandlerOptions{Cluster: here, Refusals: refusals}), nil)
	recorder := &tape{inner: l.client.Transport}
	d := remote.New(&http.Client{Transport: recorder}, l.server.URL, driveID, remote.Options{Cluster: here, Peer: peerID})
	t.Cleanup(func() { must(t, d.Close()) })
	s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, 1<<20)
	calls := map[string][]byte{}
	for name, do := range map[string]func() error{
		"put":    func() error { return s.Put(t.Context(), d) },
		"seal":   func() error { return d.Seal(t.Context(), 2, 5) },
		"delete": func() error { return d.Delete(t.Context(), []chunkstore.ShardKey{drivetest.Key(3, 1, 0)}) },
		"check":  func() error { return d.Check(t.Context(), s.Header.Key) },
	} {
		if err := do(); recorder.path != remote.Prefix+name {
			t.Fatalf("%s was not recorded, but %s: %v", name, recorder.path, err)
		}
		calls[name] = recorder.body
	}
	play := func(name string, body []byte) {
		t.Helper()
		response, err := l.client.Post(l.server.URL+remote.Prefix+name, "application/octet-stream", bytes.NewReader(body))
		must(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		must(t, errors.Join(err, response.Body.Close()))
	}
	wrong := uint64(0)
	for name, body := range calls {
		for _, other := range []string{"put", "seal", "delete", "check", "header", "read", "shards", "volumes", "status"} {
			if other != name {
				play(other, body)
				wrong++
			}
		}
	}
	if got := refusals.Protocol.Load(); got != wrong {
		t.Errorf("of %d calls under another path %d were counted", wrong, got)
	}
	if list, err := m.Shards(t.Context(), 1); err != nil || len(list) > 1 {
		t.Errorf("the drive holds %v: %v", list, err)
	}
	must(t, m.Seal(t.Context(), 1, 2))
	play("put", calls["put"])
	if got := refusals.Stale.Load(); got != 1 {
		t.Errorf("a put of a lower epoch was counted %d times", got)
	}
	moved.Store(true)
	play("delete", calls["delete"])
	if got := refusals.Foreign.Load(); got != 1 {
		t.Errorf("a call for a drive that is not here was counted %d times", got)
	}
}
