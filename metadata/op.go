package metadata

import (
	"context"

	"github.com/holdfast/holdfast/metadata/record"
	"github.com/holdfast/holdfast/metadata/tablet"
)

type opKey struct{}

// WithOp gives the write that is called with the context an Op, for methods whose arguments have none and for arguments
// with the zero Op: whoever carries a write to the leader can repeat it so, and it happens once. An Op among the
// arguments goes before it. What an upload or a stage belongs to is the session of the arguments alone.
func WithOp(ctx context.Context, op Op) context.Context { return context.WithValue(ctx, opKey{}, op) }

// OpFrom is what WithOp gave; the zero Op when there is none.
func OpFrom(ctx context.Context) Op {
	op, _ := ctx.Value(opKey{}).(Op)
	return op
}

// or is the Op, or when that is zero the context's.
func (o Op) or(ctx context.Context) Op {
	if o == (Op{}) {
		return OpFrom(ctx)
	}
	return o
}

// answered returns the result of the write of an Op, nil when it was not applied.
func (c *Catalog) answered(ctx context.Context, op Op) (*record.Result, error) {
	if op == (Op{}) {
		return nil, nil
	}
	s, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	result, err := tablet.Answered(s.r, op.Session, op.Seq)
	return result, unavailable(translate(err))
}
