package join

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// bubble runs body in a bubble with a cluster on a network of memory with a latency of 5 ms.
func bubble(t *testing.T, seed uint64, body func(t *testing.T, r *realm, net *transport.Simulation)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// The last cleanup: the state's database has a goroutine that looks for its end once in a while.
		t.Cleanup(func() { time.Sleep(time.Minute) })
		net := transport.NewSimulation(seed)
		net.Shape("", "", transport.Shape{Latency: 5 * time.Millisecond})
		body(t, newRealm(t, net.Host), net)
	})
}

// TestALostAnswerIsGotByAskingAgain: the peer is in the cluster when its answer is lost, in each way there is; it asks
// again with the same token and key, and is the same peer.
func TestALostAnswerIsGotByAskingAgain(t *testing.T) {
	for _, test := range []struct {
		name string
		// lose happens when the admission was applied and the admitting peer does not know yet.
		lose func(ctx context.Context, r *realm, net *transport.Simulation) error
	}{
		{"the network is cut for 40 s", func(_ context.Context, r *realm, net *transport.Simulation) error {
			net.Cut("first", "second")
			time.AfterFunc(40*time.Second, net.Heal)
			return nil
		}},
		{"the connection is reset", func(_ context.Context, r *realm, net *transport.Simulation) error {
			if net.Reset("first", "second") == 0 {
				r.Error("there was no connection")
			}
			return nil
		}},
		{"the admitting peer learns of no outcome", func(ctx context.Context, _ *realm, _ *transport.Simulation) error {
			<-ctx.Done()
			return raft.ErrUnknownOutcome
		}},
		{"its command is proposed once more", func(context.Context, *realm, *transport.Simulation) error {
			return raft.ErrUnknownOutcome
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, r *realm, net *transport.Simulation) {
				token, a := r.token(), r.ask("second", 2)
				fired := r.group.onAdmission(func(ctx context.Context) error { return test.lose(ctx, r, net) })
				answer, err := Join(t.Context(), net.Host("second"), token, a)
				if err != nil {
					t.Fatal(err)
				}
				stats := r.first.join.Stats()
				// An admitting peer that gave up in the middle of its command has not counted it.
				if !fired.Load() || stats.Admitted+stats.Repeated == 0 || stats.Rejoined != 0 {
					t.Errorf("fired %v, counts %+v", fired, stats)
				}
				m := r.topology()
				if len(m.Peers) != 2 || m.Peers[1].ID != answer.Peer || answer.Number != 2 || len(m.Drives) != 14 {
					t.Errorf("peers %+v", m.Peers)
				}
				second := r.start("second", answer.Credentials, answer.List, nil)
				meet(t, second, r.first)
				_, err = Join(t.Context(), net.Host("thief"), token, r.ask("thief", 1))
				wantErr(t, err, ErrTokenUsed)
			})
		})
	}
}

// TestAPeerThatStoppedAsksAgain: it kept its key, so it gets what it was given, until the token expires; then another
// token brings it to its place.
func TestAPeerThatStoppedAsksAgain(t *testing.T) {
	bubble(t, 1, func(t *testing.T, r *realm, net *transport.Simulation) {
		token, a := r.token(), r.ask("second", 2)
		request, err := trust.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		a.Request = request
		kept := request.Marshal()
		fired := r.group.onAdmission(func(context.Context) error { net.PowerOff("second"); return nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := Join(ctx, net.Host("second"), token, a); err == nil || !fired.Load() {
			t.Fatalf("joined without power: %v, fired %v", err, fired)
		}
		net.Heal()
		if a.Request, err = trust.ParseRequest(kept); err != nil {
			t.Fatal(err)
		}
		before := r.topology()
		for range 2 {
			answer, err := Join(t.Context(), net.Host("second"), token, a)
			if err != nil || answer.Number != 2 || answer.Returned || answer.Peer != before.Peers[1].ID {
				t.Fatal(answer, err)
			}
		}
		if stats := r.first.join.Stats(); stats.Admitted != 1 || stats.Repeated != 2 {
			t.Errorf("counts %+v", stats)
		}
		r.clock.ahead.Store(int64(trust.TokenLife))
		_, err = Join(t.Context(), net.Host("second"), token, a)
		wantErr(t, err, trust.ErrTokenExpired)
		if after := r.topology(); after.Epoch != before.Epoch {
			t.Errorf("epoch %d after %d", after.Epoch, before.Epoch)
		}
		answer, err := Join(t.Context(), net.Host("second"), r.token(), a)
		if err != nil || answer.Number != 2 || !answer.Returned || answer.Peer != before.Peers[1].ID {
			t.Error(answer, err)
		}
	})
}

// TestAClusterThatCannotAdmitIsAskedAgain: nothing of what is wrong is told, and when it is over the peer is let in.
func TestAClusterThatCannotAdmitIsAskedAgain(t *testing.T) {
	bubble(t, 1, func(t *testing.T, r *realm, net *transport.Simulation) {
		row, err := r.client.Row(t.Context(), root.Cluster, gossipName)
		if err == nil {
			err = r.client.DeleteRow(t.Context(), root.Cluster, gossipName, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		token, a := r.token(), r.ask("second", 1)
		_, err = Join(t.Context(), net.Host("second"), token, a)
		wantErr(t, err, ErrUnreachable)
		wantErr(t, err, ErrUnavailable)
		if n := r.first.join.Stats().Refused["unavailable"]; n != rounds || r.kept(token).Used() || strings.Contains(err.Error(), "authority") {
			t.Errorf("asked %d times: %v", n, err)
		}
		time.AfterFunc(roundPause/2, func() {
			row.Revision = 0
			if _, err := r.client.PutRow(context.Background(), row); err != nil {
				t.Error(err)
			}
		})
		if _, err := Join(t.Context(), net.Host("second"), token, a); err != nil {
			t.Error(err)
		}
	})
}

// TestJoinsOnABadNetwork: connections break in mid-conversation again and again; who was let in is in the map once, and
// nobody else is.
func TestJoinsOnABadNetwork(t *testing.T) {
	const seeds = 12
	broken, joined := uint64(0), 0
	for seed := range uint64(seeds) {
		bubble(t, seed, func(t *testing.T, r *realm, net *transport.Simulation) {
			net.Shape("", "", transport.Shape{Latency: time.Millisecond, Jitter: 5 * time.Millisecond, ResetAfter: 8 << 10})
			for i := range 6 {
				name := fmt.Sprintf("peer%d", i)
				answer, err := Join(t.Context(), net.Host(name), r.token(), r.ask(name, 3))
				if err != nil {
					continue // it may be in the cluster, without a certificate
				}
				joined++
				m := r.topology()
				if p, ok := m.Peer(answer.Peer); !ok || p.Name != name || p.Number != answer.Number {
					t.Errorf("seed %d: %s is %+v in the map", seed, name, p)
				}
			}
			stats := r.first.join.Stats()
			broken += stats.Refused["broken"] + stats.Repeated
			if m := r.topology(); uint64(len(m.Peers)) != 1+stats.Admitted || len(m.Drives) != 12+3*int(stats.Admitted) {
				t.Errorf("seed %d: %d peers, counts %+v", seed, len(m.Peers), stats)
			}
		})
	}
	t.Logf("%d of %d joined, %d conversations broke or were repeated", joined, 6*seeds, broken)
	if broken == 0 || joined == 0 {
		t.Error("the network did no harm, or all")
	}
}
