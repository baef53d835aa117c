package remote_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/fusefs/local"
	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart/multiparttest"
)

// stall is short, so that a test that loses gateways is.
const stall = 200 * time.Millisecond

// peer is a gateway over a store that it shares with others, and the only way to it.
type peer struct {
	*link
	service *remote.Service
	server  *httptest.Server
	// unwell answers every request with 503 while it is set, as a gateway does that cannot serve.
	unwell  atomic.Bool
	refused atomic.Int64
}

// several are gateways over one store.
type several struct {
	t      *testing.T
	kit    *multiparttest.Kit
	bucket metadata.BucketID
	peers  []*peer
	// told are the gateways that each of them tells of.
	told  func() []string
	lease time.Duration
	// stall is the clients'; zero means the constant.
	stall time.Duration
	opens atomic.Int64
	// openAs stands in the place of open, when it is not nil.
	openAs func(ctx context.Context, bucket, prefix, session string) (tree.Objects, error)
}

func newSeveral(t *testing.T, n int, v metadata.Versioning, change func(*several)) *several {
	t.Helper()
	g := &several{t: t, kit: multiparttest.New(t, nil)}
	g.bucket = g.kit.Bucket("bucket", v)
	if change != nil {
		change(g)
	}
	for range n {
		g.add(remote.ServiceConfig{})
	}
	return g
}

// kept is a bucket in a session that is a row in the names, as the composition root makes it.
type kept struct {
	*local.Objects
	kit    *multiparttest.Kit
	number uint64
}

func (k kept) KeepSession(ctx context.Context) error {
	err := k.kit.Store.RenewSession(ctx, k.number)
	if errors.Is(err, metadata.ErrSessionFenced) {
		return fmt.Errorf("%w: %w", remote.ErrSessionOver, err)
	}
	return err
}

func (g *several) open(ctx context.Context, bucket, prefix, session string) (tree.Objects, error) {
	if bucket != "bucket" {
		return nil, tree.ErrNotExist
	}
	g.opens.Add(1)
	number, err := g.kit.Store.TakeSession(ctx, "mount/"+session, remote.Lease)
	if err != nil {
		return nil, err
	}
	objects, err := local.New(local.Config{Store: g.kit.Store, Bucket: g.bucket, Prefix: prefix, Session: number})
	return kept{objects, g.kit, number}, err
}

func (g *several) add(c remote.ServiceConfig) *peer {
	g.t.Helper()
	c.Log, c.Gateways, c.Lease = quiet(), g.told, g.lease
	c.Open = func(ctx context.Context, bucket, prefix, session string) (tree.Objects, error) {
		if g.openAs != nil {
			return g.openAs(ctx, bucket, prefix, session)
		}
		return g.open(ctx, bucket, prefix, session)
	}
	p := &peer{}
	_, p.service = remote.NewService(c)
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.unwell.Load() {
			p.refused.Add(1)
			http.Error(w, "this gateway is stopping", http.StatusServiceUnavailable)
			return
		}
		p.service.ServeHTTP(w, r)
	}))
	p.link = newLink(g.t, p.server.Listener.Addr().String())
	g.t.Cleanup(func() {
		p.link.close()
		p.server.CloseClientConnections()
		p.server.Close()
		if err := p.service.Close(); err != nil {
			g.t.Errorf("close service: %v", err)
		}
	})
	g.peers = append(g.peers, p)
	return p
}

func (g *several) urls() []string {
	var all []string
	for _, p := range g.peers {
		all = append(all, p.url())
	}
	return all
}

// used is the gateway that answers now.
func (g *several) used(c *remote.Client) *peer {
	g.t.Helper()
	before := make([]int64, len(g.peers))
	for i, p := range g.peers {
		before[i] = p.answered.Load()
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if _, err := c.Exists(g.t.Context(), "nothing"); err != nil {
			g.t.Fatal(err)
		}
		for i, p := range g.peers {
			if p.answered.Load() > before[i] && p.is() == passes {
				return p
			}
		}
	}
	g.t.Fatal("no gateway answers")
	return nil
}

func (g *several) dial(endpoints ...string) *remote.Client {
	g.t.Helper()
	c, err := remote.New(g.t.Context(), remote.Config{
		Endpoints: endpoints, AccessKey: "key", SecretKey: secret, Bucket: "bucket", Stall: max(g.stall, stall), Log: quiet(),
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

func (g *several) closeClient(c *remote.Client) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		g.t.Errorf("close: %v", err)
	}
}

// wantNothingLeft checks what a session that was closed leaves behind.
func (g *several) wantNothingLeft() {
	g.t.Helper()
	stages, err := g.kit.Store.Staged(g.t.Context())
	if err != nil || len(stages) != 0 {
		g.t.Errorf("%d stages are left, %v", len(stages), err)
	}
	usage, err := g.kit.Store.Usage(g.t.Context(), g.bucket)
	if err != nil || usage.Uploads != 0 {
		g.t.Errorf("%d uploads are left, %v", usage.Uploads, err)
	}
}

// Two gateways fail in turn, in every way, under programs that change files: no program gets an error, and every change
// is made once.
func TestChangesAreMadeOnceWhateverHappensToGateways(t *testing.T) {
	for _, f := range []fault{dies, diesAnswering, hangs, mute, delays} {
		t.Run(f.String(), func(t *testing.T) {
			g := newSeveral(t, 2, metadata.VersioningEnabled, nil)
			c := g.dial(g.urls()...)
			l := startLoad(t, c, 4)
			late := int64(0)
			for range 4 {
				l.more(20)
				at := g.used(c)
				lost := at.lost.Load()
				at.set(f)
				running := l.running.Load()
				l.more(20)
				if running == 0 {
					t.Error("no load was under way at the fault")
				}
				if n := at.lost.Load() - lost; n == 0 {
					t.Error("the fault cut nothing off")
				}
				if now := g.used(c); now == at {
					t.Error("the gateway that failed is still used")
				}
				at.set(passes)
				late += at.late.Load()
			}
			if f == delays && late == 0 {
				t.Error("nothing came late")
			}
			l.end()
			l.wantSame(g)
			g.closeClient(c)
			g.wantNothingLeft()
		})
	}
}

// A gateway that stops, or that cannot serve and says so, is left at once.
func TestAGatewayThatSaysItCannotServeIsLeft(t *testing.T) {
	g := newSeveral(t, 3, metadata.VersioningEnabled, nil)
	g.stall = 30 * time.Second // nobody is left because it is slow
	c := g.dial(g.urls()...)
	l := startLoad(t, c, 3)
	l.more(20)
	unwell := g.used(c)
	unwell.unwell.Store(true)
	unwell.cut() // in connections that are pipes already nobody can say it
	l.more(20)
	if unwell.refused.Load() == 0 {
		t.Error("it refused nothing")
	}
	stopping := g.used(c)
	if stopping == unwell {
		t.Fatal("the gateway that refuses is still used")
	}
	if err := stopping.service.Close(); err != nil {
		t.Fatal(err)
	}
	l.more(20)
	if last := g.used(c); last == unwell || last == stopping {
		t.Error("a gateway that does not serve is used")
	}
	l.end()
	l.wantSame(g)
	g.closeClient(c)
	g.wantNothingLeft()
}
