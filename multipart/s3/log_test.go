package s3_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/multipart/s3"
)

// lineLog passes on what is logged, a line a message.
type lineLog chan string

func (l lineLog) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// A client that hangs up is no failure of the server's: an operator must not be woken by somebody's Ctrl-C.
func TestClientThatHangsUpIsNoError(t *testing.T) {
	lines, asked := make(lineLog, 16), make(chan struct{})
	k := newKit(t, false, func(c *s3.Config) {
		c.Log = slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.Keys = func(ctx context.Context, _ string) (string, s3.Principal, error) {
			close(asked)
			<-ctx.Done()
			return "", s3.Principal{}, ctx.Err()
		}
	})
	ctx, hangUp := context.WithCancel(t.Context())
	go func() {
		<-asked
		hangUp()
	}()
	r := k.build(request{method: http.MethodGet, target: "/"}).WithContext(ctx)
	k.sign(r, time.Now())
	response, err := k.http.Client().Do(r)
	if err == nil {
		t.Fatal(errors.Join(errors.New("an answer came"), response.Body.Close()))
	}
	line := <-lines
	if !strings.Contains(line, "level=DEBUG") || !strings.Contains(line, "client went away") {
		t.Errorf("it is logged as %s", line)
	}
}
