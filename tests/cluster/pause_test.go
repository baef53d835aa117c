package cluster

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/holdfast/holdfast/tests/testkit"
)

// A leader stands still while another is elected and everything is written anew. When it goes on, it finds questions in
// its sockets that were asked after that, and must not answer any of them from what it remembers.
func TestALeaderThatStoodStillGivesNoStaleAnswer(t *testing.T) {
	chaosOnly(t)
	c, l := begin(t, testkit.ClusterOptions{Peers: 3, Drives: 4})
	w := startLoad(t, c, l, 4, 0)
	const registers = 16
	key := func(i int) string { return fmt.Sprintf("register%02d", i) }
	write := func(n *testkit.Node, generation int) {
		t.Helper()
		for i := range registers {
			body := bodyOf(fmt.Sprint(key(i), generation), 100*generation) // another size, for listings
			_, err := w.request(t.Context(), "PUT "+key(i), len(body), func(ctx context.Context, _ *s3.Client) error {
				_, err := n.S3().PutObject(ctx, &s3.PutObjectInput{Bucket: &l.bucket, Key: new(key(i)), Body: bytes.NewReader(body)})
				return err
			})
			if err != nil {
				t.Fatalf("register %d: %v", i, err)
			}
			l.begin(key(i), valueOf(body))
			l.end(key(i), valueOf(body), true, true)
		}
	}
	leader := c.Leader("tablet")
	write(leader, 1)

	// The clock starts before the fault, for the time that the leader must stand still.
	const still = 10 * time.Second
	until := time.NewTimer(still)
	at := w.strike(leader.Pause)
	write(c.Up()[0], 2)
	wantGap(t, "leader stopped", l.gap(at, time.Now()), 5*time.Second)
	asked := ask(t, leader, l, registers, key)
	<-until.C
	if n := asked.answered(); n > 0 {
		t.Fatalf("%d questions were answered by a process that stood still", n)
	}
	leader.Resume()
	fresh := ask(t, leader, l, registers, key) // the moment that it goes on
	if n := asked.wait(t) + fresh.wait(t); n == 0 {
		t.Error("it answered nothing: nothing was tested")
	}
	w.progress(l.acknowledged(), 20)
	w.stop(oneInAThousand)
	c.WaitWhole(wholeLimit)
	l.check(t, c)
}

// questions are requests to one gateway, each on a connection of its own, with the answers so far.
type questions struct {
	asked sync.WaitGroup

	mu    sync.Mutex
	right int
	wrong []string
}

// ask reads every register and lists them through one gateway, all at once.
func ask(t *testing.T, n *testkit.Node, l *ledger, registers int, key func(int) string) *questions {
	t.Helper()
	q := new(questions)
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	t.Cleanup(cancel)
	for i := range registers {
		may, _ := l.known(key(i))
		client := n.S3()
		q.asked.Go(func() {
			got, err := read(ctx, client, l.bucket, key(i))
			if err == nil {
				q.answer(got == may[0], fmt.Sprintf("GET %s gives %v, and %v was acknowledged before it was asked", key(i), got, may[0]))
			}
		})
		if i%4 == 0 {
			q.asked.Go(func() {
				listed, err := list(ctx, client, l.bucket, "register")
				if err == nil {
					err := l.compareListing("register", listed)
					q.answer(err == nil, fmt.Sprint("LIST: ", err))
				}
			})
		}
	}
	return q
}

func (q *questions) answer(right bool, text string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if right {
		q.right++
	} else {
		q.wrong = append(q.wrong, text)
	}
}

func (q *questions) answered() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.right + len(q.wrong)
}

// wait waits for all answers, and returns how many were right. Errors are no answers.
func (q *questions) wait(t *testing.T) int {
	t.Helper()
	q.asked.Wait()
	for _, text := range q.wrong {
		t.Errorf("stale: %s", text)
	}
	return q.right
}
