package metadata

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/metadata/record"
	"github.com/holdfast/holdfast/metadata/tablet"
)

// Kinds of sessions, as in record.SessionRow.
const (
	clientSession = 0
	ownSession    = 1
)

// maxLease bounds a session's lease: what it holds is freed that long after its owner died.
const maxLease = 24 * time.Hour

// maxSessionName bounds the name of a session in bytes.
const maxSessionName = 256

// sessionTable knows the sessions that are open. Renewals live here alone: after a restart every session gets its
// lease anew, so a renewal costs no command.
type sessionTable struct {
	mu   sync.Mutex
	open map[uint64]*sessionState
}

type sessionState struct {
	name    string        // "": nobody takes it up again
	lease   time.Duration // 0: it never runs out
	renewed time.Time
	ending  bool
}

func (s *sessionState) over(now time.Time) bool {
	return s.ending || (s.lease > 0 && now.Sub(s.renewed) > s.lease)
}

func (t *sessionTable) add(id uint64, s *sessionState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[uint64]*sessionState)
	}
	t.open[id] = s
}

// alive tells whether writes of a session may begin. The tablet's fence decides in the end.
func (t *sessionTable) alive(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.open[id]
	return s != nil && !s.ending
}

func (t *sessionTable) renew(id uint64, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.open[id]
	if s == nil || s.over(now) {
		return false
	}
	s.renewed = now
	return true
}

// take renews the newest session of a name and returns it, 0 when none is alive.
func (t *sessionTable) take(name string, now time.Time) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var newest uint64
	for id, s := range t.open {
		if s.name == name && id > newest && !s.over(now) {
			newest = id
		}
	}
	if newest != 0 {
		t.open[newest].renewed = now
	}
	return newest
}

// endIfOver marks a session as ending if it is over still: it may have been renewed since it was found.
func (t *sessionTable) endIfOver(id uint64, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.open[id]
	if s == nil || !s.over(now) {
		return false
	}
	s.ending = true
	return true
}

// end marks a session as ending and tells whether it was known.
func (t *sessionTable) end(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.open[id]
	if s != nil {
		s.ending = true
	}
	return s != nil
}

func (t *sessionTable) forget(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, id)
}

// overdue lists the sessions that must end.
func (t *sessionTable) overdue(now time.Time) []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []uint64
	for id, s := range t.open {
		if s.over(now) {
			ids = append(ids, id)
		}
	}
	return ids
}

// lowest is the lowest session that is open, other than without; 0 when there is none.
func (t *sessionTable) lowest(without uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var low uint64
	for id := range t.open {
		if id != without && (low == 0 || id < low) {
			low = id
		}
	}
	return low
}

func sessionName(id uint64) string { return fmt.Sprintf("%016x", id) }

// openLatch is held while a session is opened and while the watermark is moved: no session is born below it.
func openLatch() latchSpan { return one(latchSessions) }

// OpenSession makes a session with a lease: it ends when it was not renewed for that long, or by CloseSession. Its
// number goes into Op.Session, and Op.Seq counts its writes, at most 4,096 of them under way at once.
func (c *Catalog) OpenSession(ctx context.Context, lease time.Duration) (uint64, error) {
	if lease <= 0 || lease > maxLease {
		return 0, fmt.Errorf("lease of %v: it must be above zero and at most %v", lease, maxLease)
	}
	return c.openSession(ctx, clientSession, "", lease)
}

// TakeSession returns the session of a name, its lease begun anew: the one that is open, also since before a restart,
// or a new one. Whoever uses a name goes on with its sequence numbers, stages and uploads.
func (c *Catalog) TakeSession(ctx context.Context, name string, lease time.Duration) (uint64, error) {
	if lease <= 0 || lease > maxLease || name == "" || len(name) > maxSessionName {
		return 0, fmt.Errorf("session %q with a lease of %v: a name of 1 to %d bytes and a lease above zero and at most %v are needed",
			name, lease, maxSessionName, maxLease)
	}
	return c.openSession(ctx, clientSession, name, lease)
}

