package remote_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/tests/expect"
)

// transfers sends requests as bodies to another peer.
type transfers struct{ peer *transport.Peer }

func (t transfers) RoundTrip(r *http.Request) (*http.Response, error) { return t.peer.Transfer(r) }

// realm makes the credentials of the peers of one cluster.
type realm struct {
	authority *trust.Authority
	list      trust.List
}

func newRealm(b testing.TB) *realm {
	authority, err := trust.NewAuthority(here, time.Now())
	must(b, err)
	return &realm{authority: authority, list: trust.List{}.Trust(authority.Certificate())}
}

func (r *realm) store(b testing.TB, peer cluster.PeerID) *trust.Store {
	request, err := trust.NewRequest()
	must(b, err)
	certificate, err := r.authority.Issue(request.Bytes(), trust.Identity{Peer: peer, Roles: trust.RolePeer}, time.Now())
	must(b, err)
	credentials, err := request.Complete(certificate)
	must(b, err)
	store, err := trust.NewStore(trust.Config{Credentials: credentials, List: r.list, Protocols: transport.Protocols()})
	must(b, err)
	return store
}

// spread makes a kit's drives from the given one on those of other peers, four each, reached as peers reach each other.
func spread(b testing.TB, k *storetest.Kit, from int) {
	if from == len(k.Drives) {
		return
	}
	r := newRealm(b)
	gateway, err := transport.NewPeers(transport.PeersConfig{Network: transport.TCP{}, Trust: r.store(b, cluster.PeerID{1})})
	must(b, err)
	b.Cleanup(gateway.Close)
	for at := from; at < len(k.Drives); at += 4 {
		id, drives := cluster.PeerID{2, byte(at)}, k.Drives[at:at+4]
		server, err := transport.Listen(transport.ServerConfig{
			Network: transport.TCP{}, Address: "127.0.0.1:0", Trust: r.store(b, id), Log: slog.New(slog.DiscardHandler),
		}, []transport.Route{{Pattern: remote.Prefix, Roles: trust.RolePeer, MaxBody: -1, Handler: remote.Handler(find(drives), remote.HandlerOptions{Cluster: here})}}, nil)
		must(b, err)
		b.Cleanup(func() { must(b, server.Stop(b.Context())) })
		gateway.Set(id, server.Addr())
		peer, err := gateway.Peer(id)
		must(b, err)
		for _, d := range drives {
			k.Set.Remove(d.ID())
			far := remote.New(&http.Client{Transport: transfers{peer}}, "https://peer", d.ID(), remote.Options{Cluster: here, Peer: id})
			b.Cleanup(func() { must(b, far.Close()) })
			must(b, k.Set.Add(far))
			expect.Soon(b, "the drive is up", func() bool { return far.Status().Down == nil })
		}
	}
}

func find(drives []*memory.Drive) func(cluster.DriveID) (chunkstore.Drive, bool) {
	return func(id cluster.DriveID) (chunkstore.Drive, bool) {
		for _, d := range drives {
			if d.ID() == id {
				return d, true
			}
		}
		return nil, false
	}
}

const streamSize = 64 << 20

// BenchmarkStore writes and reads 64 MiB with twelve drives here, and with four here and four on each of two other peers,
// whose processors are this machine's as well: what it takes more is what moving the bytes costs.
func BenchmarkStore(b *testing.B) {
	for _, c := range []struct {
		name string
		here int
		near bool // parity shards that are here are preferred to data shards that are not
	}{{"OnePeer", 12, false}, {"ThreePeers", 4, false}, {"ThreePeersNear", 4, true}} {
		k := storetest.New(b, 12, func(config *chunkstore.Config) {
			config.Memory = 256 << 20
			if c.near {
				config.Near = func(id cluster.DriveID) bool { return int(id[0]) < c.here }
			}
		})
		spread(b, k, c.here)
		body := storetest.Body(1, streamSize)
		b.Run("Write/"+c.name, func(b *testing.B) {
			b.SetBytes(streamSize)
			b.ReportAllocs()
			for b.Loop() {
				w, err := k.Store.Write(b.Context(), bytes.NewReader(body), chunkstore.WriteOptions{Size: streamSize})
				must(b, err)
				b.StopTimer()
				_, err = k.Store.Delete(b.Context(), w.Chunks)
				must(b, err)
				b.StartTimer()
			}
		})
		w := k.Write(body)
		b.Run("Read/"+c.name, func(b *testing.B) {
			b.SetBytes(streamSize)
			b.ReportAllocs()
			for b.Loop() {
				r := k.Store.Read(b.Context(), storetest.Refs(w.Chunks), 0, streamSize)
				_, err := io.Copy(io.Discard, r)
				must(b, err)
				must(b, r.Close())
			}
			b.ReportMetric(float64(k.Store.Stats().Nearer)/float64(k.Store.Stats().ShardBytes>>20), "nearer/MiB")
		})
	}
}
