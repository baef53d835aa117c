package remote

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/holdfast/holdfast/fusefs/remote/mountpb"
)

// learnEvery is how many renewals pass between two questions for the gateways: 30 s.
const learnEvery = 10

// renew keeps the lease until Close, and asks now and then which gateways there are. It is also what finds out that the
// gateway of a mount that does nothing has failed.
func (c *Client) renew() {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-c.lifetime.Done():
			return
		case now := <-tick.C:
			c.expirePipes(now)
		}
		if err := c.renewOnce(c.lifetime, n%learnEvery == 0); err != nil && c.lifetime.Err() == nil {
			c.log.Warn("lease was not renewed", "bucket", c.config.Bucket, "err", err)
		}
	}
}

func (c *Client) renewOnce(ctx context.Context, learn bool) error {
	res, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.SessionResponse], error) {
		return s.RenewSession(ctx, connect.NewRequest(&mountpb.SessionRequest{Session: c.session, Gateways: learn}))
	})
	c.learn(res.GetGateways())
	return err
}

// watch gives a gateway up that is silent while it is asked for something, where there is another one. A gateway may
// think about one request for long; so it is asked for a sign of life first, which needs the session and the names.
func (c *Client) watch(ctx context.Context) {
	stall := c.config.Stall
	tick := time.NewTicker(stall / 8)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		at := c.at.Load()
		before := last
		if last = time.Now(); last.Sub(before) > stall {
			at.hear() // this process stood still, and has not looked at what came since
		}
		if c.known.count() < 2 || at.life.Err() != nil {
			continue
		}
		switch silent := at.silent(); {
		case silent > 2*stall:
			c.log.Warn("a gateway does not answer", "gateway", at.base, "took", silent)
			at.end(errSilent)
		case silent > stall && at.probing.CompareAndSwap(false, true):
			c.watched.Go(func() { c.probe(ctx, at) })
		}
	}
}

var errSilent = errors.New("the gateway does not answer")

// probe asks for a sign of life.
func (c *Client) probe(ctx context.Context, at *stay) {
	defer at.probing.Store(false)
	ctx, cancel := context.WithTimeout(ctx, c.config.Stall)
	defer cancel()
	defer context.AfterFunc(at.life, cancel)()
	_, err := at.service.RenewSession(ctx, connect.NewRequest(&mountpb.SessionRequest{Session: c.session}))
	if err = fromWire(err); err == nil || errors.Is(err, errNoSession) {
		at.hear()
	}
}
