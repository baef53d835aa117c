package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/fusefs/cache"
	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/tests/expect"
)

func TestAMountThatIsToldOfOneGatewayLearnsTheOthers(t *testing.T) {
	g := newSeveral(t, 3, metadata.VersioningEnabled, func(g *several) {
		g.told = func() []string { return append(g.urls(), "https://127.0.0.1:1", "nonsense") }
	})
	c := g.dial(g.peers[0].url())
	if g.used(c) != g.peers[0] {
		t.Fatal("the gateway that was named is not used")
	}
	// One after the other fails, also the one that the mount was told of.
	for range 3 {
		at := g.used(c)
		done := make(chan error, 1)
		busy, stop := context.WithCancel(t.Context())
		go func() {
			for busy.Err() == nil {
				if _, err := c.Exists(busy, "x"); err != nil && busy.Err() == nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		at.set(dies)
		if now := g.used(c); now == at {
			t.Error("a gateway that is dead is used")
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		at.set(passes)
	}
	g.closeClient(c)
}

// The whole cluster is out of reach for a while.
func TestAMountWaitsForTheFirstGatewayThatComesBack(t *testing.T) {
	g := newSeveral(t, 2, metadata.VersioningEnabled, nil)
	c := g.dial(g.urls()...)
	l := startLoad(t, c, 3)
	l.more(20)
	last := g.used(c)
	last.set(diesAnswering)
	for _, p := range g.peers {
		if p != last {
			p.close()
		}
	}
	expect.Soon(t, "all are dead", func() bool { return last.is() == dies })
	before := l.done.Load()
	<-time.After(3 * stall)
	if n := l.done.Load() - before; n > int64(len(l.programs)) {
		t.Errorf("%d steps without a gateway", n)
	}
	last.set(passes)
	l.more(60)
	if g.used(c) != last {
		t.Error("the one that came back is not used")
	}
	l.end()
	l.wantSame(g)
	g.closeClient(c)
	g.wantNothingLeft()
}

// The lease of the session at the gateway that was left ends there, and the mount goes on elsewhere: nothing ends.
func TestTheGatewayThatWasLeftEndsNothing(t *testing.T) {
	g := newSeveral(t, 2, metadata.VersioningEnabled, func(g *several) { g.lease = 20 * stall })
	c := g.dial(g.urls()...)
	if err := c.Stage(t.Context(), tree.File{Key: "f", Inode: 7, Data: []byte("synced")}); err != nil {
		t.Fatal(err)
	}
	up, err := c.Begin(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	left := g.used(c)
	stop := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if _, err := c.Exists(t.Context(), "x"); err != nil {
				ended <- err
				return
			}
		}
	}()
	left.set(hangs)
	now := g.used(c)
	left.set(passes)
	expect.Soon(t, "the gateway that was left forgets the session", func() bool { return !left.service.Knows(c) })
	if !now.service.Knows(c) {
		t.Error("the gateway in use does not know the session")
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if stages, err := g.kit.Store.Staged(t.Context()); err != nil || len(stages) != 1 {
		t.Fatalf("%d stages, %v", len(stages), err)
	}
	body := storetest.Body(1, 100_000)
	if err := c.Part(t.Context(), "g", up, 1, bytes.NewReader(body), int64(len(body))); err != nil {
		t.Fatalf("the upload did not come along: %v", err)
	}
	if _, err := c.Publish(t.Context(), tree.File{Key: "f", Inode: 7, Data: []byte("closed")}); err != nil {
		t.Fatal(err)
	}
	if got := versions(t, g.kit, g.bucket); len(got) != 1 {
		t.Errorf("versions %q, want one", got)
	}
	g.closeClient(c)
	g.wantNothingLeft()
}

// A mount that is at no gateway any more ends with the lease in the names; one that comes back begins anew.
func TestASessionEndsWithItsLeaseInTheNames(t *testing.T) {
	g := newSeveral(t, 2, metadata.VersioningEnabled, nil)
	c := g.dial(g.urls()...)
	if err := c.Stage(t.Context(), tree.File{Key: "f", Inode: 7, Data: []byte("synced")}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- g.kit.Catalog.Run(ctx) }()
	opens := g.opens.Load()
	g.kit.Clock.Advance(2 * remote.Lease)
	expect.Soon(t, "what was synced is published", func() bool { return len(versions(t, g.kit, g.bucket)) == 1 })
	expect.Soon(t, "the mount begins another session", func() bool { return g.opens.Load() > opens }) // with its next renewal
	if _, err := c.Publish(t.Context(), tree.File{Key: "g", Inode: 8, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	g.closeClient(c)
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

// slow is a bucket that takes long for a publish.
type slow struct {
	tree.Objects
	publishes *atomic.Int64
	free      chan struct{}
}

func (s slow) Publish(ctx context.Context, f tree.File) (tree.Info, error) {
	s.publishes.Add(1)
	<-s.free
	return s.Objects.Publish(ctx, f)
}

// KeepSession is the sign of life.
func (s slow) KeepSession(context.Context) error { return nil }

func TestAGatewayThatThinksForLongIsNotLeft(t *testing.T) {
	g := newSeveral(t, 2, metadata.VersioningEnabled, nil)
	publishes, free := new(atomic.Int64), make(chan struct{})
	g.openAs = func(ctx context.Context, bucket, prefix, session string) (tree.Objects, error) {
		o, err := g.open(ctx, bucket, prefix, session)
		return slow{o, publishes, free}, err
	}
	c := g.dial(g.urls()...)
	done := make(chan error, 1)
	go func() {
		_, err := c.Publish(t.Context(), tree.File{Key: "f", Inode: 7, Data: []byte("x")})
		done <- err
	}()
	expect.Soon(t, "the publish begins", func() bool { return publishes.Load() > 0 })
	<-time.After(8 * stall)
	close(free)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n, opens := publishes.Load(), g.opens.Load(); n != 1 || opens > 2 {
		t.Errorf("%d publishes in %d sessions, want one", n, opens)
	}
	g.closeClient(c)
}

// Versions that are open are opened again, also when they are not the newest any more.
func TestOpenVersionsGoAlong(t *testing.T) {
	g := newSeveral(t, 2, metadata.VersioningEnabled, nil)
	c := g.dial(g.urls()...)
	body := storetest.Body(1, 1<<20)
	info, err := c.Publish(t.Context(), tree.File{Key: "f", Data: body})
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Open(t.Context(), "f", info.Version)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(t.Context(), tree.File{Key: "f", Data: []byte("newer"), Cond: tree.Cond{Base: info.Version}}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		at := g.used(c)
		read := make(chan error, 1)
		stop := make(chan struct{})
		go func() {
			got := make([]byte, len(body))
			for n := 0; ; n++ {
				select {
				case <-stop:
					read <- nil
					return
				default:
				}
				if n, err := r.ReadAt(got, 0); n != len(body) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, body) {
					read <- fmt.Errorf("%d bytes: %w", n, errors.Join(err, errors.New("read is wrong")))
					return
				}
			}
		}()
		at.set(dies)
		if g.used(c) == at {
			t.Error("a dead gateway is used")
		}
		close(stop)
		if err := <-read; err != nil {
			t.Fatal(err)
		}
		at.set(passes)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	g.closeClient(c)
}

// New data in the memory of a mount whose way into the store was cut off is sent again.
func TestNewDataIsSentAgain(t *testing.T) {
	for _, f := range []fault{dies, hangs, mute} {
		t.Run(f.String(), func(t *testing.T) {
			g := newSeveral(t, 2, metadata.VersioningEnabled, nil)
			c := g.dial(g.urls()...)
			tr := tree.New(tree.Config{Objects: cache.New(c, c.Mark), Log: quiet()})
			body := storetest.Body(uint64(f), 40<<20)
			at := g.used(c)
			written := make(chan error, 1)
			go func() { written <- writeFile(t.Context(), tr, "big", body) }()
			// Once the first part is on its way.
			expect.Soon(t, "a part is on its way", func() bool { return at.taken.Load() > 1<<20 })
			lost := at.lost.Load()
			at.set(f)
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			if at.lost.Load() == lost {
				t.Error("the fault cut nothing off")
			}
			if g.used(c) == at {
				t.Error("the gateway that failed is used")
			}
			at.set(passes)
			info, err := c.Stat(t.Context(), "big")
			if err != nil {
				t.Fatal(err)
			}
			r, err := c.Open(t.Context(), "big", info.Version)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(body))
			if n, err := r.ReadAt(got, 0); n != len(body) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, body) {
				t.Fatalf("%d bytes, %v, or other ones", n, err)
			}
			if err := errors.Join(r.Close(), tr.Close(t.Context())); err != nil {
				t.Fatal(err)
			}
			if got := versions(t, g.kit, g.bucket); len(got) != 1 {
				t.Errorf("versions %q, want one", got)
			}
			g.closeClient(c)
			g.wantNothingLeft()
		})
	}
}

// writeFile writes a file through a tree as a program does.
func writeFile(ctx context.Context, tr *tree.Tree, name string, body []byte) error {
	_, opened, err := tr.Create(ctx, 1, name, 0o644, 0, 0, uint32(os.O_WRONLY))
	if err != nil {
		return err
	}
	const step = 128 << 10
	for off := 0; off < len(body); off += step {
		if _, err := tr.Write(ctx, opened.Handle, body[off:min(off+step, len(body))], int64(off), false); err != nil {
			return errors.Join(fmt.Errorf("write at %d: %w", off, err), tr.Release(ctx, opened.Handle))
		}
	}
	return errors.Join(tr.Flush(ctx, opened.Handle), tr.Release(ctx, opened.Handle))
}

func TestHTTPAndHTTPSAreNotMixed(t *testing.T) {
	conf := remote.Config{Endpoints: []string{"http://127.0.0.1:1", "https://127.0.0.1:2"}, AccessKey: "k", SecretKey: secret, Bucket: "bucket", Retry: -1}
	if _, err := remote.New(t.Context(), conf); !errors.Is(err, tree.ErrInvalid) || !strings.Contains(err.Error(), "mixed") {
		t.Errorf("%v", err)
	}
}
