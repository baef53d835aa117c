package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
)

// Options says how a peer is called.
type Options struct {
	// Cluster is the cluster that the peer must be of; another one is ErrForeign.
	Cluster cluster.ClusterID
	// Peer is the peer that the drive lies on. Devices of different peers bear the same numbers, so Status tells a
	// device made of both.
	Peer cluster.PeerID
	// Silence is after what time without a byte either way a call is given up with ErrDriveDown. A device at the
	// peer that takes longer to sync counts as down. Zero means 5 s.
	Silence time.Duration
	// Refresh is how old the drive's status may become before the peer is asked for it: every answer brings it, so a
	// busy drive is never asked. Zero means 1 s.
	Refresh time.Duration
	// Stale is from what age on a status says nothing, so that the drive counts as down. Zero means 5 s.
	Stale time.Duration
}

const (
	defaultRefresh = time.Second
	defaultStale   = 5 * time.Second
)

// Drive is a drive of another peer. It implements chunkstore.Drive.
type Drive struct {
	client *http.Client
	base   string
	id     cluster.DriveID
	o      Options

	life   context.Context // ends with Close
	cancel context.CancelFunc
	kick   chan struct{} // the status is in doubt: ask now
	wait   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	latest report
	heard  time.Time // when latest came; zero: never
	// doubt is why the peer could not be asked when it was last tried, nil after every answer.
	doubt error
}

var _ chunkstore.Drive = (*Drive)(nil)

// New returns the drive of that id at the peer whose Handler stands at base, "https://host:port". It does not wait for
// the peer: until the first answer the drive counts as down. The client's Transport carries the calls (see TuneTransport); its
// Timeout, its cookies and its way with redirects are not used. Close ends the drive and leaves the client alone.
func New(client *http.Client, base string, id cluster.DriveID, o Options) *Drive {
	if o.Silence <= 0 {
		o.Silence = defaultSilence
	}
	if o.Refresh <= 0 {
		o.Refresh = defaultRefresh
	}
	if o.Stale <= 0 {
		o.Stale = defaultStale
	}
	d := &Drive{
		client: &http.Client{
			Transport:     client.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		base: strings.TrimSuffix(base, "/") + Prefix, id: id, o: o, kick: make(chan struct{}, 1),
	}
	d.life, d.cancel = context.WithCancel(context.Background())
	d.wait.Go(d.refresh)
	return d
}

// ID implements chunkstore.Drive.
func (d *Drive) ID() cluster.DriveID { return d.id }

// Put implements chunkstore.Drive. After ErrDriveDown, or when ctx ended, the shard may or may not be durable, and may
// still become so until a Delete of its key or a Seal of its volume was answered; putting it again is safe.
func (d *Drive) Put(ctx context.Context, h *chunkstore.Header, cells [][]byte) error {
	if err := d.put(ctx, h, cells); err != nil {
		return fmt.Errorf("put %v on drive %v: %w", h.Key, d.id, err)
	}
	return nil
}

// Header implements chunkstore.Drive.
func (d *Drive) Header(ctx context.Context, key chunkstore.ShardKey) (*chunkstore.Header, error) {
	h, err := d.header(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("header of %v on drive %v: %w", key, d.id, err)
	}
	return h, nil
}

// Read implements chunkstore.Drive. What is in dst after an error is not defined.
func (d *Drive) Read(ctx context.Context, want chunkstore.Chunk, shard uint8, off int64, dst []byte) error {
	if err := d.read(ctx, want, shard, off, dst); err != nil {
		key := chunkstore.ShardKey{Volume: want.Volume, Chunk: want.ID, Shard: shard}
		return fmt.Errorf("read %v on drive %v: %w", key, d.id, err)
	}
	return nil
}

// Delete implements chunkstore.Drive. It asks for up to 1,024 shards at a time, in order; after an error the first of
// them may be deleted.
func (d *Drive) Delete(ctx context.Context, keys []chunkstore.ShardKey) error {
	for rest := keys; ; {
		n := min(len(rest), maxKeys)
		message := le.AppendUint16(nil, uint16(n))
		for _, key := range rest[:n] {
			message = appendKey(message, key)
		}
		if err := d.simple(ctx, kindDelete, message); err != nil {
			return fmt.Errorf("delete %d of %d shards on drive %v: %w", len(rest), len(keys), d.id, err)
		}
		if rest = rest[n:]; len(rest) == 0 {
			return nil
		}
	}
}

// Seal implements chunkstore.Drive.
func (d *Drive) Seal(ctx context.Context, volume chunkstore.VolumeID, epoch cluster.Epoch) error {
	message := le.AppendUint64(le.AppendUint64(nil, uint64(volume)), uint64(epoch))
	if err := d.simple(ctx, kindSeal, message); err != nil {
		return fmt.Errorf("seal volume %d on drive %v: %w", volume, d.id, err)
	}
	return nil
}

// Check implements chunkstore.Drive. The peer reads and verifies; its word is taken.
func (d *Drive) Check(ctx context.Context, key chunkstore.ShardKey) error {
	if err := d.simple(ctx, kindCheck, appendKey(nil, key)); err != nil {
		return fmt.Errorf("check %v on drive %v: %w", key, d.id, err)
	}
	return nil
}

// Close implements chunkstore.Drive. It ends the calls under way and waits for them; the drive at the peer stays open.
func (d *Drive) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.wait.Wait()
	return nil
}

var (
	errClosed = errors.New("closed")
	errSilent = errors.New("no byte moved")
)

// enter counts a call among those that Close waits for.
func (d *Drive) enter() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return down(errClosed)
	}
	d.wait.Add(1)
	return nil
}
