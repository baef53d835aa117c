package root

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
)

// Errors of this package.
var (
	// ErrNotFound says that there is no such row.
	ErrNotFound = errors.New("no such root row")
	// ErrConflict says that a row has another revision than the change expected. Nothing was changed.
	ErrConflict = errors.New("root row was changed meanwhile")
	// ErrTooLarge says that a name, a value or a set of changes is over its limit.
	ErrTooLarge = errors.New("root row is too large")
)

// incarnationShift leaves the lower 48 bits of a block number to the counter; the incarnation stands above.
const incarnationShift = 48

// incarnationName is the row of kind Cluster that holds the incarnation: two bytes, big endian. Restoring the metadata
// from a backup must raise it, so that no chunk id is issued twice.
const incarnationName = "incarnation"

// Client reads and changes the root group through one replica.
type Client struct {
	group raft.Group
}

// NewClient returns a client of the group whose machine is a Machine.
func NewClient(group raft.Group) *Client { return &Client{group: group} }

// Row returns one row, ErrNotFound when there is none. It is linearizable, like all reads here.
func (c *Client) Row(ctx context.Context, kind Kind, name string) (Row, error) {
	if _, err := c.group.Barrier(ctx); err != nil {
		return Row{}, fmt.Errorf("root row %c %q: %w", kind, name, err)
	}
	row, found, err := readRow(c.group.State(), kind, name)
	if err == nil && !found {
		err = ErrNotFound
	}
	if err != nil {
		return Row{}, fmt.Errorf("root row %c %q: %w", kind, name, err)
	}
	return row, nil
}

// Rows returns up to max rows of a kind whose names begin with prefix and come after the given name, in order.
// max 0 means all.
func (c *Client) Rows(ctx context.Context, kind Kind, prefix, after string, max int) ([]Row, error) {
	if _, err := c.group.Barrier(ctx); err != nil {
		return nil, fmt.Errorf("root rows %c: %w", kind, err)
	}
	start := rowKey(kind, prefix)
	end := rowKey(kind+1, "")
	if after >= prefix && after != "" {
		start = append(rowKey(kind, after), 0)
	}
	it := c.group.State().Iterate(kv.Span{Start: start, End: end})
	defer it.Close()
	var rows []Row
	for (max == 0 || len(rows) < max) && it.Next() {
		name := it.Key()[3:]
		if !bytes.HasPrefix(name, []byte(prefix)) {
			break
		}
		row, err := decodeRow(kind, string(name), it.Value())
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("root rows %c: %w", kind, err)
	}
	return rows, nil
}

// PutRow writes a row if its revision is still the given one (0: it must not exist), else ErrConflict. It returns the
// row with its new revision.
func (c *Client) PutRow(ctx context.Context, row Row) (Row, error) {
	rows, err := c.PutRows(ctx, []Row{row})
	if err != nil {
		return Row{}, err
	}
	return rows[0], nil
}

// PutRows writes several rows, all of them or none.
func (c *Client) PutRows(ctx context.Context, rows []Row) ([]Row, error) {
	changes := make([]change, len(rows))
	size := 0
	for i, row := range rows {
		if len(row.Name) > MaxName || len(row.Value) > MaxValue {
			return nil, fmt.Errorf("root row %c %q: %w", row.Kind, row.Name, ErrTooLarge)
		}
		size += len(row.Name) + len(row.Value) + 32
		changes[i] = change{row: row}
	}
	if size > maxBatch {
		return nil, fmt.Errorf("%d root rows: %w", len(rows), ErrTooLarge)
	}
	return c.change(ctx, changes)
}

// Change writes and removes rows in one command: all of it or nothing. Revisions are compared as by PutRow and DeleteRow.
func (c *Client) Change(ctx context.Context, put, remove []Row) ([]Row, error) {
	changes := make([]change, 0, len(put)+len(remove))
	size := 0
	for _, row := range put {
		if len(row.Name) > MaxName || len(row.Value) > MaxValue {
			return nil, fmt.Errorf("root row %c %q: %w", row.Kind, row.Name, ErrTooLarge)
		}
		size += len(row.Name) + len(row.Value) + 32
		changes = append(changes, change{row: row})
	}
	for _, row := range remove {
		size += len(row.Name) + 32
		changes = append(changes, change{row: Row{Kind: row.Kind, Name: row.Name, Revision: row.Revision}, remove: true, force: row.Revision == 0})
	}
	if size > maxBatch {
		return nil, fmt.Errorf("%d root rows: %w", len(changes), ErrTooLarge)
	}
	return c.change(ctx, changes)
}

