package root

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/cluster/raft"
)

// Errors of this package.
var (
	// ErrNotFound says that there is no such row.
	ErrNotFound = errors.New("no such root row")
	// ErrConflict says that a row has another revision than the change expected. Nothing was changed: read again.
	ErrConflict = errors.New("root row was changed meanwhile")
	// ErrTooLarge says that a name, a value, a set of changes or the rows of a read are over their limit.
	ErrTooLarge = errors.New("root row is too large")
	// ErrUnavailable says that the root group gave no answer in time. A change is not made, unless the error is
	// raft.ErrUnknownOutcome as well.
	ErrUnavailable = errors.New("the root group does not answer")
)

// incarnationShift leaves the lower 48 bits of a block number to the counter; the incarnation stands above.
const incarnationShift = 48

// incarnationName is the row of kind Cluster that holds the incarnation: two bytes, big endian. Restoring the metadata
// from a backup must raise it, so that no chunk id is issued twice.
const incarnationName = "incarnation"

// Client reads and changes the root group. It may be used concurrently.
//
// A change that fails with raft.ErrUnknownOutcome may have been made, or may still be; every other error says that it
// was not. Whoever repeats it then as a change of its own gets ErrConflict if it was made, and reads again.
type Client struct {
	seat Seat
}

// NewClient returns a client of the replica of this peer, whose machine is a Machine. It repeats a change until its
// outcome is known or the context ends.
func NewClient(group raft.Group) *Client {
	return At(insistent{Local(func() raft.Group { return group })})
}

// At returns a client that asks at a seat: a Router, so that it works wherever the leader is.
func At(seat Seat) *Client { return &Client{seat: seat} }

// Row returns one row, ErrNotFound when there is none. It is linearizable, like all reads here.
func (c *Client) Row(ctx context.Context, kind Kind, name string) (Row, error) {
	row, err := c.seat.Row(ctx, kind, name)
	if err != nil {
		return Row{}, fmt.Errorf("root row %c %q: %w", kind, name, err)
	}
	return row, nil
}

// Rows returns up to max rows of a kind whose names begin with prefix and come after the given name, in order, as of
// one moment. max 0 means all. More than 64 MiB are not read at once (names, values, and 64 bytes for each row):
// ErrTooLarge, ask for less.
func (c *Client) Rows(ctx context.Context, kind Kind, prefix, after string, max int) ([]Row, error) {
	rows, err := c.seat.Rows(ctx, Query{kind, prefix, after, max})
	if err != nil {
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
	return c.Change(ctx, rows, nil)
}

// Change writes and removes rows, all of them or none. Each must have the revision that is given: 0 means for a row to
// write that it must not exist, and for one to remove whatever is there, or nothing. With another revision a row to
// remove must be there, so a row that only one may use is used up by removing it. ErrConflict says that some row was
// otherwise and nothing was changed. No row may be named twice. Change returns the rows that it wrote, with their new
// revisions.
func (c *Client) Change(ctx context.Context, put []Row, remove []Row) ([]Row, error) {
	changes := make([]change, 0, len(put)+len(remove))
	for _, row := range put {
		changes = append(changes, change{row: row})
	}
	for _, row := range remove {
		row.Value = nil
		changes = append(changes, change{row: row, remove: true, force: row.Revision == 0, present: row.Revision != 0})
	}
	if err := c.change(ctx, changes); err != nil {
		return nil, err
	}
	rows := make([]Row, len(put))
	for i, row := range put {
		row.Value = bytes.Clone(row.Value)
		row.Revision++
		rows[i] = row
	}
	return rows, nil
}

// DeleteRow removes a row if its revision is still the given one; revision 0 removes whatever is there. Removing what
// is not there succeeds.
func (c *Client) DeleteRow(ctx context.Context, kind Kind, name string, revision uint64) error {
	row := Row{Kind: kind, Name: name, Revision: revision}
	return c.change(ctx, []change{{row: row, remove: true, force: revision == 0}})
}

func (c *Client) change(ctx context.Context, changes []change) error {
	if len(changes) == 0 {
		return nil
	}
	_, err := c.propose(ctx, command{nonce: newNonce(), changes: changes})
	return err
}

// Allocate gives out a number of a counter that was never given out before. The first is 1.
func (c *Client) Allocate(ctx context.Context, counter Counter) (uint64, error) {
	return c.propose(ctx, command{nonce: newNonce(), counter: counter, count: 1})
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

// propose returns the first of the numbers that a command gave out.
func (c *Client) propose(ctx context.Context, cmd command) (uint64, error) {
	if err := cmd.check(); err != nil {
		return 0, err
	}
	first, err := c.seat.Propose(ctx, cmd.encode())
	if err != nil {
		return 0, fmt.Errorf("root command: %w", err)
	}
	return first, nil
}

func newNonce() []byte {
	nonce := make([]byte, nonceSize)
	// crypto/rand.Read never fails since Go 1.24: it aborts the process instead.
	if _, err := rand.Read(nonce); err != nil {
		panic(err)
	}
	return nonce
}
