package metadata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
)

func stageRow(k StageKey) []byte { return record.Local(record.LocalStage, k.Session, k.Inode) }

// stage reads a stage row, nil when there is none.
func (s state) stage(k StageKey) (*record.Stage, error) {
	var r record.Stage
	found, err := s.get(stageRow(k), &r)
	if !found {
		return nil, err
	}
	return &r, nil
}

// Stage makes s durable without publishing it, in place of an earlier stage of the same key. When the session ends, it
// is published. ErrConflict when it Keeps a base that is gone.
func (c *Catalog) Stage(ctx context.Context, s Stage) error {
	if s.Inode == 0 {
		return errors.New("stage: inode 0 names no file")
	}
	if err := s.Put.validate(); err != nil {
		return err
	}
	if !c.sessions.alive(s.Session) {
		return fmt.Errorf("stage %q: %w", s.Put.Version.Key, ErrSessionFenced)
	}
	intents := Put{Intents: s.Put.Intents}
	spans := append(intents.spans(), stageLatch(s.StageKey), keyLatch(s.Put.Bucket, s.Put.Version.Key))
	_, err := c.write(ctx, OpFrom(ctx), spans, func(e *evaluation) error {
		if fenced, err := e.fenced(s.Session); err != nil || fenced {
			return errors.Join(err, ErrSessionFenced)
		}
		if _, err := e.bucket(s.Put.Bucket); err != nil {
			return err
		}
		r := fromStage(s)
		if r.Version.Modified.Seconds == zeroSeconds {
			r.Version.Modified = fromTime(e.now)
		}
		if s.Put.Keeps {
			if err := e.holdBase(s, r); err != nil {
				return err
			}
		}
		if err := e.dropStageFor(s.StageKey, r); err != nil {
			return err
		}
		e.plan.PutRecord(stageRow(s.StageKey), r)
		return e.putRows(s.Put.Intents)
	})
	if err != nil {
		return fmt.Errorf("stage %q: %w", s.Put.Version.Key, err)
	}
	return nil
}

// holdMargin is how long before its time a freed base counts as gone: longer than any commit takes.
const holdMargin = time.Minute

// holdBase makes the chunks of a stage's base wait for it.
func (e *evaluation) holdBase(s Stage, r *record.Stage) error {
	l, until, err := e.lineageOf(s.Put.Bucket, s.Put.Version.Key, s.Put.If.Base)
	if err == nil && !until.IsZero() && !e.now.Before(until.Add(-holdMargin)) {
		// Its chunks may be deleted by the time this is committed, unless somebody holds them already.
		var held bool
		if held, err = e.held(s.Put.Bucket, l); err == nil && !held {
			err = ErrNoSuchVersion
		}
	}
	if errors.Is(err, ErrNoSuchVersion) {
		return fmt.Errorf("base: %w: %w", ErrConflict, err)
	}
	if err != nil {
		return err
	}
	r.Lineage = l
	return nil
}

// dropStage removes a stage row, if it is there, and frees its Own unless it equals keep.
func (e *evaluation) dropStage(k StageKey, keep []byte) error {
	return e.dropStageFor(k, &record.Stage{Own: keep})
}

// dropStageFor removes a stage row in favour of next, whose hold is set if it has one.
func (e *evaluation) dropStageFor(k StageKey, next *record.Stage) error {
	old, err := e.stage(k)
	if err != nil {
		return err
	}
	if old != nil {
		e.plan.Delete(stageRow(k))
		if old.Lineage != nil {
			e.plan.Delete(stageHoldRow(old, k))
		}
		if !bytes.Equal(old.Own, next.Own) {
			if err := e.freeManifest(BucketID(old.Bucket), string(old.Key), false, old.Own); err != nil {
				return err
			}
		}
	}
	if next.Lineage != nil {
		e.plan.Put(stageHoldRow(next, k), nil)
	}
	return nil
}

// Discard forgets a stage and frees its Own. Discarding what is not there is no error.
func (c *Catalog) Discard(ctx context.Context, k StageKey) error {
	_, err := c.write(ctx, OpFrom(ctx), []latchSpan{stageLatch(k)}, func(e *evaluation) error {
		return e.dropStage(k, nil)
	})
	if err != nil {
		return fmt.Errorf("discard stage of inode %d: %w", k.Inode, err)
	}
	return nil
}

// Staged lists all stages.
func (c *Catalog) Staged(ctx context.Context) ([]Stage, error) {
	s, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	stages, err := s.stages(kv.Span{Start: record.Local(record.LocalStage), End: record.Local(record.LocalStage + 1)})
	return stages, unavailable(err)
}

func (s state) stages(span kv.Span) ([]Stage, error) {
	it := s.r.Iterate(span)
	defer it.Close()
	var out []Stage
	for it.Next() {
		n, _, err := record.LocalNumbers(it.Key(), 2)
		if err != nil {
			return nil, fmt.Errorf("stage row %x: %w", it.Key(), err)
		}
		var r record.Stage
		if err := proto.Unmarshal(it.Value(), &r); err != nil {
			return nil, fmt.Errorf("stage row %x: %w", it.Key(), err)
		}
		out = append(out, toStage(StageKey{Session: n[0], Inode: n[1]}, &r))
	}
	return out, it.Err()
}

