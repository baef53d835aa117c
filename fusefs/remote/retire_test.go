package remote

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/fusefs/cache"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

func TestARetiredMarkIsNeverTrustedAgain(t *testing.T) {
	m := newTestMark(t)
	var r markReader
	if err := r.follow(m.place); err != nil {
		t.Fatal(err)
	}
	m.use(1)
	m.Set(7)
	wantMark(t, &r, 7, true)
	m.promise()
	promised := atomic.LoadUint64(m.page.word(wordUntil))
	if promised <= monotonic() {
		t.Skip("this machine stood still for longer than a promise lasts")
	}
	m.Retire()
	// A mount that loaded the promise before, and compares it only now, does not trust it either.
	if now := monotonic(); now < promised {
		t.Errorf("retired %v before the last promise ends", time.Duration(promised-now))
	}
	for i := range 20 {
		m.Set(uint64(8 + i))
		m.use(2)
		m.promise()
		if _, _, ok := r.read(); ok {
			t.Fatal("trusted after it was retired")
		}
		<-time.After(markEvery / 10)
	}
	if m.offer() != "" {
		t.Error("it is offered to mounts")
	}
	var other markReader
	if err := other.follow(m.place); err == nil {
		t.Error("it can be followed")
	}
	m.Retire() // again is nothing
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
}

// beside is a gateway with a mark of its own over a model that others change too.
type beside struct {
	mark    *Mark
	server  *httptest.Server
	service *Service
	// unwell makes the gateway refuse everything, while its mark lives on.
	unwell atomic.Bool
	// onRequest is called for everything that is asked.
	onRequest atomic.Pointer[func(*http.Request)]
}

