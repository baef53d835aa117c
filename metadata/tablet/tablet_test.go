package tablet

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/kv/kvtest"
	"github.com/holdfast/holdfast/metadata/record"
)

// replica is a machine with its state.
type replica struct {
	t     *testing.T
	db    *kv.DB
	index uint64
}

func newReplica(t *testing.T) *replica {
	t.Helper()
	return &replica{t: t, db: kvtest.Open(t)}
}

func (r *replica) apply(term uint64, command []byte) Answer {
	r.t.Helper()
	r.index++
	b := r.db.NewBatch()
	answer := New().Apply(r.index, term, command, r.db, b).(Answer)
	if err := r.db.Write(b); err != nil {
		r.t.Fatal(err)
	}
	return answer
}

// do encodes a plan and applies it in term 1.
func (r *replica) do(p *Plan, session, seq uint64) Answer {
	r.t.Helper()
	b, err := p.Encode(1, session, seq)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.apply(1, b)
}

// rows are all rows of the state.
func (r *replica) rows() string {
	r.t.Helper()
	it := r.db.Iterate(kv.Span{})
	defer it.Close()
	var b bytes.Buffer
	for it.Next() {
		fmt.Fprintf(&b, "%x=%x\n", it.Key(), it.Value())
	}
	if err := it.Err(); err != nil {
		r.t.Fatal(err)
	}
	return b.String()
}

