package tablet

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/metadata/record"
)

// ErrTooLarge says that a plan does not fit one command.
var ErrTooLarge = errors.New("command is larger than 4 MiB")

// Plan gathers the effects of one write while it is evaluated. The zero Plan changes nothing.
type Plan struct {
	command record.Command
	usage   map[uint64]*record.Usage
	// Result is what the write answers, also to a retry.
	Result record.Result
}

// Put sets a row.
func (p *Plan) Put(key []byte, value []byte) {
	p.add(&record.Effect{Kind: record.Effect_PUT, Key: key, Value: value})
}

// PutRecord sets a row to a record.
func (p *Plan) PutRecord(key []byte, m proto.Message) { p.Put(key, marshal(m)) }

// Delete removes a row.
func (p *Plan) Delete(key []byte) {
	p.add(&record.Effect{Kind: record.Effect_DELETE, Key: key})
}

// MoveRow gives the value of one row to another key.
func (p *Plan) MoveRow(from, to []byte) {
	p.add(&record.Effect{Kind: record.Effect_MOVE_ROW, Key: from, Value: to})
}

// MoveVersion makes the current version of from the current one of to, which has none, with a new id. It names keys,
// not values, so that a directory rename is a small command.
func (p *Plan) MoveVersion(bucket uint64, from, to string, id *record.ID, null bool) {
	p.add(&record.Effect{Kind: record.Effect_MOVE_VERSION, Bucket: bucket, From: []byte(from), To: []byte(to), Id: id, Null: null})
}

// Adopt marks a part row as adopted, rest being what its version does not name.
func (p *Plan) Adopt(row, rest []byte) {
	p.add(&record.Effect{Kind: record.Effect_ADOPT, Key: row, Value: rest})
}

// Clear removes the rows from start up to end, at most 8,192 of them.
func (p *Plan) Clear(start, end []byte) {
	p.add(&record.Effect{Kind: record.Effect_CLEAR, Key: start, Value: end})
}

// Fence makes every later write of a session be refused.
func (p *Plan) Fence(session uint64) { p.command.Fence = session }

// FenceBelow makes every later write of the sessions below the given one be refused.
func (p *Plan) FenceBelow(session uint64) { p.command.FenceBelow = session }

// Usage is the change of a bucket's counters, to be added to.
func (p *Plan) Usage(bucket uint64) *record.Usage {
	if p.usage == nil {
		p.usage = make(map[uint64]*record.Usage, 1)
	}
	u := p.usage[bucket]
	if u == nil {
		u = &record.Usage{Bucket: bucket}
		p.usage[bucket] = u
		p.command.Usage = append(p.command.Usage, u)
	}
	return u
}

// Clock says that the plan uses the logical clock up to clock.
func (p *Plan) Clock(clock uint64) { p.command.Clock = max(p.command.Clock, clock) }

// Empty tells whether the plan changes nothing.
func (p *Plan) Empty() bool {
	return len(p.command.Effects) == 0 && p.command.Fence == 0 && p.command.FenceBelow == 0
}

func (p *Plan) add(e *record.Effect) { p.command.Effects = append(p.command.Effects, e) }

// Encode writes the command of a write: evaluated in term, by (session, seq).
func (p *Plan) Encode(term, session, seq uint64) ([]byte, error) {
	p.Result.Seq = seq
	p.command.Format = record.Format
	p.command.Epoch = Epoch
	p.command.Term = term
	p.command.Session, p.command.Seq = session, seq
	p.command.Result = marshal(&p.Result)
	b, err := proto.Marshal(&p.command)
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	if len(b) > MaxCommand {
		return nil, fmt.Errorf("command of %d bytes: %w", len(b), ErrTooLarge)
	}
	return b, nil
}