func (c *Catalog) openSession(ctx context.Context, kind uint32, name string, lease time.Duration) (id uint64, err error) {
	err = c.during(ctx, func(ctx context.Context) error {
		id, err = c.newSession(ctx, kind, name, lease)
		return err
	})
	return id, err
}

func (c *Catalog) newSession(ctx context.Context, kind uint32, name string, lease time.Duration) (uint64, error) {
	held, err := c.latches.acquire(ctx, openLatch())
	if err != nil {
		return 0, err
	}
	defer c.latches.release(held)
	if name != "" {
		if id, err := c.takeNamed(ctx, name); id != 0 || err != nil {
			return id, err
		}
	}
	id, err := c.root.Allocate(ctx, root.SessionIDs)
	if err != nil {
		return 0, unavailable(err)
	}
	value, err := proto.Marshal(&record.SessionRow{Kind: kind, LeaseNanos: int64(lease), Name: []byte(name)})
	if err != nil {
		return 0, fmt.Errorf("encode session: %w", err)
	}
	if _, err := c.root.PutRow(ctx, root.Row{Kind: root.Sessions, Name: sessionName(id), Value: value}); err != nil {
		return 0, fmt.Errorf("open session: %w", unavailable(err))
	}
	// A Catalog of a later term that read the sessions before this one was among them would not know it. The row of one
	// that is not given out ends with its lease.
	if _, err := c.barrier(ctx); err != nil {
		return 0, fmt.Errorf("open session: %w", unavailable(err))
	}
	c.sessions.add(id, &sessionState{name: name, lease: lease, renewed: c.config.Now()})
	return id, nil
}

// takeNamed finds the open session of a name, 0 when there is none. One whose end had begun before a restart is fenced.
func (c *Catalog) takeNamed(ctx context.Context, name string) (uint64, error) {
	id := c.sessions.take(name, c.config.Now())
	if id == 0 {
		return 0, nil
	}
	s, err := c.read(ctx)
	if err != nil {
		return 0, err
	}
	fenced, err := s.fenced(id)
	if err != nil {
		return 0, unavailable(err)
	}
	if fenced {
		c.sessions.end(id) // Run goes on with its end
		return 0, nil
	}
	return id, nil
}

// loadSessions reads the sessions that an earlier Catalog left. Its own ended with it.
func (c *Catalog) loadSessions(ctx context.Context) error {
	rows, err := c.root.Rows(ctx, root.Sessions, "", "", 0)
	if err != nil {
		return unavailable(err)
	}
	for _, row := range rows {
		var r record.SessionRow
		id, err := strconv.ParseUint(row.Name, 16, 64)
		if err == nil {
			err = proto.Unmarshal(row.Value, &r)
		}
		if err != nil {
			return fmt.Errorf("session row %q: %w", row.Name, err)
		}
		c.sessions.add(id, &sessionState{
			name: string(r.Name), lease: time.Duration(r.LeaseNanos), renewed: c.config.Now(), ending: r.Kind == ownSession,
		})
	}
	return nil
}

// RenewSession begins a session's lease anew. ErrSessionFenced says that it is over.
func (c *Catalog) RenewSession(ctx context.Context, id uint64) error {
	if _, err := c.barrier(ctx); err != nil {
		return fmt.Errorf("renew session %d: %w", id, unavailable(err))
	}
	if !c.sessions.renew(id, c.config.Now()) {
		return fmt.Errorf("renew session %d: %w", id, ErrSessionFenced)
	}
	return nil
}

// CloseSession ends a session: its writes are refused from now on, its stages are published, its uploads aborted, its
// holds released. Closing a session that is over is no error.
func (c *Catalog) CloseSession(ctx context.Context, id uint64) error {
	if id == c.session {
		return errors.New("the catalog's own session ends with it")
	}
	if _, err := c.barrier(ctx); err != nil {
		return fmt.Errorf("end session %d: %w", id, unavailable(err))
	}
	if !c.sessions.end(id) {
		return nil
	}
	return c.endSession(ctx, id)
}