// DeleteRow removes a row if its revision is still the given one; revision 0 removes whatever is there. Removing what
// is not there succeeds.
func (c *Client) DeleteRow(ctx context.Context, kind Kind, name string, revision uint64) error {
	row := Row{Kind: kind, Name: name, Revision: revision}
	_, err := c.change(ctx, []change{{row: row, remove: true, force: revision == 0}})
	return err
}

func (c *Client) change(ctx context.Context, changes []change) ([]Row, error) {
	out, err := c.propose(ctx, command{nonce: newNonce(), changes: changes})
	if err != nil {
		return nil, err
	}
	for i := range out.values {
		out.values[i].Value = bytes.Clone(out.values[i].Value)
	}
	return out.values, nil
}

// Allocate gives out a number of a counter that was never given out before. The first is 1.
func (c *Client) Allocate(ctx context.Context, counter Counter) (uint64, error) {
	out, err := c.propose(ctx, command{nonce: newNonce(), counter: counter, count: 1})
	return out.first, err
}

// LeaseBlock gives out a number for chunk ids that was never given out before, in any incarnation of the cluster: its
// upper 16 bits are the incarnation.
func (c *Client) LeaseBlock(ctx context.Context) (uint64, error) {
	incarnation, err := c.Incarnation(ctx)
	if err != nil {
		return 0, err
	}
	n, err := c.Allocate(ctx, Blocks)
	if err != nil {
		return 0, err
	}
	if n>>incarnationShift != 0 {
		return 0, fmt.Errorf("blocks of incarnation %d are used up", incarnation)
	}
	return uint64(incarnation)<<incarnationShift | n, nil
}

// Incarnation returns the cluster's incarnation; 0 before the first SetIncarnation.
func (c *Client) Incarnation(ctx context.Context) (uint16, error) {
	row, err := c.Row(ctx, Cluster, incarnationName)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(row.Value) != 2 {
		return 0, fmt.Errorf("incarnation row has %d bytes: %w", len(row.Value), errFormat)
	}
	return binary.BigEndian.Uint16(row.Value), nil
}

// SetIncarnation raises the incarnation, as a restore of the metadata must before anything is written.
func (c *Client) SetIncarnation(ctx context.Context, to uint16) error {
	row, err := c.Row(ctx, Cluster, incarnationName)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if len(row.Value) == 2 && binary.BigEndian.Uint16(row.Value) >= to {
		return fmt.Errorf("incarnation %d: %w", to, ErrConflict)
	}
	row.Kind, row.Name, row.Value = Cluster, incarnationName, binary.BigEndian.AppendUint16(nil, to)
	_, err = c.PutRow(ctx, row)
	return err
}

// retryAfter is how long propose waits before it repeats a command that was not accepted.
const retryAfter = 20 * time.Millisecond

// propose repeats the command until its outcome is known or ctx ends. Repeating is safe: changes carry a nonce, and a
// number given out twice over is merely skipped.
func (c *Client) propose(ctx context.Context, cmd command) (outcome, error) {
	b := cmd.encode()
	for {
		result, err := c.group.Propose(ctx, b)
		if err == nil {
			out, ok := result.(outcome)
			if !ok {
				return outcome{}, fmt.Errorf("root command: unexpected result %T", result)
			}
			return out, out.err
		}
		unsure := errors.Is(err, raft.ErrUnknownOutcome) || errors.Is(err, raft.ErrNotLeader)
		if !unsure || errors.Is(err, raft.ErrStopped) || ctx.Err() != nil {
			return outcome{}, fmt.Errorf("root command: %w", err)
		}
		timer := time.NewTimer(retryAfter)
		select {
		case <-ctx.Done():
			timer.Stop()
			return outcome{}, fmt.Errorf("root command: %w", err)
		case <-timer.C:
		}
	}
}

func newNonce() []byte {
	nonce := make([]byte, nonceSize)
	// crypto/rand.Read never fails since Go 1.24: it aborts the process instead.
	if _, err := rand.Read(nonce); err != nil {
		panic(err)
	}
	return nonce
}
