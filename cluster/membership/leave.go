package membership

import (
	"context"
	"fmt"
	"time"
)

// tellLimit is how long Leave and Renew take at most: each message is sent on a handful of times.
const tellLimit = 5 * time.Second

// Leave tells the others that this peer goes, so that they take it as left and not as dead. Call Close afterwards. It
// takes until ctx's deadline at most, or 5 s.
func (m *Membership) Leave(ctx context.Context) error {
	m.leave.Lock()
	defer m.leave.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("leave gossip: %w", err)
	}
	if m.closed {
		return errGateClosed
	}
	m.cancel()
	m.leaving = true
	if err := m.announce(); err != nil {
		return fmt.Errorf("leave gossip: %w", err)
	}
	// First the word that it goes, then memberlist's: that one alone looks like death to those who are told.
	if err := tell(ctx, m.list.UpdateNode, m.list.Leave); err != nil {
		return fmt.Errorf("leave gossip: %w", err)
	}
	return nil
}

// Renew signs what this peer tells of itself again, and tells the others: for when its key has changed. It takes until
// ctx's deadline at most, or 5 s. What is not told in time is told with the next exchange.
func (m *Membership) Renew(ctx context.Context) error {
	m.leave.Lock()
	defer m.leave.Unlock()
	if m.leaving || m.closed {
		return errGateClosed
	}
	if err := m.announce(); err != nil {
		return fmt.Errorf("renew member data: %w", err)
	}
	if err := tell(ctx, m.list.UpdateNode); err != nil {
		return fmt.Errorf("renew member data: %w", err)
	}
	return nil
}

// tell takes steps that each end within a time.
func tell(ctx context.Context, steps ...func(time.Duration) error) error {
	end := time.Now().Add(tellLimit)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(end) {
		end = deadline
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return context.DeadlineExceeded
		}
		if err := step(left); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the gossip without a word; the others find this peer dead unless it left. Joins that hang are given up.
func (m *Membership) Close() error {
	m.leave.Lock()
	defer m.leave.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	m.cancel()
	err := m.list.Shutdown()
	m.wait.Wait()
	if err != nil {
		return fmt.Errorf("close gossip: %w", err)
	}
	return nil
}