func newBeside(t *testing.T, model *treetest.Model, index *atomic.Uint64) *beside {
	t.Helper()
	b := &beside{mark: newTestMark(t)}
	_, b.service = NewService(ServiceConfig{Mark: b.mark, Log: slog.New(slog.DiscardHandler), Open: func(context.Context, string, string, string) (tree.Objects, error) {
		return marked{model, b.mark, index}, nil
	}})
	b.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if on := b.onRequest.Load(); on != nil {
			(*on)(r)
		}
		if b.unwell.Load() {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		b.service.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		b.server.Close()
		if err := b.service.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *beside) dial(t *testing.T, others ...*beside) *Client {
	t.Helper()
	endpoints := []string{b.server.URL}
	for _, o := range others {
		endpoints = append(endpoints, o.server.URL)
	}
	c, err := New(t.Context(), Config{
		Endpoints: endpoints, AccessKey: "k", SecretKey: "s", Bucket: "b", NoPipes: true, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func lookFor(t *testing.T, o *cache.Objects, key string) tree.Found {
	t.Helper()
	found, err := o.Look(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// The mark of the gateway that a mount leaves says nothing of what is done at the next: it is dropped before anything is
// asked there, and what was remembered with it.
func TestTheMarkIsDroppedBeforeAnythingIsAskedElsewhere(t *testing.T) {
	model, index := treetest.NewModel(), new(atomic.Uint64)
	first, second := newBeside(t, model, index), newBeside(t, model, index)
	c := first.dial(t, second)
	remembering := cache.New(c, c.Mark)
	wantMark(t, &c.mark, 0, true)
	before, _, _ := c.Mark()
	remembered := func() {
		t.Helper()
		hits := remembering.Hits()
		for deadline := time.Now().Add(10 * time.Second); remembering.Hits() == hits; lookFor(t, remembering, "x") {
			if time.Now().After(deadline) {
				t.Fatal("nothing is remembered")
			}
		}
	}
	remembered()

	var asked, trusted atomic.Int64
	on := func(*http.Request) {
		if asked.Add(1) > 1 {
			return // its own mark may be in use after the first answer
		}
		if _, _, ok := c.Mark(); ok {
			trusted.Add(1)
		}
	}
	second.onRequest.Store(&on)
	first.unwell.Store(true)
	if _, err := c.Exists(t.Context(), "y"); err != nil {
		t.Fatal(err)
	}
	if asked.Load() == 0 || trusted.Load() != 0 {
		t.Fatalf("the second gateway was asked %d times, with the mark of the first in use: %v", asked.Load(), trusted.Load() != 0)
	}
	// The index of the second mark is what that of the first was; it is another page.
	wantMark(t, &c.mark, 0, true)
	if page, _, _ := c.Mark(); page == before {
		t.Fatal("the page of the second gateway has the number of the first one's")
	}
	hits := remembering.Hits()
	model.Put("x", []byte("from elsewhere"))
	if found := lookFor(t, remembering, "x"); found.File == nil || remembering.Hits() != hits {
		t.Errorf("answered from what was remembered beside the first gateway: %+v", found)
	}
	remembered()

	// Company comes: the second gateway's mark is retired, and the mount asks from then on.
	second.mark.Retire()
	model.Put("x", []byte("from a third gateway"))
	if found := lookFor(t, remembering, "x"); found.File == nil || found.File.Size != int64(len("from a third gateway")) {
		t.Errorf("answered from memory after the mark was retired: %+v", found)
	}
	hits = remembering.Hits()
	for range 3 {
		lookFor(t, remembering, "x")
	}
	if remembering.Hits() != hits {
		t.Error("something is remembered beside a retired mark")
	}
}

// Gateways that come later are learned with a renewal.
func TestARenewalLearnsGateways(t *testing.T) {
	var known atomic.Pointer[[]string]
	known.Store(new([]string))
	_, s := NewService(ServiceConfig{
		Gateways: func() []string { return *known.Load() }, Log: slog.New(slog.DiscardHandler),
		Open: func(context.Context, string, string, string) (tree.Objects, error) { return treetest.NewModel(), nil },
	})
	b := &beside{service: s, server: httptest.NewServer(s)}
	t.Cleanup(func() {
		b.server.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c := b.dial(t)
	later := []string{"http://a:1", "http://b:1"}
	known.Store(&later)
	for _, step := range []struct {
		learn bool
		want  int
	}{{false, 1}, {true, 3}} {
		if err := c.renewOnce(t.Context(), step.learn); err != nil {
			t.Fatal(err)
		}
		if n := c.known.count(); n != step.want {
			t.Errorf("%d gateways are known, want %d", n, step.want)
		}
	}
}

func TestGatewaysAreListedOnceAndInTheirOrder(t *testing.T) {
	model, index := treetest.NewModel(), new(atomic.Uint64)
	b := newBeside(t, model, index)
	c := b.dial(t)
	bases := func() map[string]bool {
		all := map[string]bool{}
		for _, g := range c.known.after(nil) {
			if all[g.base] {
				t.Errorf("%s is listed twice", g.base)
			}
			all[g.base] = true
		}
		return all
	}
	c.learn([]string{"http://other:1", b.server.URL + "/", "http://other:1/", "https://other:2", "ftp://x", "", "http://third"})
	all := bases()
	if len(all) != 3 || !all["http://other:1"] || !all["http://third"] || !all[b.server.URL] {
		t.Errorf("%v", all)
	}
	c.learn(nil) // a gateway that knows none takes nothing away
	if len(bases()) != 3 {
		t.Errorf("%v", bases())
	}
	before := c.known.learned
	c.learn([]string{"http://third", "http://fourth"})
	all = bases()
	if len(all) != 3 || all["http://other:1"] || !all["http://fourth"] {
		t.Errorf("%v", all)
	}
	for _, g := range before {
		for _, now := range c.known.learned {
			if g.base == now.base && g != now {
				t.Errorf("what was known of %s is forgotten", g.base)
			}
		}
	}
	var many []string
	for i := range 3 * maxLearned {
		many = append(many, "http://host:"+string(rune('1'+i%9))+string(rune('0'+i/9%10))+string(rune('0'+i/90)))
	}
	c.learn(many)
	if n := c.known.count(); n > maxLearned+1 {
		t.Errorf("%d gateways are remembered", n)
	}
	// The one that failed comes last, and those that failed just now before it.
	c.learn([]string{"http://second", "http://third"})
	list := c.known.after(nil)
	list[1].failed.Store(int64(time.Since(began)))
	order := c.known.after(list[0])
	if len(order) != 3 || order[0] != list[2] || order[1] != list[1] || order[2] != list[0] {
		t.Error("the order does not shun what failed")
	}
}
