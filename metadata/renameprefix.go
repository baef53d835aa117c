package metadata

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/metadata/record"
)

// Bounds of one command of a prefix rename: keys, bytes of the records that it moves, and of the names in the command.
// A rename within them is one atomic command; a larger one is a journaled job of such commands.
const (
	renameKeys  = 8192
	renameBytes = 4 << 20
	renameNames = 1 << 20
)

// renameOverhead is about what a moved key costs in a command beside its two names; a delete marker is as much again.
const renameOverhead = 100

// ErrBadRename says that a prefix cannot be renamed to the other: one holds the other, or is empty.
var ErrBadRename = errors.New("prefix cannot be renamed like that")

// RenamePrefix moves every current key below from (which ends with "/") to the same name below to. Up to 8,192 keys
// with 4 MiB of records and 1 MiB of names move as one command; more of them in several, and no other write below the two prefixes
// comes between them. After a crash the rest follows before writes are served. No key is ever under both names or
// neither. ErrDirNotEmpty when to holds keys other than its marker, ErrNoSuchKey when from holds none. When ctx ends
// early, the move goes on. Repeated with the same Op it returns when the whole of it is done.
func (c *Catalog) RenamePrefix(ctx context.Context, bucket BucketID, from, to string) error {
	if !strings.HasSuffix(from, "/") || !strings.HasSuffix(to, "/") || strings.HasPrefix(to, from) || strings.HasPrefix(from, to) {
		return fmt.Errorf("%q to %q: %w", from, to, ErrBadRename)
	}
	op := OpFrom(ctx)
	job := prefixRename{c, &record.Rename{Bucket: uint64(bucket), From: []byte(from), To: []byte(to), Started: fromTime(c.config.Now())}}
	if err := c.admit(); err != nil {
		return err
	}
	held, err := c.latches.acquire(ctx, job.spans()...)
	if err != nil {
		c.work.Done()
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer c.work.Done()
		defer c.latches.release(held)
		done <- job.run(c.life, op)
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("rename prefix %q to %q: %w", from, to, unavailable(err))
	}
	return nil
}

// prefixRename is one rename under the latches of both prefixes.
type prefixRename struct {
	c *Catalog
	r *record.Rename
}

func (j prefixRename) bucket() BucketID { return BucketID(j.r.Bucket) }
func (j prefixRename) from() string     { return string(j.r.From) }
func (j prefixRename) to() string       { return string(j.r.To) }

func (j prefixRename) spans() []latchSpan {
	return []latchSpan{prefixLatch(j.bucket(), j.from()), prefixLatch(j.bucket(), j.to())}
}

func (j prefixRename) journalRow() []byte {
	return record.AppendEscaped(record.Local(record.LocalRename, j.r.Bucket), j.from())
}

// run does it in one command, or writes the journal and goes on with the first piece and the rest.
func (j prefixRename) run(ctx context.Context, op Op) error {
	whole := false
	out, err := j.c.write(ctx, op, nil, func(e *evaluation) error {
		if err := j.allowed(e); err != nil {
			return err
		}
		var err error
		if whole, err = j.piece(e); err == nil && !whole {
			e.plan.PutRecord(j.journalRow(), j.r)
		}
		return err
	})
	if err == nil && out.repeated {
		// The latches were free: it is done, or it stopped in its middle.
		whole, err = j.over(ctx)
	}
	if err != nil || whole {
		return err
	}
	if err = j.rest(ctx); errors.Is(err, ErrUnavailable) {
		err = fmt.Errorf("%w: %w", raft.ErrUnknownOutcome, err) // the journal is there: the next Catalog goes on
	}
	return err
}

// over tells that the journal has no such rename.
func (j prefixRename) over(ctx context.Context) (bool, error) {
	s, err := j.c.read(ctx)
	if err != nil {
		return false, err
	}
	found, err := s.get(j.journalRow(), new(record.Rename))
	return !found, err
}

// allowed checks what only holds before the first key moved.
func (j prefixRename) allowed(e *evaluation) error {
	if _, err := e.bucket(j.bucket()); err != nil {
		return err
	}
	switch others, err := e.anyBelow(j.bucket(), j.to(), true); {
	case err != nil:
		return err
	case others:
		return ErrDirNotEmpty
	}
	switch any, err := e.anyBelow(j.bucket(), j.from(), false); {
	case err != nil:
		return err
	case !any:
		return ErrNoSuchKey
	}
	return nil
}