// endSession does all that ends a session. Every step may be repeated, after a crash and by two Catalogs at once: the
// root row goes last, after the tablet accepted all the others.
func (c *Catalog) endSession(ctx context.Context, id uint64) error {
	return c.during(ctx, func(ctx context.Context) error { return c.stepsOfEnd(ctx, id) })
}

func (c *Catalog) stepsOfEnd(ctx context.Context, id uint64) error {
	held, err := c.latches.acquire(ctx, sessionLatches(id)...)
	if err != nil {
		return err
	}
	defer c.latches.release(held)
	c.sessions.end(id)
	_, err = c.write(ctx, Op{}, nil, func(e *evaluation) error {
		if already, err := tablet.Fenced(e.r, id); err != nil || already {
			return err
		}
		e.plan.Fence(id)
		return nil
	})
	for _, step := range []func(context.Context, uint64) error{
		c.publishStages, c.abortOwned, c.releaseAll, c.clearSession,
	} {
		if err != nil {
			return fmt.Errorf("end session %d: %w", id, err)
		}
		err = step(ctx, id)
	}
	if err == nil {
		err = c.root.DeleteRow(ctx, root.Sessions, sessionName(id), 0)
	}
	if err != nil {
		return fmt.Errorf("end session %d: %w", id, unavailable(err))
	}
	c.sessions.forget(id)
	return nil
}

// clearSession forgets the results of a session and moves the watermark of fenced sessions.
func (c *Catalog) clearSession(ctx context.Context, id uint64) error {
	_, err := c.write(ctx, Op{}, []latchSpan{openLatch()}, func(e *evaluation) error {
		e.plan.Clear(record.Local(record.LocalSlot, id), record.Local(record.LocalSlot, id+1))
		if low := c.sessions.lowest(id); low > 0 {
			e.plan.FenceBelow(low)
		}
		return nil
	})
	return err
}

// Kinds of rows that end with a session.
const (
	ownedUpload = 'u'
	ownedHold   = 'h'
)

// ownedUploadRow names an internal upload of a session: the key of its header row follows.
func ownedUploadRow(session uint64, bucket BucketID, key string, id UploadID) []byte {
	row := append(record.Local(record.LocalOwned, session), ownedUpload)
	return append(row, record.UploadRow(record.FamilyUploads, uint64(bucket), key, fromUploadID(id))...)
}

// owned lists what a session owns of one kind: the rest of each row's key, and its value.
func (s state) owned(session uint64, kind byte) (keys, values [][]byte, err error) {
	prefix := append(record.Local(record.LocalOwned, session), kind)
	it := s.r.Iterate(kv.Span{Start: prefix, End: record.After(prefix)})
	defer it.Close()
	for it.Next() {
		keys = append(keys, append([]byte(nil), it.Key()[len(prefix):]...))
		values = append(values, append([]byte(nil), it.Value()...))
	}
	return keys, values, it.Err()
}

// abortOwned aborts the internal uploads of a session.
func (c *Catalog) abortOwned(ctx context.Context, session uint64) error {
	s, err := c.read(ctx)
	if err != nil {
		return err
	}
	rows, _, err := s.owned(session, ownedUpload)
	if err != nil {
		return unavailable(err)
	}
	for _, row := range rows {
		bucket, key, rest, err := record.SplitKeyRow(row)
		if err != nil {
			return fmt.Errorf("upload row %x: %w", row, err)
		}
		id, _, err := record.ParseUploadID(rest)
		if err != nil {
			return fmt.Errorf("upload row %x: %w", row, err)
		}
		err = c.abort(ctx, BucketID(bucket), key, toUploadID(id), Op{})
		if err != nil && !errors.Is(err, ErrNoSuchUpload) {
			return err
		}
	}
	return nil
}
