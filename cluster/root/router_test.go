package root

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/transport"
)

// inBubble runs a test with peers 1 to n, of which the first voters have a replica.
func inBubble(t *testing.T, voters, n byte, test func(t *testing.T, e *ensemble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(2 * time.Second) }) // a closed goleveldb has a last goroutine that takes one
		test(t, newEnsemble(t, voters, n))
	})
}

func wantRow(t *testing.T, c *Client, name, value string) {
	t.Helper()
	row, err := c.Row(t.Context(), Users, name)
	if err != nil || string(row.Value) != value {
		t.Fatalf("row %s is %q, want %q: %v", name, row.Value, value, err)
	}
}

func mustPut(t *testing.T, c *Client, name, value string) Row {
	t.Helper()
	row, err := c.PutRow(t.Context(), Row{Kind: Users, Name: name, Value: []byte(value)})
	if err != nil || row.Revision != 1 {
		t.Fatalf("put %s: %+v %v", name, row, err)
	}
	return row
}

// TestEveryPeerIsAsGood asks at the leader, at another replica, and where there is none, as the leader moves.
func TestEveryPeerIsAsGood(t *testing.T) {
	inBubble(t, 3, 9, func(t *testing.T, e *ensemble) {
		begin := time.Now()
		for round, leader := range []byte{1, 2, 3, 1} {
			e.lead(leader)
			for id := byte(1); id <= 9; id++ {
				c, name := e.peer(id).client, fmt.Sprintf("%d-%d", round, id)
				row := mustPut(t, c, name, name)
				wantRow(t, e.peer(10-id).client, name, name)
				if _, err := c.PutRow(t.Context(), Row{Kind: Users, Name: name}); !errors.Is(err, ErrConflict) {
					t.Fatal(err)
				}
				if _, err := c.Change(t.Context(), []Row{{Kind: Keys, Name: name}}, []Row{row}); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Row(t.Context(), Users, name); !errors.Is(err, ErrNotFound) {
					t.Fatal(err)
				}
				if n, err := c.LeaseBlock(t.Context()); err != nil || n != uint64(round*9+int(id)) {
					t.Fatalf("block %d %v", n, err)
				}
			}
		}
		if rows, err := e.peer(9).client.Rows(t.Context(), Keys, "2-", "2-3", 4); err != nil || len(rows) != 4 || rows[3].Name != "2-7" {
			t.Fatalf("%+v %v", rows, err)
		}
		if took := time.Since(begin); took != 0 {
			t.Fatalf("who leads was found after %v", took)
		}
	})
}

// TestTheLeaderIsRemembered counts the questions of a peer without a replica.
func TestTheLeaderIsRemembered(t *testing.T) {
	inBubble(t, 3, 50, func(t *testing.T, e *ensemble) {
		c := e.peer(50).client
		mustPut(t, c, "a", "1")
		if n := e.asked(); n > 50 {
			t.Fatalf("%d questions to find one leader among 49", n)
		}
		before := e.asked()
		for range 10 {
			wantRow(t, c, "a", "1")
		}
		if n := e.asked() - before; n != 10 {
			t.Fatalf("%d questions for 10 reads", n)
		}
		e.lead(2)
		before = e.asked()
		wantRow(t, c, "a", "1")
		if n := e.asked() - before; n != 2 {
			t.Fatalf("%d questions where a hint was to be followed", n)
		}
	})
}

