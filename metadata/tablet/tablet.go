// Package tablet is one range of the name space as a deterministic state machine. The leader evaluates a request
// against the state under latches and proposes effects (a Plan); every replica applies them, or refuses all of them:
//
//	term      evaluated in another term than the entry's: another leader may have changed what was read
//	epoch     the tablet was split or moved since
//	session   fenced: its lease is over, its stages may be published already
//	sequence  applied before: the stored Result is the answer; older than the session's slots: refused
//
// Followers read nothing but those four rows, usage counters and what compact effects name, so apply is the same
// everywhere and in every version of the program. Evaluation lives with the requests, in package metadata.
package tablet

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
)

// Slots is how many of its latest writes a session remembers: a retry comes within that many writes or is refused.
const Slots = 4096

// MaxCommand is the largest command in bytes.
const MaxCommand = 4 << 20

// clearLimit bounds the rows that one CLEAR effect removes: twice the slots of a session.
const clearLimit = 2 * Slots

// Errors that Apply answers with. Nothing was changed.
var (
	// ErrStaleTerm says that the command was evaluated in an earlier term: evaluate it again.
	ErrStaleTerm = errors.New("command of an earlier term")
	// ErrStaleEpoch says that the tablet's range changed: route and evaluate again.
	ErrStaleEpoch = errors.New("command of an earlier tablet epoch")
	// ErrFenced says that the session's lease is over.
	ErrFenced = errors.New("session is fenced")
	// ErrForgotten says that the sequence number is so old that the tablet cannot tell whether it was applied.
	ErrForgotten = errors.New("sequence number is older than the session's memory")
)

// Answer is what Apply returns: the Result of this command, or with Repeated of an earlier one with the same session
// and sequence; or Err and nothing changed.
type Answer struct {
	Result   *record.Result
	Repeated bool
	Err      error
}

// Epoch is the epoch of the one tablet that holds every key until it is split.
const Epoch = 1

// Machine is a tablet's raft.Machine. It holds no state of its own, so nothing can differ from the database.
type Machine struct{}

// New returns the machine of the tablet that holds every key.
func New() *Machine { return &Machine{} }

// families are the rows of a tablet, in order.
const families = "cegnpqrtuvw"

// Spans are the keys of the tablet.
func (*Machine) Spans() []kv.Span {
	spans := make([]kv.Span, len(families))
	for i := range spans {
		spans[i] = kv.Span{Start: []byte{families[i]}, End: []byte{families[i] + 1}}
	}
	return spans
}

// Restored has nothing to drop: every read goes to the state.
func (*Machine) Restored() {}

// Apply applies a command that a Plan encoded. It panics on bytes that no Plan writes, and when the state cannot be
// read: applying half of history is worse than stopping.
func (*Machine) Apply(_, term uint64, command []byte, r kv.Reader, b kv.Batch) any {
	var c record.Command
	if err := proto.Unmarshal(command, &c); err != nil {
		panic(fmt.Sprintf("tablet: command of %d bytes: %v", len(command), err))
	}
	if c.Format != record.Format {
		panic(fmt.Sprintf("tablet: command of format %d, this program knows %d", c.Format, record.Format))
	}
	a := applier{r: r, b: b}
	answer := a.admit(&c, term)
	if answer.Err != nil || answer.Repeated {
		return answer
	}
	for _, e := range c.Effects {
		a.effect(e)
	}
	a.count(c.Usage)
	a.fence(&c)
	a.advance(c.Clock)
	answer.Result = decodeResult(c.Result)
	if c.Session != 0 {
		b.Put(slotRow(c.Session, c.Seq), c.Result)
	}
	return answer
}

// applier applies one command. Effects of one command never read what the same command writes.
type applier struct {
	r kv.Reader
	b kv.Batch
}

// get reads a row, nil when there is none.
func (a applier) get(key []byte) []byte {
	v, err := a.r.Get(key)
	if err == nil {
		return v
	}
	if !errors.Is(err, kv.ErrNotFound) {
		panic(fmt.Sprintf("tablet: read row %x: %v", key, err))
	}
	return nil
}

