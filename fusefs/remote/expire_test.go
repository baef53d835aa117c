package remote

import (
	"bytes"
	"log/slog"
	"testing"
	"time"
)

// closing counts how often it was closed.
type closing struct {
	bytes.Buffer
	closed int
}

func (c *closing) Close() error { c.closed++; return nil }

func TestPipesThatWaitedTooLongAreClosed(t *testing.T) {
	now := time.Now()
	c := &Client{log: slog.New(slog.DiscardHandler)}
	var conns []*closing
	for _, age := range []time.Duration{pipeAge + 1, 0, pipeAge, pipeAge - 1} {
		conn := &closing{}
		conns = append(conns, conn)
		c.givePipe(&pipe{base: "here", conn: conn, born: now.Add(-age)})
	}
	c.expirePipes(now)
	for i, want := range []int{1, 0, 1, 0} {
		if conns[i].closed != want {
			t.Errorf("pipe %d was closed %d times, want %d", i, conns[i].closed, want)
		}
	}
	if n := len(c.pipes.idle); n != 2 {
		t.Errorf("%d pipes wait, want 2", n)
	}
	c.dropPipes(true)
	late := &closing{}
	c.givePipe(&pipe{base: "here", conn: late, born: now})
	if conns[1].closed != 1 || late.closed != 1 || len(c.pipes.idle) != 0 {
		t.Error("a client that ended keeps pipes")
	}
}
