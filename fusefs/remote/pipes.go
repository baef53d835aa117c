package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/fusefs/remote/mountpb"
	"github.com/holdfast/holdfast/fusefs/remote/mountpb/mountpbconnect"
)

const (
	// pipeAge is how long a client uses a pipe: half of what the service allows, so that none ends under a question.
	pipeAge = pipeLife / 2
	// pipeRefused is how long a client asks by HTTP requests after the way to the gateway let no pipe through.
	pipeRefused = time.Minute
	// pipeBusy is how long it does so after a gateway that is starting, or has too many pipes.
	pipeBusy = 2 * time.Second
)

// pipes are the open pipes of a client that wait for a question; one that is asked is with its asker.
type pipes struct {
	mu      sync.Mutex
	idle    []*pipe
	refused time.Time
	closed  bool
}

// pipe is one; who holds it may use it.
type pipe struct {
	base string
	conn io.ReadWriteCloser
	r    *bufio.Reader
	born time.Time
	buf  []byte
}

// takePipe is a pipe to the gateway at base; nil when there can be none.
func (c *Client) takePipe(ctx context.Context, base string) (*pipe, error) {
	now := time.Now()
	c.pipes.mu.Lock()
	for n := len(c.pipes.idle); n > 0; n = len(c.pipes.idle) {
		p := c.pipes.idle[n-1]
		c.pipes.idle = c.pipes.idle[:n-1]
		if p.base == base && now.Sub(p.born) < pipeAge {
			c.pipes.mu.Unlock()
			return p, nil
		}
		c.closePipe(p)
	}
	refused := c.pipes.closed || now.Before(c.pipes.refused)
	c.pipes.mu.Unlock()
	if refused || c.config.NoPipes {
		return nil, nil
	}
	p, err := c.dialPipe(ctx, base)
	if err != nil && ctx.Err() == nil {
		// Nothing was asked yet. HTTP/2, for one, has no such connections; a gateway that is dead will not answer a request
		// either.
		c.refusePipes(pipeBusy)
		return nil, nil
	}
	return p, err
}

// refusePipes sends questions as requests for a while.
func (c *Client) refusePipes(wait time.Duration) {
	c.pipes.mu.Lock()
	defer c.pipes.mu.Unlock()
	c.pipes.refused = time.Now().Add(wait)
}

// dialPipe opens a pipe; nil when the answer is not of a gateway that has them.
func (c *Client) dialPipe(ctx context.Context, base string) (*pipe, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+pathPipe, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", pipeProtocol)
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	conn, ok := res.Body.(io.ReadWriteCloser)
	if res.StatusCode != http.StatusSwitchingProtocols || !ok {
		wait := pipeRefused
		if res.StatusCode == http.StatusServiceUnavailable {
			wait = pipeBusy
		}
		c.refusePipes(wait)
		return nil, res.Body.Close()
	}
	return &pipe{base: base, conn: conn, r: bufio.NewReader(conn), born: time.Now()}, nil
}

// givePipe puts a pipe back.
func (c *Client) givePipe(p *pipe) {
	p.buf = trim(p.buf)
	c.pipes.mu.Lock()
	keep := !c.pipes.closed && len(c.pipes.idle) < connections
	if keep {
		c.pipes.idle = append(c.pipes.idle, p)
	}
	c.pipes.mu.Unlock()
	if !keep {
		c.closePipe(p)
	}
}

// dropPipes closes every pipe that waits: one of them broke, and the others go to the same gateway.
func (c *Client) dropPipes(forever bool) {
	c.pipes.mu.Lock()
	all := c.pipes.idle
	c.pipes.idle = nil
	c.pipes.closed = c.pipes.closed || forever
	c.pipes.mu.Unlock()
	for _, p := range all {
		c.closePipe(p)
	}
}

// allowPipes forgets that a gateway let none through: another one is in use.
func (c *Client) allowPipes() {
	c.pipes.mu.Lock()
	defer c.pipes.mu.Unlock()
	c.pipes.refused = time.Time{}
}

// expirePipes closes the pipes that waited too long. The one used last is taken first, so those below it would stay.
func (c *Client) expirePipes(now time.Time) {
	c.pipes.mu.Lock()
	old := make([]*pipe, 0, len(c.pipes.idle))
	c.pipes.idle = slices.DeleteFunc(c.pipes.idle, func(p *pipe) bool {
		expired := now.Sub(p.born) >= pipeAge
		if expired {
			old = append(old, p)
		}
		return expired
	})
	c.pipes.mu.Unlock()
	for _, p := range old {
		c.closePipe(p)
	}
}

// closePipe ends a pipe: nothing is on its way in it, or what is will be asked again.
func (c *Client) closePipe(p *pipe) {
	if err := p.conn.Close(); err != nil {
		c.log.Debug("close pipe", "endpoint", p.base, "err", err)
	}
}