// publishStages publishes what a session that ended had staged.
func (c *Catalog) publishStages(ctx context.Context, session uint64) error {
	s, err := c.read(ctx)
	if err != nil {
		return err
	}
	stages, err := s.stages(kv.Span{
		Start: record.Local(record.LocalStage, session), End: record.Local(record.LocalStage, session+1),
	})
	if err != nil {
		return unavailable(err)
	}
	// One that cannot be published stays, and the session with it; it does not keep the others back.
	var errs []error
	for _, stage := range stages {
		errs = append(errs, c.publish(ctx, stage))
	}
	return errors.Join(errs...)
}

// publish makes a stage the current version, or where its base was replaced, a noncurrent one beside it.
func (c *Catalog) publish(ctx context.Context, s Stage) error {
	spans := append(s.Put.spans(), stageLatch(s.StageKey), keyLatch(s.Put.Bucket, s.Put.Version.Key))
	lost := ""
	_, err := c.write(ctx, Op{}, spans, func(e *evaluation) error {
		lost = ""
		now, err := e.stage(s.StageKey)
		if err != nil || now == nil {
			return err
		}
		t, err := e.target(s.Put.Bucket, s.Put.Version.Key)
		if errors.Is(err, ErrNoSuchBucket) {
			lost = "its bucket is gone"
			return e.dropStage(s.StageKey, nil)
		}
		if err != nil {
			return err
		}
		if err := s.Put.If.check(t.current); err != nil {
			lost = "a newer version was there: kept as a noncurrent one"
			err = e.keepBeside(t, s.Put)
			if err != nil {
				return err
			}
		} else if _, _, err := e.put(s.Put); err != nil {
			return err
		}
		return e.dropStage(s.StageKey, s.Own)
	})
	if err != nil {
		return fmt.Errorf("publish the stage of %q: %w", s.Put.Version.Key, err)
	}
	if lost != "" {
		c.log.Warn("stage was not published", "bucket", uint64(s.Put.Bucket), "key", s.Put.Version.Key,
			"session", s.Session, "reason", lost)
	}
	return nil
}

// keepBeside keeps a version next to its base in age, below what is newer.
func (e *evaluation) keepBeside(t target, p Put) error {
	random, err := e.c.random()
	if err != nil {
		return err
	}
	v, body := fromVersion(p.Version)
	v.Id = &record.ID{Clock: p.If.Base.Clock, Random: uint32(random)}
	if v.Id.Random == p.If.Base.Random {
		v.Id.Random++
	}
	v.Null = false
	if p.Keeps {
		v.Shared = true
		if err := e.shareBase(p); err != nil {
			return err
		}
	}
	if err := e.adopts(p); err != nil {
		return err
	}
	e.setBody(t, v, body)
	e.plan.PutRecord(versionRow(t.bucket, t.key, v.Id), v)
	u := t.usage(e)
	u.Versions++
	u.VersionBytes += v.Size
	if t.current != nil {
		return nil
	}
	newest, err := e.newestNoncurrent(t.bucket, t.key, 1)
	if err != nil {
		return err
	}
	if len(newest) == 0 || !newest[0].DeleteMarker {
		_, err = e.mark(t) // the key was deleted: it must stay so
	}
	return err
}

// shareBase leaves the chunks of a base to sweep, wherever the base is now.
func (e *evaluation) shareBase(p Put) error {
	key := p.Version.Key
	v, isCurrent, err := e.find(p.Bucket, key, fromID(p.If.Base), false)
	if err != nil {
		return err
	}
	if v != nil {
		v.Shared = true
		row := currentRow(p.Bucket, key)
		if !isCurrent {
			row = versionRow(p.Bucket, key, v.Id)
		}
		e.plan.PutRecord(row, v)
		return nil
	}
	return e.freedRowsOf(p.Bucket, key, func(row []byte, r *record.Freed) {
		if !sameID(r.Version, fromID(p.If.Base)) {
			return
		}
		waiting := append([]byte(nil), row...)
		waiting[0] = record.FamilyWaiting
		e.plan.MoveRow(append([]byte(nil), row...), waiting)
	})
}

// freedRowsOf calls fn with the freed rows of a key that wait for their time.
func (s state) freedRowsOf(bucket BucketID, key string, fn func(row []byte, r *record.Freed)) error {
	prefix := record.KeyRow(record.FamilyFreed, uint64(bucket), key)
	it := s.r.Iterate(kv.Span{Start: prefix, End: record.After(prefix)})
	defer it.Close()
	for it.Next() {
		var r record.Freed
		if err := proto.Unmarshal(it.Value(), &r); err != nil {
			return fmt.Errorf("freed row %x: %w", it.Key(), err)
		}
		fn(it.Key(), &r)
	}
	return it.Err()
}