// TestCallsWaitForALeader elects one after some time, and none at all; many calls search together.
func TestCallsWaitForALeader(t *testing.T) {
	for _, id := range []byte{2, 4} { // with a replica and without
		inBubble(t, 3, 20, func(t *testing.T, e *ensemble) {
			e.lead(0)
			c := e.peer(id).client
			begin := time.Now()
			var calls sync.WaitGroup
			for i := range 100 {
				calls.Go(func() { mustPut(t, c, fmt.Sprint(i), "v") })
			}
			time.Sleep(5 * time.Second)
			e.lead(1)
			calls.Wait()
			if took := time.Since(begin); took > 5*time.Second+2*lastPause {
				t.Fatalf("found after %v", took)
			}
			// Searches, and each call's own question in the end.
			if n := e.asked(); n > int64(6*time.Second/searchEvery)*20+200 {
				t.Fatalf("%d questions in 5 s by 100 calls", n)
			}
			e.lead(0)
			begin = time.Now()
			_, err := c.PutRow(t.Context(), Row{Kind: Users, Name: "never"})
			if !errors.Is(err, ErrUnavailable) || errors.Is(err, raft.ErrUnknownOutcome) || errors.Is(err, raft.ErrNotLeader) {
				t.Fatal(err)
			}
			if took := time.Since(begin); took != DefaultPatience {
				t.Fatalf("gave up after %v", took)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err = c.Rows(ctx, Users, "", "", 0)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		})
	}
}

// TestLostAnswersAreRepeated loses the first answer of each question, before and after it was applied, in each of the
// ways in which that happens.
func TestLostAnswersAreRepeated(t *testing.T) {
	broken := func(response *http.Response) *http.Response {
		whole, err := io.ReadAll(response.Body)
		if err != nil {
			panic(err)
		}
		response.Body = io.NopCloser(bytes.NewReader(whole[:len(whole)-1]))
		return response
	}
	for name, lose := range map[string]func(p *peer, r *http.Request) (*http.Response, error){
		"before":    func(*peer, *http.Request) (*http.Response, error) { return nil, errCut },
		"not sent":  func(*peer, *http.Request) (*http.Response, error) { return nil, transport.ErrUnreachable },
		"after":     func(p *peer, r *http.Request) (*http.Response, error) { p.serve(r); return nil, errCut },
		"half":      func(p *peer, r *http.Request) (*http.Response, error) { return broken(p.serve(r)), nil },
		"hangs":     func(p *peer, r *http.Request) (*http.Response, error) { p.serve(r); return hang(r) },
		"forbidden": func(*peer, *http.Request) (*http.Response, error) { return statusOf(http.StatusForbidden), nil },
		"crashes":   func(p *peer, r *http.Request) (*http.Response, error) { p.serve(r); return statusOf(500), nil },
	} {
		inBubble(t, 1, 2, func(t *testing.T, e *ensemble) {
			lost, known := 0, map[string]bool{}
			e.peer(1).fault = func(r *http.Request) (*http.Response, error) {
				question, err := io.ReadAll(r.Body)
				if err != nil {
					panic(err)
				}
				r.Body = io.NopCloser(bytes.NewReader(question))
				if key := r.URL.Path + string(question); !known[key] {
					known[key] = true
					lost++
					return lose(e.peer(1), r)
				}
				return nil, nil
			}
			c := e.peer(2).client
			row := mustPut(t, c, "a", "1")
			wantRow(t, c, "a", "1")
			row.Value = []byte("2")
			if row, err := c.PutRow(t.Context(), row); err != nil || row.Revision != 2 {
				t.Fatalf("%s: swap: %+v %v", name, row, err)
			}
			if _, err := c.PutRow(t.Context(), row); !errors.Is(err, ErrConflict) {
				t.Fatalf("%s: stale swap: %v", name, err)
			}
			if rows, err := c.Rows(t.Context(), Users, "", "", 0); err != nil || len(rows) != 1 || string(rows[0].Value) != "2" {
				t.Fatalf("%s: rows %+v %v", name, rows, err)
			}
			if n, err := c.Allocate(t.Context(), Any); err != nil || n == 0 {
				t.Fatalf("%s: number %d %v", name, n, err)
			}
			if err := c.DeleteRow(t.Context(), Users, "a", 2); err != nil {
				t.Fatalf("%s: delete: %v", name, err)
			}
			if lost < 6 {
				t.Fatalf("%s: only %d answers were lost", name, lost)
			}
		})
	}
}

func statusOf(code int) *http.Response {
	return &http.Response{StatusCode: code, Body: io.NopCloser(bytes.NewReader(nil))}
}

// TestUnknownOutcomesAreSaid loses every answer until patience is over, or the caller leaves.
func TestUnknownOutcomesAreSaid(t *testing.T) {
	inBubble(t, 1, 2, func(t *testing.T, e *ensemble) {
		e.peer(1).fault = func(r *http.Request) (*http.Response, error) {
			if r.URL.Path != PathPrefix+proposePath {
				return nil, nil
			}
			e.peer(1).serve(r)
			return cut(r)
		}
		c := e.peer(2).client
		_, err := c.PutRow(t.Context(), Row{Kind: Users, Name: "a", Value: []byte("1")})
		if !errors.Is(err, raft.ErrUnknownOutcome) || !errors.Is(err, ErrUnavailable) || errors.Is(err, errCut) {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = c.DeleteRow(ctx, Users, "b", 0)
		if !errors.Is(err, raft.ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		e.peer(1).fault = nil
		wantRow(t, c, "a", "1")
	})
}

// TestAPeerThatHangsHoldsNobodyBack lets the leader hang and another take over, and then some of the peers that are
// asked around.
func TestAPeerThatHangsHoldsNobodyBack(t *testing.T) {
	inBubble(t, 3, 6, func(t *testing.T, e *ensemble) {
		with, without := e.peer(2).client, e.peer(6).client
		mustPut(t, with, "a", "1")
		wantRow(t, without, "a", "1")
		e.peer(1).fault = hang
		var calls sync.WaitGroup
		for c, limit := range map[*Client]time.Duration{with: 2*time.Second + watchEvery, without: stall + firstProbe + lastPause} {
			calls.Go(func() {
				begin := time.Now()
				wantRow(t, c, "a", "1")
				if took := time.Since(begin); took < 2*time.Second || took > limit {
					t.Errorf("answered after %v, want %v", took, limit)
				}
			})
		}
		time.Sleep(2 * time.Second)
		e.lead(3)
		calls.Wait()
		// Nobody is remembered, and all but the leader hang: each costs a second.
		for _, id := range []byte{1, 2, 4, 5} {
			e.peer(id).fault = hang
		}
		e.peer(6).restart(e.peer(6).router.config)
		begin := time.Now()
		wantRow(t, e.peer(6).client, "a", "1")
		if took := time.Since(begin); took > 4*firstProbe {
			t.Fatalf("found after %v", took)
		}
	})
}

// TestHintsThatAreWrongAreNotFollowedForEver has two peers that name each other, and a replica here that knows of a
// leader that is gone.
func TestHintsThatAreWrongAreNotFollowedForEver(t *testing.T) {
	inBubble(t, 3, 5, func(t *testing.T, e *ensemble) {
		names := func(id byte) func() (cluster.PeerID, bool, bool) {
			return func() (cluster.PeerID, bool, bool) { return cluster.PeerID{id}, false, true }
		}
		for id, other := range map[byte]byte{2: 3, 3: 2} {
			config := e.peer(id).router.config
			config.Leader = names(other)
			e.peer(id).restart(config)
		}
		mustPut(t, e.peer(4).client, "a", "1") // by asking around
		wantRow(t, e.peer(2).client, "a", "1") // the one it knows does not lead, and names this one
		e.peer(1).fault = cut
		before := e.asked()
		_, err := e.peer(4).client.Row(t.Context(), Users, "a")
		if !errors.Is(err, ErrUnavailable) || errors.Is(err, raft.ErrNotLeader) {
			t.Fatal(err)
		}
		if n := e.asked() - before; n < 20 || n > 500 {
			t.Fatalf("%d questions in %v", n, DefaultPatience)
		}
	})
}

// TestClosedPeersAreLeft has the leader's host closed, and then the transport to it.
func TestClosedPeersAreLeft(t *testing.T) {
	inBubble(t, 2, 3, func(t *testing.T, e *ensemble) {
		mustPut(t, e.peer(3).client, "a", "1")
		config := e.peer(1).router.config
		config.Local = stopped{}
		e.peer(1).restart(config)
		for _, fault := range []func(*http.Request) (*http.Response, error){nil, func(*http.Request) (*http.Response, error) { return nil, transport.ErrClosed }} {
			e.lead(1)
			e.peer(1).fault = fault
			var calls sync.WaitGroup
			for _, id := range []byte{1, 2, 3} {
				calls.Go(func() { wantRow(t, e.peer(id).client, "a", "1") })
			}
			time.Sleep(time.Second)
			e.lead(2)
			calls.Wait()
		}
	})
}

// stopped is the seat at a host that is closed.
type stopped struct{ Seat }

func (stopped) Row(context.Context, Kind, string) (Row, error) { return Row{}, raft.ErrStopped }

// TestAReplicaMayComeLater asks a peer that has no replica, and then one.
func TestAReplicaMayComeLater(t *testing.T) {
	e := newEnsemble(t, 1, 1)
	var group raft.Group
	seat := Local(func() raft.Group { return group })
	if _, err := seat.Propose(t.Context(), nil); !errors.Is(err, raft.ErrNotLeader) {
		t.Fatal(err)
	}
	if _, err := seat.Rows(t.Context(), Query{Kind: Users}); !errors.Is(err, raft.ErrNotLeader) {
		t.Fatal(err)
	}
	group = e.peer(1)
	if _, err := seat.Row(t.Context(), Users, "a"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
}