// ask sends a question through the pipe and reads its answer. The pipe is broken after an error that is not the
// answer; answered tells.
func (p *pipe) ask(ctx context.Context, name string, q, a proto.Message) (answered bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = p.conn.Close() }) // ends the read; the error is the read's
	defer func() {
		if !stop() {
			answered, err = false, errors.Join(ctx.Err(), err)
		}
	}()
	if p.buf, err = appendFrame(p.buf[:0], name, nil, q); err != nil {
		return false, err
	}
	if _, err = p.conn.Write(p.buf); err != nil {
		return false, fmt.Errorf("send through pipe: %w", err)
	}
	var failure string
	var rest []byte
	if p.buf, failure, rest, err = readFrame(p.r, p.buf, maxMessage); err != nil {
		return false, fmt.Errorf("answer of pipe: %w", err)
	}
	if failure != "" {
		if err := named(failure, string(rest)); err != nil {
			return true, err
		}
		return false, fmt.Errorf("%w: error %q: %s", errAnswer, failure, rest)
	}
	if err := proto.Unmarshal(rest, a); err != nil {
		return false, fmt.Errorf("answer of pipe: %w", err)
	}
	return true, nil
}

// piped is the service through pipes, and by HTTP requests where there are none.
type piped struct {
	mountpbconnect.MountServiceClient
	client *Client
	base   string
}

// over asks through a pipe, or through plain when there is none or the question is large.
func over[Req, Res any](
	ctx context.Context, p piped, name string, req *connect.Request[Req],
	plain func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error),
) (*connect.Response[Res], error) {
	answer := new(Res)
	q, isMessage := any(req.Msg).(proto.Message)
	a, too := any(answer).(proto.Message)
	if !isMessage || !too || proto.Size(q) > maxPiped-256 {
		return plain(ctx, req)
	}
	line, err := p.client.takePipe(ctx, p.base)
	if err != nil {
		return nil, err
	}
	if line == nil {
		return plain(ctx, req)
	}
	answered, err := line.ask(ctx, name, q, a)
	if answered {
		p.client.givePipe(line)
	} else {
		p.client.closePipe(line)
		p.client.dropPipes(false)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

type (
	request[T any]  = *connect.Request[T]
	response[T any] = *connect.Response[T]
)

func (p piped) Stat(ctx context.Context, r request[mountpb.KeyRequest]) (response[mountpb.Info], error) {
	return over(ctx, p, "Stat", r, p.MountServiceClient.Stat)
}

func (p piped) Look(ctx context.Context, r request[mountpb.KeyRequest]) (response[mountpb.Found], error) {
	return over(ctx, p, "Look", r, p.MountServiceClient.Look)
}

func (p piped) Exists(ctx context.Context, r request[mountpb.KeyRequest]) (response[mountpb.ExistsResponse], error) {
	return over(ctx, p, "Exists", r, p.MountServiceClient.Exists)
}

func (p piped) List(ctx context.Context, r request[mountpb.ListRequest]) (response[mountpb.Listing], error) {
	return over(ctx, p, "List", r, p.MountServiceClient.List)
}

func (p piped) Space(ctx context.Context, r request[mountpb.KeyRequest]) (response[mountpb.SpaceResponse], error) {
	return over(ctx, p, "Space", r, p.MountServiceClient.Space)
}

func (p piped) OpenReader(ctx context.Context, r request[mountpb.OpenReaderRequest]) (response[mountpb.OpenReaderResponse], error) {
	return over(ctx, p, "OpenReader", r, p.MountServiceClient.OpenReader)
}

func (p piped) CloseReader(ctx context.Context, r request[mountpb.CloseReaderRequest]) (response[mountpb.Empty], error) {
	return over(ctx, p, "CloseReader", r, p.MountServiceClient.CloseReader)
}

func (p piped) Begin(ctx context.Context, r request[mountpb.ChangeRequest]) (response[mountpb.BeginResponse], error) {
	return over(ctx, p, "Begin", r, p.MountServiceClient.Begin)
}

func (p piped) Abort(ctx context.Context, r request[mountpb.AbortRequest]) (response[mountpb.Empty], error) {
	return over(ctx, p, "Abort", r, p.MountServiceClient.Abort)
}

func (p piped) Stage(ctx context.Context, r request[mountpb.FileRequest]) (response[mountpb.Empty], error) {
	return over(ctx, p, "Stage", r, p.MountServiceClient.Stage)
}

func (p piped) Discard(ctx context.Context, r request[mountpb.DiscardRequest]) (response[mountpb.Empty], error) {
	return over(ctx, p, "Discard", r, p.MountServiceClient.Discard)
}

func (p piped) Publish(ctx context.Context, r request[mountpb.FileRequest]) (response[mountpb.Info], error) {
	return over(ctx, p, "Publish", r, p.MountServiceClient.Publish)
}

func (p piped) SetAttr(ctx context.Context, r request[mountpb.SetAttrRequest]) (response[mountpb.Info], error) {
	return over(ctx, p, "SetAttr", r, p.MountServiceClient.SetAttr)
}

func (p piped) Rename(ctx context.Context, r request[mountpb.RenameRequest]) (response[mountpb.Info], error) {
	return over(ctx, p, "Rename", r, p.MountServiceClient.Rename)
}

func (p piped) RenamePrefix(ctx context.Context, r request[mountpb.RenameRequest]) (response[mountpb.Empty], error) {
	return over(ctx, p, "RenamePrefix", r, p.MountServiceClient.RenamePrefix)
}

func (p piped) Remove(ctx context.Context, r request[mountpb.RemoveRequest]) (response[mountpb.Empty], error) {
	return over(ctx, p, "Remove", r, p.MountServiceClient.Remove)
}
