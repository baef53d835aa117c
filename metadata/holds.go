package metadata

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/metadata/record"
	"github.com/holdfast/holdfast/metadata/tablet"
)

// zeroSeconds is the zero time.Time in seconds.
var zeroSeconds = time.Time{}.Unix()

// Who holds a lineage: the last but one number of a hold row.
const (
	heldByReader = 0 // then follows the clock of the version
	heldByStage  = 1 // then follows the inode
)

func holdPrefix(bucket uint64, l *record.ID) []byte {
	return record.Local(record.LocalHold, bucket, l.GetClock(), uint64(l.GetRandom()))
}

func holdRow(bucket uint64, l *record.ID, session, who, n uint64) []byte {
	row := holdPrefix(bucket, l)
	for _, number := range []uint64{session, who, n} {
		row = binary.BigEndian.AppendUint64(row, number)
	}
	return row
}

func stageHoldRow(s *record.Stage, k StageKey) []byte {
	return holdRow(s.Bucket, s.Lineage, k.Session, heldByStage, k.Inode)
}

// ownedHoldRow is where a session finds its hold of a version: its value is the hold row.
func ownedHoldRow(session uint64, bucket BucketID, id VersionID) []byte {
	row := append(record.Local(record.LocalOwned, session), ownedHold)
	row = binary.BigEndian.AppendUint64(row, uint64(bucket))
	return record.AppendID(row, id.Clock, id.Random)
}

// anyHold tells whether anything is held at all.
func (s state) anyHold() (bool, error) {
	it := s.r.Iterate(kv.Span{Start: record.Local(record.LocalHold), End: record.Local(record.LocalHold + 1)})
	defer it.Close()
	return it.Next(), it.Err()
}

// held tells whether a lineage is held.
func (s state) held(bucket BucketID, l *record.ID) (bool, error) {
	if l == nil {
		return false, nil
	}
	prefix := holdPrefix(uint64(bucket), l)
	it := s.r.Iterate(kv.Span{Start: prefix, End: record.After(prefix)})
	defer it.Close()
	return it.Next(), it.Err()
}

func (s state) fenced(session uint64) (bool, error) { return tablet.Fenced(s.r, session) }

// lineageOf finds the lineage of a version that is there, or whose chunks wait to be freed: not before the time
// returned, which is zero for a version that is there.
func (s state) lineageOf(bucket BucketID, key string, id VersionID) (*record.ID, time.Time, error) {
	v, _, err := s.find(bucket, key, fromID(id), false)
	if err != nil {
		return nil, time.Time{}, err
	}
	if v != nil {
		return lineage(v), time.Time{}, nil
	}
	var found *record.ID
	var until time.Time
	err = s.freedRowsOf(bucket, key, func(row []byte, r *record.Freed) {
		notBefore, rowErr := record.FreedNotBefore(row)
		if rowErr == nil && sameID(r.Version, fromID(id)) {
			found, until = r.Lineage, time.Unix(0, notBefore)
		}
	})
	if err == nil && found == nil {
		err = fmt.Errorf("version %v of %q: %w", id, key, ErrNoSuchVersion)
	}
	return found, until, err
}

// Hold keeps the chunks of a version from being deleted, until Release or the session's end, however often it is
// replaced or removed meanwhile. It must come while the version exists or within FreeAfter of its removal, else
// ErrNoSuchVersion. Holds are counted: each needs its Release.
func (c *Catalog) Hold(ctx context.Context, session uint64, bucket BucketID, key string, id VersionID) error {
	if !c.sessions.alive(session) {
		return fmt.Errorf("hold %q: %w", key, ErrSessionFenced)
	}
	var until time.Time
	spans := []latchSpan{keyLatch(bucket, key), holdLatch(session, id)}
	out, err := c.write(ctx, OpFrom(ctx), spans, func(e *evaluation) error {
		if fenced, err := e.fenced(session); err != nil || fenced {
			return errors.Join(err, ErrSessionFenced)
		}
		var l *record.ID
		var err error
		if l, until, err = e.lineageOf(bucket, key, id); err != nil {
			return err
		}
		e.plan.Result.Modified = fromTime(until)
		row := holdRow(uint64(bucket), l, session, heldByReader, id.Clock)
		count, err := e.holdCount(row)
		if err != nil {
			return err
		}
		e.plan.Put(row, appendUint64(nil, count+1))
		e.plan.Put(ownedHoldRow(session, bucket, id), row)
		return nil
	})
	if err != nil {
		return fmt.Errorf("hold %q: %w", key, err)
	}
	// A hold that was committed before the time of the freed row is seen by everyone who asks for rows after it.
	until = toTime(out.Modified)
	if until.IsZero() || c.config.Now().Before(until) {
		return nil
	}
	err = fmt.Errorf("hold %q: %w", key, ErrNoSuchVersion)
	if out.repeated {
		return err // the first try came too late too, and took it back, or it ends with the session
	}
	return errors.Join(err, c.release(ctx, Op{}, session, bucket, key, id))
}

func holdLatch(session uint64, id VersionID) latchSpan {
	return one("h" + string(appendUint64(appendUint64(nil, session), id.Clock)))
}

func (s state) holdCount(row []byte) (uint64, error) {
	v, err := s.r.Get(row)
	if errors.Is(err, kv.ErrNotFound) {
		return 0, nil
	}
	if err == nil && len(v) != 8 {
		err = record.ErrKey
	}
	if err != nil {
		return 0, fmt.Errorf("hold row %x: %w", row, err)
	}
	return binary.BigEndian.Uint64(v), nil
}

// Release takes one Hold back. Releasing what is not held is no error.
func (c *Catalog) Release(ctx context.Context, session uint64, bucket BucketID, key string, id VersionID) error {
	return c.release(ctx, OpFrom(ctx), session, bucket, key, id)
}

func (c *Catalog) release(ctx context.Context, op Op, session uint64, bucket BucketID, key string, id VersionID) error {
	_, err := c.write(ctx, op, []latchSpan{holdLatch(session, id)}, func(e *evaluation) error {
		owned := ownedHoldRow(session, bucket, id)
		row, err := e.r.Get(owned)
		if errors.Is(err, kv.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		count, err := e.holdCount(row)
		if err != nil {
			return err
		}
		if count > 1 {
			e.plan.Put(row, appendUint64(nil, count-1))
			return nil
		}
		e.plan.Delete(row)
		e.plan.Delete(owned)
		return nil
	})
	if err != nil {
		return fmt.Errorf("release %q: %w", key, err)
	}
	return nil
}

// releaseBatch is the most holds that one command takes back.
const releaseBatch = 1024

// releaseAll takes back the holds of a session that ended.
func (c *Catalog) releaseAll(ctx context.Context, session uint64) error {
	for more := true; more; {
		_, err := c.write(ctx, Op{}, nil, func(e *evaluation) error {
			keys, rows, err := e.owned(session, ownedHold)
			if err != nil {
				return err
			}
			more = len(keys) > releaseBatch
			for i := range min(len(keys), releaseBatch) {
				e.plan.Delete(rows[i])
				e.plan.Delete(append(append(record.Local(record.LocalOwned, session), ownedHold), keys[i]...))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