// rest moves what is left of a journaled rename, and then removes the journal row with the last piece.
func (j prefixRename) rest(ctx context.Context) error {
	for whole := false; !whole; {
		_, err := j.c.write(ctx, Op{}, nil, func(e *evaluation) error {
			var err error
			if whole, err = j.piece(e); err == nil && whole {
				e.plan.Delete(j.journalRow())
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// piece plans the move of as many keys as one command takes, and tells whether they are all.
func (j prefixRename) piece(e *evaluation) (whole bool, err error) {
	b, err := e.state.bucket(j.bucket())
	if err != nil {
		return false, err
	}
	usage, err := e.usage(j.bucket())
	if err != nil {
		return false, err
	}
	rows := record.PrefixRows(record.FamilyCurrent, j.r.Bucket, j.from())
	it := e.r.Iterate(kv.Span{Start: rows, End: record.After(rows)})
	defer it.Close()
	keys, size, names := 0, 0, 0
	for it.Next() {
		_, key, _, err := record.SplitKeyRow(it.Key())
		if err != nil {
			return false, fmt.Errorf("row %x: %w", it.Key(), err)
		}
		v := new(record.Version)
		if err := proto.Unmarshal(it.Value(), v); err != nil {
			return false, fmt.Errorf("row %x: %w", it.Key(), err)
		}
		cost := len(it.Key()) + len(it.Value())
		if v.Overflow {
			body, err := e.r.Get(bodyRow(j.bucket(), key, v.Id))
			if err != nil {
				return false, fmt.Errorf("body of %q: %w", key, err)
			}
			cost += len(body)
		}
		if keys > 0 && (keys == renameKeys || size+cost > renameBytes || names > renameNames) {
			return false, nil
		}
		keys, size, names = keys+1, size+cost, names+2*len(key)+renameOverhead
		source := target{j.bucket(), Versioning(b.Versioning), key, v}
		if err := j.move(e, source, usage.Versions > 0); err != nil {
			return false, err
		}
	}
	return true, it.Err()
}

// move plans one key's move.
func (j prefixRename) move(e *evaluation, source target, versions bool) error {
	key := j.to() + strings.TrimPrefix(source.key, j.from())
	if err := checkKey(key); err != nil {
		return err
	}
	id, err := e.newID()
	if err != nil {
		return err
	}
	moved := &record.Version{Id: id, Null: source.versioning != VersioningEnabled}
	current, err := e.current(j.bucket(), key)
	if err != nil {
		return err
	}
	if err := e.clearFor(target{j.bucket(), source.versioning, key, current}, moved, nil); err != nil {
		return err
	}
	e.plan.MoveVersion(j.r.Bucket, source.key, key, id, moved.Null)
	// The object is still one object of the bucket: what vacate takes off is put on.
	u := source.usage(e)
	u.Objects++
	u.Bytes += source.current.Size
	if versions {
		return e.vacate(source)
	}
	u.Objects--
	u.Bytes -= source.current.Size
	return nil
}

// resumeRenames takes up the prefix renames that a crash interrupted: their latches are taken before anything is
// served, the work is done beside it.
func (c *Catalog) resumeRenames(ctx context.Context) error {
	s, err := c.read(ctx)
	if err != nil {
		return err
	}
	it := s.r.Iterate(kv.Span{Start: record.Local(record.LocalRename), End: record.Local(record.LocalRename + 1)})
	defer it.Close()
	for it.Next() {
		job := prefixRename{c, new(record.Rename)}
		if err := proto.Unmarshal(it.Value(), job.r); err != nil {
			return fmt.Errorf("journal row %x: %w", it.Key(), err)
		}
		if err := c.resumeRename(ctx, job); err != nil {
			return err
		}
	}
	return unavailable(it.Err())
}

func (c *Catalog) resumeRename(ctx context.Context, job prefixRename) error {
	if err := c.admit(); err != nil {
		return err
	}
	held, err := c.latches.acquire(ctx, job.spans()...)
	if err != nil {
		c.work.Done()
		return err
	}
	go func() {
		defer c.work.Done()
		defer c.latches.release(held)
		if err := job.rest(c.life); err != nil && !c.over(err) {
			c.log.Error("prefix rename is not finished", "bucket", job.r.Bucket, "from", job.from(), "to", job.to(), "err", err)
		}
	}()
	return nil
}