func (r *replica) get(key []byte, m proto.Message) bool {
	r.t.Helper()
	v, err := r.db.Get(key)
	if errors.Is(err, kv.ErrNotFound) {
		return false
	}
	if err == nil {
		err = proto.Unmarshal(v, m)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return true
}

func simple(seq uint64) *Plan {
	p := new(Plan)
	p.Put(record.Local('!', 1), []byte{byte(seq)})
	p.Usage(7).Objects++
	return p
}

func TestApplyRefusesWhatWasEvaluatedBefore(t *testing.T) {
	r := newReplica(t)
	encode := func(term, session, seq uint64) []byte {
		b, err := simple(seq).Encode(term, session, seq)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if a := r.apply(1, encode(7, 99, 1)); !errors.Is(a.Err, ErrStaleTerm) {
		t.Fatalf("other term: %+v", a)
	}
	if r.rows() != "" {
		t.Fatalf("a refused command changed\n%s", r.rows())
	}
	if a := r.apply(1, encode(1, 99, 1)); a.Err != nil || a.Repeated {
		t.Fatalf("first: %+v", a)
	}
	before := r.rows()
	if a := r.apply(1, encode(7, 99, 1)); !a.Repeated || a.Result.Seq != 1 {
		t.Fatalf("again, in another term: %+v", a)
	}
	if r.rows() != before {
		t.Fatal("a repeated command changed the state")
	}
	if a := r.apply(1, encode(1, 99, 1+Slots)); a.Err != nil {
		t.Fatalf("next of the slot: %+v", a)
	}
	if a := r.apply(1, encode(1, 99, 1)); !errors.Is(a.Err, ErrForgotten) {
		t.Fatalf("forgotten: %+v", a)
	}
	if _, err := Answered(r.db, 99, 1); !errors.Is(err, ErrForgotten) {
		t.Fatalf("forgotten answer: %v", err)
	}
	if result, err := Answered(r.db, 99, 1+Slots); err != nil || result.GetSeq() != 1+Slots {
		t.Fatalf("answer: %v %v", result, err)
	}
	if result, err := Answered(r.db, 99, 2); err != nil || result != nil {
		t.Fatalf("answer of what was not done: %v %v", result, err)
	}
}

func TestCommandOfAnotherEpochIsRefused(t *testing.T) {
	r := newReplica(t)
	b, err := simple(1).Encode(1, 9, 1)
	if err != nil {
		t.Fatal(err)
	}
	var c record.Command
	if err := proto.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	c.Epoch++
	if b, err = proto.Marshal(&c); err != nil {
		t.Fatal(err)
	}
	if a := r.apply(1, b); !errors.Is(a.Err, ErrStaleEpoch) {
		t.Fatalf("answer %+v", a)
	}
}

func TestFencedSessionsAreRefused(t *testing.T) {
	r := newReplica(t)
	for _, session := range []uint64{5, 7} {
		fence := new(Plan)
		fence.Fence(session)
		r.do(fence, 1, session)
	}
	refused := func(session, seq uint64) bool {
		return errors.Is(r.do(simple(seq), session, seq).Err, ErrFenced)
	}
	if !refused(5, 1) || refused(6, 1) || !refused(7, 1) {
		t.Fatal("fences of sessions 5 and 7")
	}
	below := new(Plan)
	below.FenceBelow(7)
	r.do(below, 8, 1)
	if !refused(5, 2) || !refused(6, 2) || !refused(7, 2) || refused(8, 2) {
		t.Fatal("watermark at 7")
	}
	if _, err := r.db.Get(record.Local(record.LocalFence, 5)); !errors.Is(err, kv.ErrNotFound) {
		t.Fatalf("a fence below the watermark is left: %v", err)
	}
	// What was applied before the fence is still answered.
	if a := r.do(simple(1), 6, 1); !a.Repeated {
		t.Fatalf("answer %+v", a)
	}
}

func TestMoveVersionTakesBodyAndLineageAlong(t *testing.T) {
	r := newReplica(t)
	id := &record.ID{Clock: 3, Random: 4}
	p := new(Plan)
	p.PutRecord(record.KeyRow(record.FamilyCurrent, 1, "a"), &record.Version{Id: id, Size: 9, Overflow: true, Null: true})
	p.PutRecord(record.VersionRow(record.FamilyBody, 1, "a", 3, 4), &record.Body{Inline: []byte("body")})
	r.do(p, 1, 1)
	move := new(Plan)
	next := &record.ID{Clock: 5, Random: 6}
	move.MoveVersion(1, "a", "b", next, false)
	r.do(move, 1, 2)
	var v record.Version
	if r.get(record.KeyRow(record.FamilyCurrent, 1, "a"), &v) || !r.get(record.KeyRow(record.FamilyCurrent, 1, "b"), &v) {
		t.Fatal("the version did not move")
	}
	if !proto.Equal(v.Id, next) || !proto.Equal(v.Lineage, id) || v.Null || v.Size != 9 {
		t.Fatalf("moved %v", &v)
	}
	var body record.Body
	if r.get(record.VersionRow(record.FamilyBody, 1, "a", 3, 4), &body) || !r.get(record.VersionRow(record.FamilyBody, 1, "b", 5, 6), &body) {
		t.Fatal("the body did not move")
	}
}

// TestReplicasAgree applies the same random commands, some of them twice and out of term, on two replicas.
func TestReplicasAgree(t *testing.T) {
	a, b := newReplica(t), newReplica(t)
	random := rand.New(rand.NewPCG(5, 5))
	var commands [][]byte
	for i := range 400 {
		p := new(Plan)
		for range random.IntN(4) {
			key := record.Opaque([]byte{byte(random.IntN(20))})
			switch random.IntN(4) {
			case 0:
				p.Delete(key)
			case 1:
				p.MoveRow(key, record.Opaque([]byte{byte(20 + random.IntN(20))}))
			case 2:
				p.Clear(record.Opaque([]byte{5}), record.Opaque([]byte{8}))
			default:
				p.Put(key, []byte{byte(i)})
			}
		}
		p.Usage(uint64(random.IntN(3))).Bytes += int64(random.IntN(100))
		p.Clock(uint64(random.IntN(1000)))
		command, err := p.Encode(uint64(1+random.IntN(5)/4), uint64(1+random.IntN(2)), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		commands = append(commands, command)
		if random.IntN(4) == 0 {
			commands = append(commands, commands[random.IntN(len(commands))])
		}
	}
	refused, repeated := 0, 0
	for _, command := range commands {
		x, y := a.apply(1, command), b.apply(1, command)
		if !errors.Is(x.Err, y.Err) || x.Repeated != y.Repeated {
			t.Fatalf("answers %+v and %+v", x, y)
		}
		if x.Err != nil {
			refused++
		}
		if x.Repeated {
			repeated++
		}
	}
	if a.rows() != b.rows() {
		t.Fatal("the replicas differ")
	}
	if refused == 0 || repeated == 0 {
		t.Fatalf("%d refused, %d repeated: nothing was tried", refused, repeated)
	}
}

func TestBytesThatNoPlanWritesPanic(t *testing.T) {
	r := newReplica(t)
	for name, command := range map[string][]byte{"noise": {0xff}, "another format": {0x08, 0x09}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was applied", name)
				}
			}()
			r.apply(1, command)
		}()
	}
}