// admit decides whether the command is applied.
func (a applier) admit(c *record.Command, term uint64) Answer {
	if c.Session != 0 {
		// A repeated write is answered before anything else: it happened, whatever has changed since.
		if v := a.get(slotRow(c.Session, c.Seq)); v != nil {
			switch result := decodeResult(v); {
			case result.Seq == c.Seq:
				return Answer{Result: result, Repeated: true}
			case result.Seq > c.Seq:
				return Answer{Err: ErrForgotten}
			}
		}
		switch fenced, err := Fenced(a.r, c.Session); {
		case err != nil:
			panic(fmt.Sprintf("tablet: %v", err))
		case fenced:
			return Answer{Err: ErrFenced}
		}
	}
	switch {
	case c.Term != term:
		return Answer{Err: ErrStaleTerm}
	case c.Epoch != Epoch:
		return Answer{Err: ErrStaleEpoch}
	}
	return Answer{}
}

func (a applier) effect(e *record.Effect) {
	switch e.Kind {
	case record.Effect_PUT:
		a.b.Put(e.Key, e.Value)
	case record.Effect_DELETE:
		a.b.Delete(e.Key)
	case record.Effect_MOVE_ROW:
		if v := a.get(e.Key); v != nil {
			a.b.Put(e.Value, v)
			a.b.Delete(e.Key)
		}
	case record.Effect_MOVE_VERSION:
		a.moveVersion(e)
	case record.Effect_ADOPT:
		a.adopt(e)
	case record.Effect_CLEAR:
		a.clear(kv.Span{Start: e.Key, End: e.Value})
	default:
		panic(fmt.Sprintf("tablet: effect of kind %d", e.Kind))
	}
}

// moveVersion gives the current version of one key to another. The leader saw both under its latches.
func (a applier) moveVersion(e *record.Effect) {
	from, to := string(e.From), string(e.To)
	source := record.KeyRow(record.FamilyCurrent, e.Bucket, from)
	var v record.Version
	raw := a.get(source)
	if raw == nil {
		panic(fmt.Sprintf("tablet: version to move is missing: bucket %d key %q", e.Bucket, e.From))
	}
	if err := proto.Unmarshal(raw, &v); err != nil {
		panic(fmt.Sprintf("tablet: version of bucket %d key %q: %v", e.Bucket, e.From, err))
	}
	if v.Overflow {
		body := record.VersionRow(record.FamilyBody, e.Bucket, from, v.Id.GetClock(), v.Id.GetRandom())
		a.b.Put(record.VersionRow(record.FamilyBody, e.Bucket, to, e.Id.GetClock(), e.Id.GetRandom()), a.get(body))
		a.b.Delete(body)
	}
	if v.Lineage == nil {
		v.Lineage = v.Id // the chain began with it
	}
	v.Id, v.Null = e.Id, e.Null
	a.b.Delete(source)
	a.b.Put(record.KeyRow(record.FamilyCurrent, e.Bucket, to), marshal(&v))
}

// adopt marks a part row as adopted by a version.
func (a applier) adopt(e *record.Effect) {
	raw := a.get(e.Key)
	var p record.Part
	if raw == nil {
		panic(fmt.Sprintf("tablet: part to adopt is missing: row %x", e.Key))
	}
	if err := proto.Unmarshal(raw, &p); err != nil {
		panic(fmt.Sprintf("tablet: part row %x: %v", e.Key, err))
	}
	p.Adopted, p.Rest = true, e.Value
	a.b.Put(e.Key, marshal(&p))
}

func (a applier) clear(span kv.Span) {
	it := a.r.Iterate(span)
	defer it.Close()
	for n := 0; n < clearLimit && it.Next(); n++ {
		a.b.Delete(append([]byte(nil), it.Key()...))
	}
	if err := it.Err(); err != nil {
		panic(fmt.Sprintf("tablet: clear rows from %x: %v", span.Start, err))
	}
}

