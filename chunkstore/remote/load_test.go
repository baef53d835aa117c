package remote_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/cluster"
)

// TestThousandsOfCallsLeaveNothingBehind: three thousand calls, a third of which are given up half way, on a peer with
// memory for a few. All others succeed, and no goroutine, connection or buffer stays.
func TestThousandsOfCallsLeaveNothingBehind(t *testing.T) {
	for _, n := range networks[:2] {
		t.Run(n.name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			m := memory.New(driveID)
			drives := func(id cluster.DriveID) (chunkstore.Drive, bool) { return m, id == driveID }
			// A busy machine may take long for what another one does at once.
			const patience = time.Minute
			l := n.newLink(t, remote.Handler(drives, remote.HandlerOptions{Cluster: here, Memory: 2 << 20, Silence: patience}), nil)
			defer l.close()
			l.client.Transport.(*http.Transport).MaxConnsPerHost = 32
			d := l.drive(t, func(o *remote.Options) { o.Silence, o.Stale = patience, patience })
			shards := make([]*drivetest.Shard, 8)
			for i := range shards {
				shards[i] = drivetest.NewShard(drivetest.Key(1, uint32(i), 0), 1, 100_000*uint32(i+1))
			}
			var group sync.WaitGroup
			for i := range 1000 {
				s := shards[i%len(shards)]
				group.Go(func() {
					if err := s.Put(t.Context(), d); err != nil {
						t.Errorf("put: %v", err)
					}
				})
				group.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*100*time.Microsecond)
					defer cancel()
					if err := s.Put(ctx, d); err != nil && !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("put given up: %v", err)
					}
				})
				group.Go(func() {
					got, err := s.Read(t.Context(), d)
					if err == nil && !bytes.Equal(got, s.Payload) {
						t.Errorf("wrong bytes of %v", s.Header.Key)
					}
					if err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
						t.Errorf("read: %v", err)
					}
				})
			}
			group.Wait()
			for _, s := range shards {
				drivetest.WantRead(t, d, s)
			}
			must(t, d.Close())
		})
	}
}

// greedy is a transport that goes on reading the body after it gave the call up, as http.Transport is allowed to.
type greedy struct {
	proceed chan struct{}
	seen    chan []byte
}

func (g *greedy) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == remote.Prefix+"status" {
		return nil, errors.Join(errors.New("no status here"), r.Body.Close())
	}
	again, err := r.GetBody()
	if err != nil {
		return nil, err
	}
	go func() {
		var seen []byte
		p := make([]byte, 1000)
		for _, body := range []interface{ Read([]byte) (int, error) }{r.Body, again} {
			if n, err := body.Read(p); err == nil {
				seen = append(seen, p[:n]...)
			}
		}
		g.proceed <- struct{}{}
		<-g.proceed
		for _, body := range []interface{ Read([]byte) (int, error) }{r.Body, again} {
			for n, err := body.Read(p); err == nil; n, err = body.Read(p) {
				seen = append(seen, p[:n]...)
			}
		}
		g.seen <- seen
	}()
	<-g.proceed
	return nil, errors.New("given up")
}

// TestNothingReadsTheCellsAfterPut: the caller may use its cells again, whatever the transport still does.
func TestNothingReadsTheCellsAfterPut(t *testing.T) {
	g := &greedy{proceed: make(chan struct{}), seen: make(chan []byte)}
	d := remote.New(&http.Client{Transport: g}, "http://peer", driveID, remote.Options{Cluster: here})
	defer func() { must(t, d.Close()) }()
	s := drivetest.NewShard(drivetest.Key(1, 1, 0), 1, chunkstore.MaxChunk)
	wantIs(t, s.Put(t.Context(), d), chunkstore.ErrDriveDown)
	for i := range s.Payload {
		s.Payload[i] = 0xDB
	}
	g.proceed <- struct{}{}
	seen := <-g.seen
	if len(seen) != 2000 || bytes.Contains(seen, bytes.Repeat([]byte{0xDB}, 16)) {
		t.Fatalf("the transport saw %d bytes, 2,000 of them before Put returned", len(seen))
	}
}