// count adds to the exact usage of buckets.
func (a applier) count(deltas []*record.Usage) {
	for _, d := range deltas {
		key := record.Local(record.LocalUsage, d.Bucket)
		var u record.Usage
		if err := proto.Unmarshal(a.get(key), &u); err != nil {
			panic(fmt.Sprintf("tablet: usage of bucket %d: %v", d.Bucket, err))
		}
		AddUsage(&u, d)
		a.b.Put(key, marshal(&u))
	}
}

// AddUsage adds a delta to counters.
func AddUsage(u, delta *record.Usage) {
	u.Bucket = delta.Bucket
	u.Objects += delta.Objects
	u.Bytes += delta.Bytes
	u.Versions += delta.Versions
	u.VersionBytes += delta.VersionBytes
	u.Uploads += delta.Uploads
	u.Parts += delta.Parts
	u.PartBytes += delta.PartBytes
}

func (a applier) fence(c *record.Command) {
	if c.Fence != 0 {
		a.b.Put(record.Local(record.LocalFence, c.Fence), []byte{1})
	}
	if c.FenceBelow != 0 {
		// All sessions below the watermark are refused by it: their own rows can go.
		a.clear(kv.Span{Start: record.Local(record.LocalFence, 1), End: record.Local(record.LocalFence, c.FenceBelow)})
		a.b.Put(record.Local(record.LocalFence, 0), binary.BigEndian.AppendUint64(nil, c.FenceBelow))
	}
}

// advance raises the high-water of the logical clock.
func (a applier) advance(clock uint64) {
	now, err := Clock(a.r)
	if err != nil {
		panic(fmt.Sprintf("tablet: %v", err))
	}
	if clock > now {
		a.b.Put(record.Local(record.LocalClock), binary.BigEndian.AppendUint64(nil, clock))
	}
}

// Clock is the high-water of the tablet's logical clock: every version id up to now is not above it.
func Clock(r kv.Reader) (uint64, error) {
	v, err := r.Get(record.Local(record.LocalClock))
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read the tablet's clock: %w", err)
	case len(v) != 8:
		return 0, fmt.Errorf("clock row of %d bytes: %w", len(v), record.ErrKey)
	}
	return binary.BigEndian.Uint64(v), nil
}

// Fenced tells whether the writes of a session are refused here.
func Fenced(r kv.Reader, session uint64) (bool, error) {
	switch v, err := r.Get(record.Local(record.LocalFence, 0)); {
	case err != nil && !errors.Is(err, kv.ErrNotFound):
		return false, fmt.Errorf("read fence: %w", err)
	case err == nil && len(v) == 8 && session < binary.BigEndian.Uint64(v):
		return true, nil
	}
	_, err := r.Get(record.Local(record.LocalFence, session))
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return false, fmt.Errorf("read fence of session %d: %w", session, err)
	}
	return err == nil, nil
}

// Answered returns the Result of an applied write, nil when the session's memory has none.
func Answered(r kv.Reader, session, seq uint64) (*record.Result, error) {
	v, err := r.Get(slotRow(session, seq))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var result record.Result
	if err := proto.Unmarshal(v, &result); err != nil {
		return nil, fmt.Errorf("result of session %d write %d: %w", session, seq, err)
	}
	switch {
	case result.Seq == seq:
		return &result, nil
	case result.Seq > seq:
		return nil, ErrForgotten
	}
	return nil, nil
}

// slotRow is where the result of a write is kept: the next write but Slots overwrites it.
func slotRow(session, seq uint64) []byte {
	return record.Local(record.LocalSlot, session, seq%Slots)
}

func decodeResult(b []byte) *record.Result {
	var result record.Result
	if err := proto.Unmarshal(b, &result); err != nil {
		panic(fmt.Sprintf("tablet: result of %d bytes: %v", len(b), err))
	}
	return &result
}

func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("tablet: encode %T: %v", m, err))
	}
	return b
}
